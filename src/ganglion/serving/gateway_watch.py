"""Finds gateways that have stopped without having ended, so that their connections do not wait for an answer for long.

The event loop of each gateway beats in memory that it shares with the controller. A missed beat alone says little: a
process that computes, or waits for a core or a disk, beats late. One that misses its beats, uses no processor and
waits for nothing is stopped, frozen, or its loop hangs; it is killed, and its supervisor starts another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from ganglion.core.log import get_logger

SILENT_FOR = 2.0
"""Seconds without a beat after which a gateway is held to have stopped."""

_LOOKS = 4
"""Looks that have to agree: where the controller itself did not run for a while, a single one does not decide."""

_BUSY = 0.05
"""Part of a core from which a gateway is held to be at something."""

_AT_WORK = (b"R", b"D")
"""States of a thread that is at a core or waits for one, or that waits for a disk, as the kernel writes them."""

_log = get_logger(part="serving.controller")


class Sign(NamedTuple):
    """What can be seen of a gateway from outside.

    Attributes:
        beat: changes while its event loop turns.
        processor: seconds of a core that it has used so far.
        idle: whether it is stopped or asleep: not at a core, nor waiting for one or for a disk.
    """

    beat: int
    processor: float
    idle: bool


class Silence:
    """Decides about one gateway; no clock, no input or output."""

    def __init__(self) -> None:
        self._first: Sign | None = None
        self._since = 0.0
        self._looks = 0

    def lasts(self, sign: Sign, now: float) -> bool:
        """Whether the gateway has been silent for so long that it has to be replaced.

        Args:
            sign: what is seen now.
            now: monotonic seconds.
        """
        first, elapsed = self._first, now - self._since
        if (
            first is None
            or not sign.idle
            or sign.beat != first.beat
            or sign.processor - first.processor > _BUSY * max(elapsed, SILENT_FOR)
        ):
            self._first, self._since, self._looks = sign, now, 0
            return False
        self._looks += 1
        return self._looks >= _LOOKS and elapsed >= SILENT_FOR


class GatewayWatch:
    """Looks after the gateway processes of this machine.

    Args:
        beats: the last beat of each gateway by the id of its process; who does not beat yet is not there.
        ended: told the id of a process that has ended.
    """

    def __init__(self, beats: Callable[[], Mapping[int, int]], ended: Callable[[int], None]) -> None:
        self._beats = beats
        self._ended = ended
        self._gateways: dict[str, tuple[psutil.Process, Silence]] = {}

    def begin(self, member: str, pid: int) -> None:
        """A gateway was started."""
        try:
            self._gateways[member] = psutil.Process(pid), Silence()
        except psutil.NoSuchProcess:
            self.end(member)

    def end(self, member: str) -> None:
        """A gateway has ended."""
        known = self._gateways.pop(member, None)
        if known is not None:
            self._ended(known[0].pid)

    def look(self, now: float) -> None:
        """Kill the gateways that have stopped.

        Args:
            now: monotonic seconds.
        """
        beats = self._beats()
        for member, (process, silence) in tuple(self._gateways.items()):
            try:
                sign = _sign(process, beats)
                if sign is not None and silence.lasts(sign, now):
                    _log.warning("gateway_stopped", gateway=member, pid=process.pid, silent=SILENT_FOR)
                    process.kill()
                    self.end(member)  # it is not killed twice
            except psutil.Error as error:  # it has just ended, which its supervisor knows
                _log.info("gateway_not_seen", gateway=member, error=type(error).__name__)
                self.end(member)


def _sign(process: psutil.Process, beats: Mapping[int, int]) -> Sign | None:
    """What is seen of a process; `None` while it does not beat yet."""
    beat = beats.get(process.pid)
    if beat is None:
        return None
    with process.oneshot():
        times = process.cpu_times()
        return Sign(beat, times.user + times.system, _is_idle(process.pid))


def _is_idle(pid: int) -> bool:
    """Whether every thread of a process is stopped or asleep: any of them may hold up the event loop."""
    states = []
    for file in Path(f"/proc/{pid}/task").glob("*/stat"):
        with suppress(OSError):  # a thread that has just ended
            states.append(file.read_bytes().rpartition(b")")[2].split()[0])
    if not states:  # not Linux
        return psutil.Process(pid).status() in (psutil.STATUS_STOPPED, psutil.STATUS_SLEEPING, psutil.STATUS_IDLE)
    return not any(state in _AT_WORK for state in states)
