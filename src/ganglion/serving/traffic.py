"""What a gateway tells the controller about the answers of versions that are compared with each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

TRAFFIC = "traffic"
"""Key of the report in which a gateway gives the traffic of versions that are compared."""

_FIRST = 1e-4
"""Seconds: upper bound of the first bucket."""

_RATIO = math.log(1.1)
"""Each bucket ends ten percent above the one before: a percentile is known to within ten percent."""


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """Answers of one version, of requests that asked for none and were given to it.

    What the caller did wrong (4xx) is in none of the figures.

    Attributes:
        model: name of the model.
        version: number of the version.
        requests: that were answered.
        errors: of them with a 5xx status.
        seconds: how many of the others fell into which bucket, by its number.
    """

    model: str
    version: int
    requests: int = 0
    errors: int = 0
    seconds: dict[int, int] = {}


def bucket_of(seconds: float) -> int:
    """Number of the bucket that a time falls into."""
    return max(0, math.ceil(math.log(max(seconds, _FIRST) / _FIRST) / _RATIO - 1e-9))


def percentile(buckets: Mapping[int, int], percent: float) -> float:
    """Upper bound in seconds of the bucket in which a percentile lies; NaN where nothing was counted.

    Args:
        buckets: counts by number of the bucket.
        percent: from 0 to 100.
    """
    wanted = math.ceil(sum(buckets.values()) * percent / 100)
    for number in sorted(buckets):
        wanted -= buckets[number]
        if wanted <= 0:
            return _FIRST * math.exp(_RATIO * number)
    return math.nan


def traffic_to_data(traffic: Sequence[Traffic]) -> Any:
    """Plain data, for a report."""
    return msgspec.to_builtins(traffic)


def traffic_from_data(data: Any) -> list[Traffic]:
    """Read what `traffic_to_data` wrote."""
    return msgspec.convert(data, list[Traffic])
