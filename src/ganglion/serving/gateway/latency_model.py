"""How long a replica takes for a batch, learnt while it works. No clock: seconds are passed in."""

from __future__ import annotations

_MEMORY = 0.98
"""Weight of an observation after one more: the last fifty or so count."""

_SURPRISE = 8.0
"""Times the expected seconds that one observation counts for at most: a replica that was stopped did not get slow."""

_MARGIN = 3.0
"""Mean deviations that are added where a promise depends on it, at least."""

_RISE = 0.25
"""Part of what a batch took longer than expected with its reserve by which the reserve grows."""

_FALL = 0.00025
"""Part of the reserve that is dropped with each batch that did not need all of it.

Where one batch in a thousand exceeds it by as much again, it stays as it is.
"""

_GAIN = 0.1
"""Part of a batch's seconds that its fixed part is in a batch from which a larger one gains hardly anything."""

_ENOUGH = 5.0
"""Weight of observations from which a line is believed."""

_TWICE = 1.5
"""Weight of two observations."""


class LatencyModel:
    """Seconds for a batch as a line over its instances: exponentially weighted least squares.

    Both the fixed part and the part of each instance are held to be at least zero. Before anything has been observed it
    expects nothing: every batch is free.

    Attributes:
        known: whether it has seen enough to be told from another.
        deviation: mean absolute difference from what was expected, seconds.
        fastest: seconds and instances of the fastest batch.
    """

    def __init__(self) -> None:
        self._weight = 0.0
        self._rows = 0.0
        self._seconds = 0.0
        self._rows_squared = 0.0
        self._product = 0.0
        self._fixed = 0.0
        self._each = 0.0
        self.known = False
        self.deviation = 0.0
        self.fastest = float("inf"), 0
        self._tail = 0.0

    @property
    def tried(self) -> bool:
        """Whether it has seen two batches: enough for a suspicion."""
        return self._weight > _TWICE

    @property
    def margin(self) -> float:
        """Seconds beyond the expected ones that a batch hardly ever takes: what one in a thousand exceeds.

        Whoever lets requests in keeps so much in reserve; once it is used up by a delay, they are tried all the same.
        """
        return max(_MARGIN * self.deviation, self._tail)

    @property
    def observed(self) -> bool:
        """Whether it knows anything."""
        return self._weight > 0.0

    def observe(self, rows: int, seconds: float) -> None:
        """A batch of `rows` instances took `seconds`."""
        if seconds <= self.fastest[0]:
            self.fastest = min(self.fastest, (seconds, rows))
        if self._weight > 0.0:
            expected = self._fixed + self._each * rows
            most = _SURPRISE * max(expected, 1e-6)
            if seconds > most:
                seconds = most
            self.deviation += (1.0 - _MEMORY) * 2.0 * (abs(seconds - expected) - self.deviation)
            excess = seconds - expected - self._tail
            self._tail += _RISE * excess if self.known and excess > 0.0 else -_FALL * self._tail
        self._weight = _MEMORY * self._weight + 1.0
        self.known = self._weight > _ENOUGH
        self._rows = _MEMORY * self._rows + rows
        self._seconds = _MEMORY * self._seconds + seconds
        self._rows_squared = _MEMORY * self._rows_squared + rows * rows
        self._product = _MEMORY * self._product + rows * seconds
        self._fit()

    def predict(self, rows: int) -> float:
        """Seconds expected for a batch of `rows` instances; never less for more instances."""
        return self._fixed + self._each * rows

    def promise(self, rows: int) -> float:
        """Seconds that a batch of `rows` instances is hardly ever slower than."""
        return self._fixed + self._each * rows + _MARGIN * self.deviation

    def largest(self, most: int, seconds: float) -> int:
        """Instances of the largest batch, up to `most`, that is promised within `seconds`; at least 1."""
        if self.promise(most) <= seconds:
            return most
        if self._each <= 0.0:
            return 1
        fitting = (seconds - self._fixed - _MARGIN * self.deviation) / self._each
        return max(1, min(most, int(fitting)))

    def worthwhile(self, most: int) -> int:
        """Instances of a batch, up to `most`, than which a larger one answers hardly more a second."""
        if self._fixed * (1.0 - _GAIN) >= self._each * most * _GAIN:
            return most
        return max(1, int(self._fixed * (1.0 - _GAIN) / (self._each * _GAIN)))

    def most_within(self, most: int, seconds: float) -> int:
        """Instances of the largest batch, up to `most`, that is expected within `seconds`; at least 1."""
        if self.predict(most) <= seconds:
            return most
        return max(1, min(most, int((seconds - self._fixed) / self._each))) if self._each > 0.0 else 1

    def _fit(self) -> None:
        spread = self._weight * self._rows_squared - self._rows * self._rows
        if spread > 1e-9 * self._weight * self._rows_squared:
            each = (self._weight * self._product - self._rows * self._seconds) / spread
        else:
            each = 0.0  # one size only: nothing is known of others
        fixed = (self._seconds - each * self._rows) / self._weight
        if each < 0.0:
            each, fixed = 0.0, self._seconds / self._weight
        elif fixed < 0.0:
            each, fixed = self._product / self._rows_squared, 0.0
        self._each, self._fixed = each, fixed
