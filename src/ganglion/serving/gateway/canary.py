"""Which of two versions answers a request, and what came of it."""

from __future__ import annotations

from collections import Counter
from hashlib import blake2b
from typing import NamedTuple

from ganglion.serving.gateway.endpoint import Endpoint, Tally
from ganglion.serving.gateway.head import Head
from ganglion.serving.gateway.question import Read
from ganglion.serving.routes import CanaryRoute
from ganglion.serving.traffic import Traffic, bucket_of

ROUTE_KEY = b"ganglion-route-key"
"""The header field whose value decides which version answers: a caller that sends the same stays with a version."""

_GOLDEN = 0.6180339887498949
"""Multiples of it, without their whole part, fill the interval from 0 to 1 evenly, however few or many they are."""


class VersionTally(Tally):
    """Counts the answers of a version; what the caller did wrong does not count.

    Args:
        model: name of the model.
        version: number of the version.
    """

    def __init__(self, model: str, version: int) -> None:
        self._model = model
        self._version = version
        self._requests = 0
        self._errors = 0
        self._seconds: Counter[int] = Counter()

    def count(self, status: int, seconds: float) -> None:
        """A request was answered."""
        if 400 <= status < 500:
            return
        self._requests += 1
        if status >= 500:
            self._errors += 1
        else:
            self._seconds[bucket_of(seconds)] += 1

    def take(self) -> Traffic | None:
        """What was counted since the last time, if anything."""
        if not self._requests:
            return None
        traffic = Traffic(
            model=self._model,
            version=self._version,
            requests=self._requests,
            errors=self._errors,
            seconds=dict(self._seconds),
        )
        self._requests = self._errors = 0
        self._seconds.clear()
        return traffic


class CanaryChoice:
    """Gives a part of the requests for a model to another version than the default one.

    Args:
        model: name of the model.
        default: the version that gets the rest.
        route: the version that is tried, and its part.

    Attributes:
        route: as above; the part may change.
        baseline: counts the answers of the default version.
        trial: counts those of the version that is tried.
    """

    def __init__(self, model: str, default: int, route: CanaryRoute) -> None:
        self.key = (model, default, route.version)
        self.route = route
        self.baseline = VersionTally(model, default)
        self.trial = VersionTally(model, route.version)
        self._salt = f"{model}:{route.version}".encode()[:64]
        self._count = 0

    def takes(self, head: Head) -> bool:
        """Whether the version that is tried answers a request.

        A key is digested to a place between 0 and 1 that it keeps: a greater part takes callers over and lets none go,
        and every gateway decides alike. Requests without one are numbered.
        """
        key = head.fields.get(ROUTE_KEY)
        if key is None:
            self._count += 1
            place = self._count * _GOLDEN % 1.0
        else:
            digest = blake2b(key, digest_size=8, key=self._salt).digest()
            place = int.from_bytes(digest, "big") / 2**64
        return 100.0 * place < self.route.percent


class Trial(NamedTuple):
    """The other way in which a request may be answered.

    Attributes:
        choice: decides for each request.
        endpoint: of the version that is tried.
        read: reads the body for it.
    """

    choice: CanaryChoice
    endpoint: Endpoint
    read: Read

    def takes(self, head: Head) -> bool:
        """Whether a request is answered so; never while the version has no replica that could."""
        return self.choice.takes(head) and self.endpoint.pools[0].ready
