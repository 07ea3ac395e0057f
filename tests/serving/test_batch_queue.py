from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ganglion.serving.gateway.batch_queue import BatchQueue
from ganglion.serving.payload import Payload


@dataclass
class Piece:
    number: int
    payload: Payload
    deadline: float = 1.0
    suspect: bool = False
    shard: int | None = None
    settled: bool = field(default=False)


def piece(number: int, rows: int = 1, width: int = 1, **fields: object) -> Piece:
    return Piece(number, Payload(tensors={"a": np.zeros((rows, width), np.uint8)}), **fields)  # type: ignore[arg-type]


arrivals = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 3), st.booleans(), st.booleans()), max_size=30)


@given(arrivals=arrivals, most=st.integers(1, 8))
def test_everything_is_taken_once_in_order_and_never_mixed(
    arrivals: list[tuple[int, int, bool, bool]], most: int
) -> None:
    queue: BatchQueue[Piece] = BatchQueue()
    pieces = [
        piece(number, rows, width, suspect=suspect, settled=settled)
        for number, (rows, width, suspect, settled) in enumerate(arrivals)
    ]
    for item in pieces:
        queue.put(item)
    taken: list[Piece] = []
    while batch := queue.take(most):
        waiting = [item for item in pieces if not item.settled and item not in taken]
        assert batch[0] is waiting[0], "the oldest goes first"
        assert len({item.payload.kind for item in batch}) == 1
        assert sum(item.payload.rows for item in batch) <= most or len(batch) == 1
        assert len(batch) == 1 or not any(item.suspect for item in batch)
        taken += batch
    assert sorted(item.number for item in taken) == [item.number for item in pieces if not item.settled]
    assert (len(queue), queue.rows, queue.size) == (0, 0, 0)


def test_the_largest_batch_there_is_is_taken() -> None:
    queue: BatchQueue[Piece] = BatchQueue()
    for number in range(5):
        queue.put(piece(number, rows=2))
    assert [item.number for item in queue.take(7)] == [0, 1, 2]
    assert [item.number for item in queue.take(7)] == [3, 4]


def test_what_is_put_back_comes_before_everything_else_in_its_old_order() -> None:
    queue: BatchQueue[Piece] = BatchQueue()
    for number in range(4):
        queue.put(piece(number, width=1 + number % 2))
    first, second = queue.take(8), queue.take(8)
    queue.put(piece(4))
    queue.put_back(second)
    queue.put_back(first)
    assert [item.number for item in queue.take(2)] == [0, 2]
    assert [item.number for item in queue.take(8)] == [1, 3]
    assert [item.number for item in queue.take(8)] == [4]


def test_expired_pieces_leave_the_queue_and_its_counts() -> None:
    queue: BatchQueue[Piece] = BatchQueue()
    for number in range(4):
        queue.put(piece(number, rows=3, deadline=float(number)))
    assert [item.number for item in queue.expire(1.0)] == [0, 1]
    assert queue.rows == 6
    assert [item.number for item in queue.take(8)] == [2, 3]
