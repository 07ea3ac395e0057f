"""One sum over processes that only a network connects, bucket by bucket, while vectors are still being computed.

The vectors are cut into buckets, counted from their end, since backward passes end with the first layers. Of each
bucket every process that is fast enough gets one segment, sums it along the tree once all have sent theirs, and sends
the sum to all others. That moves 2 (W - 1) / W of a vector in each direction where every process has one, which no
all-reduce can undercut.

What a process sends is a sequence of records, each with a byte in front that says what it is: its vectors in the next
bucket, its sum of the next bucket, or its note. Both sides know how long the first two are. The note is sent when a
process has nothing more to compute; so nobody can end a reduction before everybody has come to its end.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import accumulate, chain

import torch

from ganglion.core import faults
from ganglion.training.assembly import Bell
from ganglion.training.memory import Slots, bytes_of
from ganglion.training.mesh import DisruptedError, Mesh
from ganglion.training.summation import OrderedSum, shares
from ganglion.training.traffic import Pieces
from ganglion.training.tree import Node, partition

_VECTORS, _SUM, _NOTE = b"v", b"s", b"n"
_LENGTH = struct.Struct(">I")


class Layout:
    """Who sums what for a mapping, and where what arrives for that is put.

    Args:
        spans: the logical workers of each process, by rank.
        rank: of this process.
        logical: number of logical workers.
        slots: the vectors of this process.
        bucket: numbers in a bucket.

    Attributes:
        spans: the mapping.
        begins: where each bucket begins; the first bucket is the last part of a vector.
        segments: by bucket and rank, what that process sums; it may be empty.
        parts: how many vectors each process has, by rank.
    """

    def __init__(self, spans: Sequence[range], *, rank: int, logical: int, slots: Slots, bucket: int) -> None:
        self.spans = tuple(spans)
        offered = partition(spans, logical)
        self.parts = [len(parts) for parts in offered]
        ends = range(max(1, slots.length), 0, -bucket)
        self.begins = [max(0, end - bucket) for end in ends]
        self.segments = [
            [slice(begin + part.start, begin + part.stop) for part in shares(min(end, slots.length) - begin, spans)]
            for begin, end in zip(self.begins, ends, strict=True)
        ]
        nodes: list[Node] = list(chain.from_iterable(offered))
        self._ordered = OrderedSum(nodes, logical, slots.dtype)
        self._own = [slots[slot] for slot in range(self.parts[rank])]
        self._rank = rank
        self._bounds = [0, *accumulate(segments[rank].stop - segments[rank].start for segments in self.segments)]
        others = sum(self.parts) - self.parts[rank]
        self._arrived = torch.empty(others, self._bounds[-1], dtype=slots.dtype)

    def own(self, bucket: int, rank: int) -> list[torch.Tensor]:
        """This process's vectors in the segment that a rank sums."""
        return [vector[self.segments[bucket][rank]] for vector in self._own]

    def room(self, bucket: int, rank: int) -> list[torch.Tensor]:
        """Where the vectors of another rank are put."""
        first = sum(self.parts[other] for other in range(rank) if other != self._rank)
        place = slice(self._bounds[bucket], self._bounds[bucket + 1])
        return [self._arrived[row, place] for row in range(first, first + self.parts[rank])]

    def add(self, bucket: int, result: torch.Tensor) -> None:
        """Sum this process's segment of a bucket."""
        vectors = [
            vector
            for rank in range(len(self.parts))
            for vector in (self.own(bucket, rank) if rank == self._rank else self.room(bucket, rank))
        ]
        self._ordered.add(result[self.segments[bucket][self._rank]], vectors)


class Reduction:
    """A sum that is under way; `run` carries it out, in a thread of its own where there is something left to compute.

    Args:
        mesh: links to the others.
        layout: who sums what.
        result: where the sum is left, not yet divided by anything.
        bell: rung by `complete`, `finish` and `cancel`, where another thread calls them while `run` runs.

    Attributes:
        outgoing: as for `Traffic`, like the next two.
        incoming: as for `Traffic`.
        call: as for `Traffic`.
        notes: what each process had to say beside its vectors, by rank.
    """

    def __init__(self, mesh: Mesh, layout: Layout, result: torch.Tensor, bell: Bell | None = None) -> None:
        self._mesh = mesh
        self._layout = layout
        self._result = result
        self._begin = max(1, len(result))
        self._note: bytes | None = None
        self._cancelled = False
        self._offered = 0
        buckets = range(len(layout.begins))
        rank = mesh.rank
        sums = [bool(_size(layout.segments[bucket][rank])) for bucket in buckets]
        senders = [peer for peer in mesh.peers if layout.parts[peer]]
        self._missing = [1 + (len(senders) if sums[bucket] else 0) for bucket in buckets]
        self._due = len(buckets)
        self._hearing = {peer: self._hear(peer) for peer in mesh.peers}
        self._heard: set[int] = set()
        self._bell = bell
        self.call = bell.descriptor if bell is not None else -1
        self.notes: dict[int, bytes] = {}
        self.outgoing: Mapping[int, Pieces] = {peer: deque() for peer in mesh.peers}
        self.incoming: Mapping[int, Pieces] = {peer: deque() for peer in mesh.peers}
        for peer in mesh.peers:
            self.arrived(peer)

    def complete(self, begin: int) -> None:
        """All vectors of this process are complete from the number `begin` on."""
        self._begin = begin
        self._ring()

    def finish(self, note: bytes) -> None:
        """All vectors are complete, and this is what is said beside them."""
        self._note = note
        self._ring()

    def cancel(self) -> None:
        """Have `run` give up."""
        self._cancelled = True
        self._ring()

    def run(self) -> None:
        """Carry the sum out.

        Raises:
            DisruptedError: somebody is gone, the membership has changed, or it was cancelled.
        """
        self.called()
        self._mesh.carry(self)

    # as `Traffic`

    def arrived(self, rank: int) -> None:
        """Provide room for what comes next."""
        pieces = next(self._hearing[rank], None)
        if pieces is None:
            self._heard.add(rank)
        else:
            self.incoming[rank].extend(pieces)

    def called(self) -> None:
        """Send what has been completed."""
        if self._bell is not None:
            self._bell.silence()
        if self._cancelled:
            raise DisruptedError("The step was given up.")
        note = self._note
        begin = self._begin if note is None else 0
        while self._offered < len(self._layout.begins) and self._layout.begins[self._offered] >= begin:
            # The last bucket waits for the end of the computation: faults at that point belong to a step.
            if note is None and self._offered == len(self._layout.begins) - 1:
                break
            self._offer(self._offered)
            self._offered += 1
        if note is not None and self._mesh.rank not in self.notes:
            self.notes[self._mesh.rank] = note
            self._send(self._mesh.peers, _NOTE, [memoryview(_LENGTH.pack(len(note))), memoryview(note)])

    def over(self) -> bool:
        """Whether everything was sent and has arrived."""
        return not self._due and len(self.notes) == self._mesh.world and not self._pending()

    def awaited(self) -> Collection[int]:
        """Nobody, as long as this process has something to compute itself."""
        return self._pending() if self._note is not None else ()

    def _ring(self) -> None:
        if self._bell is not None:
            self._bell.ring()

    def _pending(self) -> set[int]:
        return {peer for peer in self._mesh.peers if peer not in self._heard or self.outgoing[peer]}

    def _hear(self, peer: int) -> Iterator[list[memoryview]]:
        """Where the bytes of a peer go, piece by piece, until it has said everything."""
        layout, rank = self._layout, self._mesh.rank
        vectors = deque(
            bucket for bucket, segments in enumerate(layout.segments) if layout.parts[peer] and _size(segments[rank])
        )
        sums = deque(bucket for bucket, segments in enumerate(layout.segments) if _size(segments[peer]))
        kind = bytearray(1)
        while vectors or sums or peer not in self.notes:
            yield [memoryview(kind)]
            if kind == _VECTORS:
                yield [bytes_of(vector) for vector in layout.room(vectors[0], peer)]
                self._take(vectors.popleft())
            elif kind == _SUM:
                yield [bytes_of(self._result[layout.segments[sums.popleft()][peer]])]
            else:
                length = bytearray(_LENGTH.size)
                yield [memoryview(length)]
                note = bytearray(_LENGTH.unpack(length)[0])
                if note:
                    yield [memoryview(note)]
                self.notes[peer] = bytes(note)

    def _offer(self, bucket: int) -> None:
        """Send this process's vectors to those who sum them."""
        layout = self._layout
        for peer in self._mesh.peers:
            if layout.parts[self._mesh.rank] and _size(layout.segments[bucket][peer]):
                self._send([peer], _VECTORS, [bytes_of(vector) for vector in layout.own(bucket, peer)])
        self._take(bucket)

    def _take(self, bucket: int) -> None:
        """One process more has sent its vectors in a bucket; sum it when all have, and send the sum."""
        self._missing[bucket] -= 1
        if self._missing[bucket]:
            return
        self._due -= 1
        if bucket == len(self._layout.begins) - 1:
            faults.point("training.in_reduce", disconnect=self._mesh.disconnect)
        segment = self._layout.segments[bucket][self._mesh.rank]
        if _size(segment):
            self._layout.add(bucket, self._result)
            self._send(self._mesh.peers, _SUM, [bytes_of(self._result[segment])])

    def _send(self, peers: Collection[int], kind: bytes, pieces: Sequence[memoryview]) -> None:
        for peer in peers:
            self.outgoing[peer].extend([memoryview(kind), *filter(len, pieces)])


def _size(segment: slice) -> int:
    return int(segment.stop - segment.start)
