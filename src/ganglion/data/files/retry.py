"""Patience with what is away for a while: attempts are repeated, at growing intervals, for a stated time."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable
from typing import TypeVar

import msgspec

from ganglion.core.errors import DataError, OutageError
from ganglion.core.log import get_logger

Result = TypeVar("Result")

_log = get_logger(part="data")

_PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


class Retry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How a source elsewhere is waited for; it changes when records come, never which.

    Attributes:
        patience: seconds for which one read is repeated before the source counts as away.
        timeout: seconds without an answer after which one attempt has failed.
        first_delay: seconds before the second attempt, at most; doubled for each further one.
        most_delay: largest delay, seconds.

    Raises:
        DataError: a number is negative, or the timeout is not positive.
    """

    patience: float = 120.0
    timeout: float = 20.0
    first_delay: float = 0.1
    most_delay: float = 10.0

    def __post_init__(self) -> None:
        if min(self.patience, self.first_delay, self.most_delay) < 0 or self.timeout <= 0:
            raise DataError(f"{self!r}: times are 0 or more, and the timeout is more than 0 seconds.")

    def delay(self, failures: int, jitter: float) -> float:
        """Seconds to wait after so many failures.

        Args:
            failures: 1 or more.
            jitter: from 0 to 1; at random, so that readers that failed together do not come back together.
        """
        longest = min(self.most_delay, self.first_delay * 2.0 ** min(failures - 1, 60))
        return longest * (1 + jitter) / 2


def retried(attempt: Callable[[], Result], retry: Retry, name: str) -> Result:
    """Do something that may fail for a while.

    Args:
        attempt: done again after an `OSError` that may pass: connections, time-outs, servers that are overloaded.
        retry: for how long and at which intervals.
        name: what is read, for messages.

    Raises:
        DataError: a failure that waiting does not mend, such as a missing file.
        OutageError: it kept failing.
    """
    begun = time.monotonic()
    for failures in itertools.count(1):
        try:
            return attempt()
        except _PERMANENT as error:
            raise DataError(f"Cannot read {name}: {error.strerror or error or type(error).__name__}.") from error
        except OSError as error:
            problem = str(error) or type(error).__name__
            delay, away = retry.delay(failures, random.random()), time.monotonic() - begun
            if away + delay > retry.patience:
                raise OutageError(
                    f"{name} could not be read for {away:.1f} seconds ({failures} attempts): {problem}. "
                    "Try again when it is back."
                ) from error
            _log.warning("source_away", name=name, problem=problem, attempt=failures, again_in=round(delay, 3))
            time.sleep(delay)
    raise AssertionError("unreachable: attempts are unlimited")
