"""How many requests a version has in hand, and how many come; no clock: seconds are passed in."""

from __future__ import annotations

from ganglion.serving.load import Load


class LoadMeter:
    """Counts what comes, and looks at what is in hand every now and then.

    Args:
        model: name of the model.
        version: number of the version.
        now: monotonic seconds.
    """

    def __init__(self, model: str, version: int, now: float) -> None:
        self._model = model
        self._version = version
        self._since = now
        self._looks = 0
        self._sum = 0
        self._requests = 0

    def count(self) -> None:
        """A request came."""
        self._requests += 1

    def look(self, waiting: int) -> None:
        """So many are in hand now."""
        self._looks += 1
        self._sum += waiting

    def take(self, now: float, waiting: int) -> Load:
        """What was observed since the last time; `waiting` are in hand now."""
        self.look(waiting)
        load = Load(
            model=self._model,
            version=self._version,
            seconds=now - self._since,
            concurrency=self._sum / self._looks,
            requests=self._requests,
            waiting=waiting,
        )
        self._since, self._looks, self._sum, self._requests = now, 0, 0, 0
        return load
