"""The collective of processes on several hosts.

Where vectors are long, a thread exchanges their ends while their beginnings are still being computed (`reduction`).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch

from ganglion.training.assembly import Bell
from ganglion.training.collective import Complete, Divisor, Reduced
from ganglion.training.memory import Slots
from ganglion.training.mesh import Mesh
from ganglion.training.reduction import Layout, Reduction
from ganglion.training.summation import divide

BUCKET = 2**19
"""Numbers that are exchanged at a time: some milliseconds on a fast network, and more than a thread costs."""


class TcpCollective:
    """Processes whose memory only the network connects.

    Args:
        mesh: their links.
        slots: the vectors of this process.
        logical: number of logical workers.
    """

    def __init__(self, mesh: Mesh, slots: Slots, *, logical: int) -> None:
        self.rank, self.world = mesh.rank, mesh.world
        self.result = torch.zeros(slots.length, dtype=slots.dtype)
        self._mesh = mesh
        self._slots = slots
        self._logical = logical
        self._layout: Layout | None = None
        self._bell = Bell()
        self._begun: _Background | None = None

    def overlap(self, spans: Sequence[range]) -> Complete | None:
        """Exchange in a thread what is complete, where there is more than one bucket."""
        assert self._begun is None, "the last one has ended"
        if self.world == 1 or self._slots.length <= BUCKET:
            return None
        self._begun = _Background(self._reduction(spans, self._bell))
        return self._begun.reduction.complete

    def reduce(self, spans: Sequence[range], note: bytes, divisor: Divisor) -> Reduced:
        """Exchange what has not been, and divide the sum."""
        begun, self._begun = self._begun, None
        reduction = begun.reduction if begun is not None else self._reduction(spans)
        if begun is not None:
            begun.finish(note)
        else:
            reduction.finish(note)
            reduction.run()
        notes = [reduction.notes[rank] for rank in range(self.world)]
        return Reduced(notes, divide(self.result, divisor(notes)))

    def gather(self, value: bytes) -> list[bytes]:
        """Exchange messages."""
        return self._mesh.exchange(value)

    def close(self) -> None:
        """End the links."""
        if self._begun is not None:
            self._begun.cancel()
            self._begun = None
        self._bell.close()
        self._mesh.close()

    def _reduction(self, spans: Sequence[range], bell: Bell | None = None) -> Reduction:
        if self._layout is None or self._layout.spans != tuple(spans):
            self._layout = Layout(spans, rank=self.rank, logical=self._logical, slots=self._slots, bucket=BUCKET)
        return Reduction(self._mesh, self._layout, self.result, bell)


class _Background:
    """A reduction in a thread of its own, which alone uses the mesh meanwhile.

    Args:
        reduction: not begun, with a bell.
    """

    def __init__(self, reduction: Reduction) -> None:
        self.reduction = reduction
        self._error: BaseException | None = None
        # A daemon, since nobody waits for it where the training fails.
        self._thread = threading.Thread(target=self._run, name="ganglion-reduction", daemon=True)
        self._thread.start()

    def finish(self, note: bytes) -> None:
        """Everything is complete; wait for the sum.

        Raises:
            DisruptedError: as for `Reduction.run`.
        """
        self.reduction.finish(note)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def cancel(self) -> None:
        """Give it up."""
        self.reduction.cancel()
        self._thread.join()

    def _run(self) -> None:
        try:
            self.reduction.run()
        except BaseException as error:  # noqa: BLE001  # raised in the thread that waits for this one
            self._error = error
