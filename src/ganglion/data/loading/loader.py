"""Fixed global batches of a prepared dataset, in an order that is a formula, for one of any number of ranks.

Which records a global batch has is said in `batch_plan`. What a loader delivers depends on the dataset, the options and
the seed, never on the number of ranks, of threads or processes that make batches, on memory or on timing. The state of
a loader is two integers, the epoch and the step.
"""

from __future__ import annotations

import inspect
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import msgspec
import numpy as np

from ganglion.artifacts.store import Artifact, FolderStore
from ganglion.core.errors import DataError, suggest
from ganglion.data.blocked_order import BlockedOrder
from ganglion.data.dataset.buffers import ALIGNMENT, BufferPool
from ganglion.data.dataset.prepared import PreparedDataset, open_dataset
from ganglion.data.loading.ahead import Ahead
from ganglion.data.loading.batch_maker import BatchMaker, Made, Work, with_empty_slots
from ganglion.data.loading.batch_plan import BatchPlan, Span, span_of
from ganglion.data.loading.certificate import Certificate
from ganglion.data.loading.loader_state import LoaderState, short_digest
from ganglion.data.loading.memory_plan import MemoryPlan, default_memory
from ganglion.data.loading.worker_pool import WorkerPool
from ganglion.data.order import Order
from ganglion.data.parts.part import Part, whole
from ganglion.data.parts.split import PlainSplit, split_from
from ganglion.data.records.bad_record import BadRecord, SetAside
from ganglion.data.records.batch import Batch
from ganglion.data.records.columns import Columns
from ganglion.data.records.columns import part as part_of
from ganglion.data.transform import Transform, transform_from

WHOLE = "all"
"""Name of the part that is the whole dataset."""

MASK = "mask"
"""Name of the column that says which records of `Loader.batches` are there."""

_AT_ONCE = 2**16

Struct = TypeVar("Struct", bound=msgspec.Struct)


class Loader:
    """Batches of one part of a dataset.

    Iterating yields the rest of the current epoch, as `Batch`es of this rank's records; the next iteration is the next
    epoch. Who leaves an iteration, by `break` or because of an error, goes on at the next batch with the next one.

    A batch may be kept and changed. Its memory is used again when no array refers to it any more.

    A record that a transform leaves out, or fails on, is missing from its batch; batches keep their other records, and
    every rank has as many steps as every other.

    Attributes:
        count: records in the part.
        steps_per_epoch: global batches in an epoch.
        global_batch: records in a global batch; the last of an epoch may have fewer.
        schema: fields of the batches.
        epoch: that is being delivered.
        step: the global batch of it that comes next.
        delivered: certificate of what this loader delivered of the epoch, from where it began.
        left_out: certificate of what transforms left out or failed on meanwhile.

    Args:
        dataset: where the records are.
        part: which of them; all if `None`.
        global_batch: records in a global batch.
        seed: of the order and of random transforms.
        shuffle: whether each epoch has an order of its own; otherwise records come in the order of the part.
        blocks: records in a block, for data that is too large or too far away to be read in any order: blocks are
            shuffled, and records within a window of blocks; see `blocked_order`. 0 for an order of all records.
        window: records in such a window; 0 for 64 blocks.
        drop_last: leave the rest of an epoch out that does not fill a global batch, instead of a short last batch.
        transforms: what is done to the records, as transforms or their plain data.
        rank: of this process.
        world: ranks in all.
        logical_workers: into how many slices a global batch is cut; as many as ranks if `None`.
        speeds: of every rank, for ranks that are unequal: each gets slices by its speed (see `leases`).
        workers: what makes batches: threads, or processes, for transforms in Python that keep the interpreter busy.
        parallel: how many of them; 0 for none. If `None`, as many threads as turn out to be worth it, or a process for
            each processor.
        memory: bytes that this process, and the processes that it starts, may take for all this beyond what imports
            take; 512 MiB, or what large batches need, if `None`.
        set_aside: told of each record that a transform fails on; one that is one too many is an error that it raises.

    Raises:
        DataError: a number is out of range, there is not one batch in an epoch, a transform does not go with the data,
            or memory is too little.
    """

    def __init__(
        self,
        dataset: PreparedDataset,
        part: Part | None = None,
        *,
        global_batch: int,
        seed: int = 0,
        shuffle: bool = True,
        blocks: int = 0,
        window: int = 0,
        drop_last: bool = False,
        transforms: Sequence[Transform | dict[str, Any]] = (),
        rank: int = 0,
        world: int = 1,
        logical_workers: int | None = None,
        speeds: Sequence[float] | None = None,
        workers: Literal["threads", "processes"] = "threads",
        parallel: int | None = None,
        memory: int | None = None,
        set_aside: SetAside | None = None,
    ) -> None:
        self._dataset = dataset
        self._part = whole(dataset.count) if part is None else part
        if self._part.of != dataset.count:
            raise DataError(f"The part is of {self._part.of} records; the dataset has {dataset.count}.")
        if workers not in ("threads", "processes") or (parallel is not None and parallel < 0):
            raise DataError(f"workers={workers!r}, parallel={parallel}: 'threads' or 'processes', and 0 or more.")
        self.count = self._part.count
        order = (
            BlockedOrder(self.count, seed, blocks, window) if blocks and shuffle else Order(self.count, seed, shuffle)
        )
        self._plan = BatchPlan(self._part, order, global_batch, drop_last)
        self.global_batch, self.steps_per_epoch = global_batch, self._plan.steps
        self._span = span_of(rank, world, logical_workers, speeds)
        self._transforms = tuple(map(transform_from, transforms))
        self._set_aside = _keep_going if set_aside is None else set_aside
        self._parallel = parallel
        self._maker = BatchMaker(dataset, self._transforms, seed)
        largest = self._batch_bytes(self._span)
        mapped = sum(segment.segment.size for segment in dataset.segments)
        budget = default_memory(mapped, largest) if memory is None else memory
        self._memory = MemoryPlan.of(budget, mapped, largest)
        if self._memory.resident is not None:
            self._maker = BatchMaker(dataset, self._transforms, seed, resident=self._memory.resident)
        self.schema = self._maker.schema
        self._pool = BufferPool(self._memory.buffers)
        self._workers: WorkerPool | None = None
        if workers == "processes" and parallel != 0:
            self._workers = WorkerPool(
                dataset,
                self._transforms,
                seed,
                count=parallel,
                slot_size=max(self._memory.piece, largest) + ALIGNMENT * len(self.schema),
                buffers=self._memory.buffers,
                resident=self._memory.resident,
            )
        self._identity = LoaderState(
            epoch=0,
            step=0,
            seed=seed,
            global_batch=global_batch,
            dataset=short_digest(dataset.artifact.digest.encode()),
            part=short_digest(msgspec.msgpack.encode(self._part)),
            order=short_digest(msgspec.msgpack.encode((shuffle, blocks, window, drop_last))),
            transforms=short_digest(msgspec.msgpack.encode(self._transforms, enc_hook=_described)),
        )
        self.epoch = self.step = 0
        self.delivered = self.left_out = Certificate()
        self._iteration = object()

    def __iter__(self) -> Iterator[Batch]:
        """The batches of this rank from where the loader is to the end of the epoch, one for each step."""
        if self.step >= self.steps_per_epoch:
            self.epoch, self.step = self.epoch + 1, 0
        if self.step == 0:
            self.delivered = self.left_out = Certificate()
        self._iteration = mine = object()
        return self._iterate(mine)

    def _iterate(self, mine: object) -> Iterator[Batch]:
        with closing(self._pieces(self.epoch, self._span, self.step, certified=True)) as pieces:
            for work, made in pieces:
                delivered, left_out = made.accounts(work)
                bad = made.bad_records(work, self._dataset.artifact.digest)
                columns, ids, begin = made.batch.columns, made.batch.ids, 0
                for number, end in enumerate(made.ends):
                    if self._iteration is not mine:
                        raise DataError("Another iteration of this loader has begun; this one cannot go on.")
                    self._tell(bad.get(number, ()))
                    self.step += 1
                    self.delivered += delivered[number]
                    if left_out:
                        self.left_out += left_out[number]
                    yield Batch(part_of(columns, begin, end), ids[begin:end])
                    begin = end
        if self._iteration is mine:
            self.epoch, self.step = self.epoch + 1, 0

    def batches(self, epoch: int, *, first: int, last: int, of: int, start: int = 0) -> Iterator[Columns]:
        """One process's records of each global batch of an epoch, in order, whatever the loader's own position.

        Several of these iterations may run at the same time.

        Args:
            epoch: from 0.
            first: first logical worker of this process.
            last: the logical worker after its last.
            of: logical workers in all.
            start: global batch to begin with.

        Returns:
            For each global batch from `start` on, the records of logical workers `first` to `last`: arrays of shape
            `(records, ...)` by column, without a record where a short last batch has none for them. They may be kept
            and changed. Where transforms may leave records out, these keep their places, filled with zeros, and the
            column `mask` says which records are there. Closing the iterator ends its threads.

        Raises:
            DataError: not `0 <= first < last <= of`, or `start` is not within the epoch.
        """
        span = Span(first, last, of)
        self._plan.check_start(start)
        return self._batches(epoch, span, start)

    def _batches(self, epoch: int, span: Span, start: int) -> Iterator[Columns]:
        with closing(self._pieces(epoch, span, start)) as pieces:
            for work, made in pieces:
                columns, begin = made.batch.columns, 0
                bad = made.bad_records(work, self._dataset.artifact.digest)
                if self._maker.may_leave_out:
                    columns = with_empty_slots(columns, made.slots, len(work.ids), MASK)
                for number, end in enumerate(work.ends):
                    self._tell(bad.get(number, ()))
                    yield part_of(columns, begin, end)
                    begin = end

    def state_dict(self) -> dict[str, Any]:
        """Where the loader is, as at most 256 bytes of JSON, the same on every rank; what was yielded is delivered."""
        state = msgspec.structs.replace(self._identity, epoch=self.epoch, step=self.step)
        return msgspec.structs.asdict(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a loader was, of whatever rank of however many; the next iteration begins there.

        Raises:
            DataError: the state is of a loader of other data or with other options; the message names what differs.
        """
        given = LoaderState.from_plain(state)
        self._identity.check(given, self.steps_per_epoch)
        self._iteration = object()
        self.epoch, self.step = given.epoch, given.step
        self.delivered = self.left_out = Certificate()

    def expected(self, epoch: int) -> Certificate:
        """The certificate of all records of an epoch, computed from the ids in the dataset.

        The sum of `delivered` and `left_out` over all ranks, and over all stretches of the epoch if it was resumed, is
        equal to it if, and with a probability of 1 - 2**-128 only if, every record was delivered or left out once.
        """
        total = Certificate()
        for start in range(0, self.count, _AT_ONCE):
            numbers = np.arange(start, min(start + _AT_ONCE, self.count))
            total += Certificate.of(self._maker.ids(self._part.records(numbers)))
        dropped = np.arange(min(self.count, self.steps_per_epoch * self.global_batch), self.count)
        if dropped.size:
            total -= Certificate.of(self._maker.ids(self._part.records(self._plan.order.at(epoch, dropped))))
        return total

    def close(self) -> None:
        """End the processes that make batches, if there are any."""
        if self._workers is not None:
            self._workers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _pieces(
        self, epoch: int, span: Span, start: int, *, certified: bool = False
    ) -> Generator[tuple[Work, Made], None, None]:
        """What is made at a time, in order: each some consecutive batches."""
        make, threads, workers = self._make, self._parallel, self._workers
        if workers is not None:
            make, threads = workers.make, workers.count
        ahead = Ahead(
            self._works(epoch, span, start, certified),
            lambda work: (work, make(work)),
            size=lambda work: len(work.records) * self._maker.record_bytes,
            limit=self._memory.ahead(self._batch_bytes(span)),
            threads=threads,
            helps=workers is None,
        )
        with closing(ahead):
            yield from ahead

    def _tell(self, records: Sequence[BadRecord]) -> None:
        for record in records:
            self._set_aside(record)

    def _make(self, work: Work) -> Made:
        return self._maker.make(work, self._pool)

    def _works(self, epoch: int, span: Span, start: int, certified: bool) -> Iterator[Work]:
        """What is to be made, in pieces of a size that is worth handing over."""
        most = max(1, self._memory.piece // max(1, self._batch_bytes(span)))
        for steps in self._plan.epoch(epoch, span, start):
            ids = self._maker.ids(steps.records)
            certificates = Certificate.of_each(ids, steps.ends) if certified else []
            ends = (0, *steps.ends)
            for first in range(0, len(steps.ends), most):
                mine = ends[first : first + most + 1]
                records = slice(mine[0], mine[-1])
                yield Work(
                    epoch,
                    steps.first + first,
                    steps.records[records],
                    ids[records],
                    tuple(end - mine[0] for end in mine[1:]),
                    tuple(certificates[first : first + most]),
                )

    def _batch_bytes(self, span: Span) -> int:
        """Bytes that one batch of some logical workers takes while it is made, at most."""
        records = -(-min(self.count, self.global_batch) * (span.last - span.first) // span.of)
        return records * self._maker.record_bytes


def open_loader(
    *,
    store: str,
    dataset: Artifact | dict[str, Any],
    global_batch: int,
    part: str = WHOLE,
    split: PlainSplit | dict[str, Any] | None = None,
    **options: Any,
) -> Loader:
    """Open a loader from plain data, as a training process does.

    Args:
        store: folder of the artifact store.
        dataset: artifact of a prepared dataset.
        global_batch: records in a global batch.
        part: `all`, or a part of `split`.
        split: how the dataset is divided.
        options: further ones of `Loader`.

    Raises:
        DataError: an argument is not what it should be, or there is no such part; further errors as for `Loader` and
            `PreparedDataset`.
    """
    opened = open_dataset(_converted(dataset, Artifact), FolderStore(Path(store)))
    if split is not None and part != WHOLE:
        chosen = split_from(split).part(part, opened)
    elif part == WHOLE:
        chosen = whole(opened.count)
    else:
        raise DataError(f"The part {part!r} was asked for, and no split; give split={{'parts': {{{part!r}: ...}}}}.")
    unknown = set(options) - set(inspect.signature(Loader).parameters)
    if unknown:
        name = min(unknown)
        raise DataError(f"A loader has no option {name!r}. {suggest(name, inspect.signature(Loader).parameters)}")
    return Loader(opened, chosen, global_batch=global_batch, **options)


def _converted(value: Any, cls: type[Struct]) -> Struct:
    """`value`, or the struct that it describes as plain data."""
    try:
        return msgspec.convert(value, cls)
    except msgspec.ValidationError as error:
        raise DataError(f"{value!r} does not describe {cls.__name__}: {error}.") from error


def _described(value: Any) -> Any:
    """What the identity of a loader says of an option that is no plain data."""
    if isinstance(value, np.ndarray):
        return value.dtype.name, value.shape, value.tobytes()
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _keep_going(record: BadRecord) -> None:
    """What is done about a bad record where nobody wants to be told: it is counted in `left_out`."""
