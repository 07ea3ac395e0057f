"""Whom `ganglion serve` answers, and how much: the keys of the project and what is said on the command line."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ganglion.core.errors import NotFoundError, UserError

if TYPE_CHECKING:
    from ganglion.serving.callers import CallerLimit, Callers
    from ganglion.serving.controller import ModelServer


class CallerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What is said of callers on the command line.

    Attributes:
        keys: the file with the keys; `None` for that of the project, if it has one.
        anonymous: whether callers without a key are answered at all.
        rate: requests a second of all callers without a key together; 0 for no limit, `None` for what the file says.
        concurrency: their requests in hand at once, likewise.
    """

    keys: Path | None = None
    anonymous: bool = True
    rate: float | None = None
    concurrency: int | None = None

    def __post_init__(self) -> None:
        if not self.anonymous and (self.rate is not None or self.concurrency is not None):
            raise UserError("--no-anonymous refuses callers without a key; a limit for them makes no sense beside it.")
        if self.rate is not None and not math.isfinite(self.rate):
            raise UserError(f"--anonymous-rate is {self.rate}; give requests a second, or 0 for no limit.")

    @property
    def given(self) -> bool:
        """Whether anything was said."""
        return self != CallerOptions()

    def apply(self, callers: Callers) -> Callers:
        """What the file says, changed by what was said."""
        return msgspec.structs.replace(callers, anonymous=self._apply(callers.anonymous))

    def _apply(self, limit: CallerLimit | None) -> CallerLimit | None:
        from ganglion.serving.callers import CallerLimit

        if not self.anonymous:
            return None
        if self.rate is None and self.concurrency is None:
            return limit
        given = {
            name: value or None
            for name, value in (("rate", self.rate), ("concurrency", self.concurrency))
            if value is not None
        }
        return msgspec.structs.replace(limit or CallerLimit(), **given)


@contextmanager
def callers_followed(server: ModelServer, folder: Path, options: CallerOptions) -> Iterator[bool]:
    """Have a server know its callers, and learn of changes of the file within a second; yields whether any are limited.

    Args:
        server: which.
        folder: of the project.
        options: what is said on the command line.

    Raises:
        NotFoundError: the file that was given is not there.
        UserError: it cannot be used.
    """
    from ganglion.serving.key_file import NAME, KeyFile, KeyFileWatch

    path = options.keys if options.keys is not None else folder / NAME
    if options.keys is not None and not path.is_file():
        raise NotFoundError(f"There is no file {path} with keys; 'ganglion keys add NAME --file {path}' makes it.")
    if not options.given and not path.is_file():
        yield False
        return
    watch = KeyFileWatch(KeyFile(path), lambda callers: server.limit(options.apply(callers), wait=False))
    watch.start()
    try:
        yield True
    finally:
        watch.close()
