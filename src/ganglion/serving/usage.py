"""What the replicas of a version use of the cores and the memory that they declare."""

from __future__ import annotations

from ganglion.core.events import MemberSampled
from ganglion.core.resources import Resources


class Usage:
    """The last two samples of every replica."""

    def __init__(self) -> None:
        self._last: dict[str, MemberSampled] = {}
        self._cores: dict[str, float] = {}

    def observe(self, sample: MemberSampled) -> None:
        """A replica told what it has used."""
        before = self._last.get(sample.member)
        self._last[sample.member] = sample
        if before is None or before.attempt != sample.attempt:
            self._cores.pop(sample.member, None)
        elif sample.at > before.at:
            self._cores[sample.member] = (sample.cpu_seconds - before.cpu_seconds) / (sample.at - before.at)

    def forget(self, member: str) -> None:
        """A replica is gone."""
        self._last.pop(member, None)
        self._cores.pop(member, None)

    def percent(self, metric: str, declared: Resources) -> float:
        """Percent of what one replica declares, summed over all replicas.

        Args:
            metric: `cpu` or `memory`.
            declared: by each replica; more than nothing of it.
        """
        if metric == "cpu":
            return 100.0 * sum(self._cores.values()) / declared.cpu
        return 100.0 * sum(sample.memory for sample in self._last.values()) / declared.memory
