"""A process that makes batches for another one."""

from __future__ import annotations

import pickle
import traceback
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ganglion.artifacts.store import Artifact, FolderStore
from ganglion.data.dataset.buffers import BufferPool, Memory
from ganglion.data.dataset.prepared import PreparedDataset
from ganglion.data.loading.batch_maker import BatchMaker, Made, Work
from ganglion.data.loading.object_channel import ObjectChannel
from ganglion.data.loading.slots import Placed, place
from ganglion.data.records.columns import Column
from ganglion.data.transform import Transform

_KEPT = 2**25


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """What data workers need to know to make batches.

    Attributes:
        store: folder of the artifact store.
        dataset: where the records are.
        transforms: what is done to them.
        seed: of random transforms.
        resident: bytes of mapped files that may stay in each worker's memory.
        slot_size: bytes of a slot.
        slots: number of slots.
    """

    store: str
    dataset: Artifact
    transforms: tuple[Transform, ...]
    seed: int
    resident: int | None
    slot_size: int
    slots: int


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """Batches that were made.

    Attributes:
        placed: columns in the slot.
        columns: further columns, such as those without fixed length.
        order: names of all columns.
        made: the rest, with no column in its batch.
    """

    placed: dict[str, Placed]
    columns: dict[str, Any]
    order: tuple[str, ...]
    made: Made


class _OneSlot:
    """The memory of one slot, for a maker whose transforms make no memory of their own."""

    def __init__(self, slot: Memory) -> None:
        self._slot = slot

    def take(self, size: int) -> Memory:
        return self._slot[:size] if size <= len(self._slot) else np.empty(size, np.uint8)


def serve(channel: ObjectChannel, orders: Orders, slots: list[Memory]) -> None:
    """Make what is asked for until the other end is gone.

    Args:
        channel: brings `(slot number, Work)`, takes `Reply` or an exception.
        orders: what to make batches of.
        slots: shared with the process that asks.
    """
    dataset = PreparedDataset(orders.dataset, FolderStore(Path(orders.store)))
    maker = BatchMaker(dataset, orders.transforms, orders.seed, resident=orders.resident)
    pool = BufferPool(_KEPT)
    while True:
        try:
            (number, work), _ = channel.receive()
        except EOFError:
            return
        channel.send(_answer(maker, pool, slots[number], work))


def _answer(maker: BatchMaker, pool: BufferPool, slot: Memory, work: Work) -> Reply | BaseException:
    try:
        made = maker.make(work, pool if maker.may_leave_out else _OneSlot(slot))
        columns = made.batch.columns
        arrays = {name: column for name, column in columns.items() if isinstance(column, np.ndarray)}
        placed, rest = place(arrays, slot)
        others: dict[str, Column] = {
            name: rest.get(name, column) for name, column in columns.items() if name not in placed
        }
        empty = Made(made.batch.having({}), made.ends, made.slots, made.failures)
        return Reply(placed=placed, columns=others, order=tuple(columns), made=empty)
    except Exception as error:  # noqa: BLE001  # it is raised by whoever asked
        return sendable(error)


def sendable(error: BaseException) -> BaseException:
    """An exception that can be sent to another process, with the place where it was raised as a note."""
    error.add_note("In a data worker:\n" + "".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001  # constructors of exceptions may raise anything
        return RuntimeError("".join(traceback.format_exception(error)))
    return error
