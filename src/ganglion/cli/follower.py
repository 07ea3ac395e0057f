"""What the members of a job write, shown while they write it, each line behind its member."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TextIO

Piece = tuple[str, int, bytes]
"""Member, attempt and a part of what it has written; the parts of one attempt come in order, from its beginning."""


class Follower:
    """Shows of growing logs what was not shown yet, in whole lines.

    Args:
        members: everybody that may write, for the width of the first column.
        out: where to show it.
    """

    def __init__(self, members: Sequence[str], out: TextIO) -> None:
        self._width = max(map(len, members), default=0)
        self._out = out
        self._shown: dict[tuple[str, int], int] = {}

    def show(self, pieces: Iterable[Piece], *, last: bool = False) -> None:
        """Show what is new.

        Args:
            pieces: everything that was written so far.
            last: nothing will follow, so that a line without an end is shown too.
        """
        position: dict[tuple[str, int], int] = {}
        pending: dict[tuple[str, int], bytes] = {}
        for member, attempt, data in pieces:
            key = (member, attempt)
            start = position.get(key, 0)
            position[key] = start + len(data)
            unseen = data[max(0, self._shown.get(key, 0) - start) :]
            whole, end, rest = (pending.pop(key, b"") + unseen).rpartition(b"\n")
            if end:
                self._write(member, attempt, whole)
                self._shown[key] = position[key] - len(rest)
            pending[key] = rest
        if last:
            for (member, attempt), rest in pending.items():
                if rest:
                    self._write(member, attempt, rest)
                    self._shown[member, attempt] = position[member, attempt]
        self._out.flush()

    def _write(self, member: str, attempt: int, lines: bytes) -> None:
        label = f"{member:{self._width}}" + (f" attempt {attempt}" if attempt > 1 else "")
        write_lines(self._out, label, lines.split(b"\n"))


def write_lines(out: TextIO, label: str, lines: Iterable[bytes]) -> None:
    """Write lines of a log as a terminal would leave them.

    Args:
        out: where to.
        label: that is put before each.
        lines: without their ends.
    """
    for line in lines:
        on_terminal = line.decode(errors="replace").rstrip("\r").rpartition("\r")[2]  # a bar writes over itself
        out.write(f"{label} | {on_terminal}\n")
