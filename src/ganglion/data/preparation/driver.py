"""Carries preparations out: what has been done is found, what is missing is done, here or by other processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from ganglion.artifacts.store import Artifact, FolderStore
from ganglion.core.clock import Clock, SystemClock
from ganglion.core.errors import DataError
from ganglion.data.dataset.prepared import PreparedDataset
from ganglion.data.dataset.quarantine import (
    MAX_BAD,
    MaxBad,
    add_counts,
    check_max_bad,
    explain,
    read_quarantine,
    too_many,
)
from ganglion.data.preparation.advance import INTERVAL, Advance, Paced
from ganglion.data.preparation.identity import describe_source, description_digest
from ganglion.data.preparation.outlook import most_to_come, most_tolerated
from ganglion.data.preparation.piece import MEMORY
from ganglion.data.preparation.plan import Plan
from ganglion.data.preparation.staging import Made, Report, Staging, newest, remember
from ganglion.data.preparation.work import Elsewhere, Here, Job, Parts, Purpose, Run, receive_source, send_source
from ganglion.data.records.bad_record import BadRecord
from ganglion.data.source import PlainSource, Source
from ganglion.execution.member import current_member


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a preparation is.

    Attributes:
        pieces: written to their end, those of an earlier attempt included.
        of: pieces in all.
        records: written, of pieces that are being written too.
        size: bytes of the segments that they are in; of pieces that are being written, of their records.
        set_aside: bad records.
    """

    pieces: int
    of: int
    records: int
    size: int
    set_aside: int


def prepare(
    source: Source,
    store: FolderStore,
    *,
    max_bad: MaxBad = MAX_BAD,
    max_age: float | None = None,
    segment_bytes: int | None = None,
    memory: int = MEMORY,
    workers: int = 1,
    run: Run | None = None,
    progress: Callable[[Progress], None] | None = None,
    clock: Clock | None = None,
) -> PreparedDataset:
    """Make a dataset of the records of a source, or find the one that was made of them.

    The result depends on the source, the code that reads it and `segment_bytes` alone. If this process or one of its
    helpers is killed, calling it again goes on: pieces that were written are not read again, and the dataset is the
    same. Two callers at once do the work once.

    Args:
        source: transforms that are to be applied once belong to it: a source with transforms is a source.
        store: where the dataset is kept; processes of a host share it in the page cache, and one in `/dev/shm` is in
            memory altogether.
        max_bad: bad records that are tolerated: a count, or as a float a share of all. Reading ends as soon as there
            are too many whatever comes; see `outlook`.
        max_age: seconds; a dataset that was made of the same description, or compared with its source, not longer ago
            is taken without looking at the source. `None` always looks.
        segment_bytes: records of one file take at most so many bytes; `None` for what suits the source.
        memory: bytes that reading and writing may take in all processes together, above what imports take; half of it
            is for the source.
        workers: pieces that are written at the same time; more than one needs `run`.
        run: lets other processes do the work (see `work.Run`); without it this one does, in order.
        progress: told before the first piece, whenever one is written, and about twice a second while one is.
        clock: for ages.

    Returns:
        The dataset, opened; `artifact` is its identity.

    Raises:
        DataError: the source is missing, damaged, empty, yields records that do not have its schema, or has more bad
            records than are tolerated; those are listed in a file that the message names.
        OutageError: the source is away.
    """
    clock = clock or SystemClock()
    described = description_digest(source, segment_bytes)
    if max_age is not None:
        made = newest(store, described)
        if made is not None and clock.now() - made.at < max_age:
            return _accepted(PreparedDataset(made.artifact, store), max_bad)
    driver = _Driver(source, store, max_bad, memory, workers, run, progress, clock)
    dataset = driver.carry_out("prepare", size=segment_bytes)
    remember(store, described, Made(artifact=dataset.artifact, at=clock.now()))
    return dataset


def grow(
    dataset: PreparedDataset,
    source: Source,
    store: FolderStore,
    *,
    max_bad: MaxBad = MAX_BAD,
    memory: int = MEMORY,
    workers: int = 1,
    run: Run | None = None,
    progress: Callable[[Progress], None] | None = None,
    clock: Clock | None = None,
) -> PreparedDataset:
    """Add what a source has got since a dataset was made of it, as a new generation.

    Only new units (files, as a rule) are read. The dataset that is given stays as it is, and valid: whoever reads it
    goes on; both share its segments. Numbers of records stay.

    Args:
        dataset: made of the source as it was.
        source: as it is now.
        store: where the dataset is.
        max_bad: bad records that are tolerated among the new ones.
        memory: as for `prepare`.
        workers: as for `prepare`.
        run: as for `prepare`.
        progress: as for `prepare`.
        clock: as for `prepare`.

    Returns:
        The larger dataset; the same one if there is nothing new.

    Raises:
        DataError: what was read before has changed or is gone, the schema is another one, or as for `prepare`.
    """
    clock = clock or SystemClock()
    driver = _Driver(source, store, max_bad, memory, workers, run, progress, clock)
    grown = driver.carry_out("grow", dataset.artifact)
    remember(store, description_digest(source, None), Made(artifact=grown.artifact, at=clock.now()))
    return grown


def replay(
    dataset: PreparedDataset,
    source: Source,
    store: FolderStore,
    *,
    memory: int = MEMORY,
    workers: int = 1,
    run: Run | None = None,
    progress: Callable[[Progress], None] | None = None,
    clock: Clock | None = None,
) -> PreparedDataset:
    """Read the units again in which records were set aside, and add those that can be used now as a new generation.

    Args:
        dataset: with records in quarantine.
        source: the same, mended: its files, its code or its transforms. Records must be the same in number.
        store: where the dataset is.
        memory: as for `prepare`.
        workers: as for `prepare`.
        run: as for `prepare`.
        progress: as for `prepare`.
        clock: as for `prepare`.

    Returns:
        The larger dataset, with what is still bad in quarantine; the same one if there is nothing to recover.

    Raises:
        DataError: a unit is gone, or has another number of records than before; or as for `prepare`.
    """
    driver = _Driver(source, store, 1.0, memory, workers, run, progress, clock or SystemClock())
    return driver.carry_out("replay", dataset.artifact)


def prepare_elsewhere(
    source: Source, store: FolderStore, run: Run, *, max_bad: MaxBad = MAX_BAD, memory: int = MEMORY
) -> Artifact:
    """Let one other process do all of `prepare`, which reports the number of records as it goes.

    Args:
        source: plain data.
        store: that the process reaches by the same path.
        run: calls an entry in that process.
        max_bad: as for `prepare`.
        memory: as for `prepare`.

    Returns:
        The dataset.
    """
    arguments = {"store": str(store.root.absolute()), "source": send_source(source, store)}
    found = run(f"{__name__}:run_prepare", {**arguments, "max_bad": max_bad, "memory": memory})
    return msgspec.convert(found, Artifact)


def run_prepare(*, store: str, source: str, max_bad: MaxBad, memory: int) -> dict[str, Any]:
    """Entry: `prepare` a source that lies in the store under this digest; returns the artifact as plain data."""
    place = FolderStore(Path(store))

    def report(progress: Progress) -> None:
        current_member().report({"records": progress.records})

    prepared = prepare(receive_source(place, source), place, max_bad=max_bad, memory=memory, progress=report)
    return msgspec.to_builtins(prepared.artifact)  # type: ignore[no-any-return]  # a struct becomes a dictionary


class _Driver:
    """Sees a preparation through."""

    def __init__(
        self,
        source: Source,
        store: FolderStore,
        max_bad: MaxBad,
        memory: int,
        workers: int,
        run: Run | None,
        progress: Callable[[Progress], None] | None,
        clock: Clock,
    ) -> None:
        if workers < 1 or (workers > 1 and run is None):
            raise DataError(f"{workers} workers were asked for; 1 is possible, and more where `run` starts processes.")
        if memory < 1:
            raise DataError(f"A memory of {memory} bytes was given; at least 1 is needed.")
        self._store = store
        self._max_bad = check_max_bad(max_bad)
        self._memory = memory
        self._workers = workers
        self._progress = progress
        self._clock = clock
        self._source = source
        self._run = run

    def carry_out(self, purpose: Purpose, base: Artifact | None = None, size: int | None = None) -> PreparedDataset:
        """Do what is missing, on one state of the source."""
        job = Job(description=describe_source(self._source), purpose=purpose, base=base, segment_bytes=size)
        with ExitStack() as stack:
            source = self._source
            if isinstance(source, PlainSource):
                source = stack.enter_context(source.snapshot())
            self._parts: Parts = (
                Here(source, self._store) if self._run is None else Elsewhere(source, self._store, self._run)
            )
            return self._carry_out(job)

    def _carry_out(self, job: Job) -> PreparedDataset:
        plan = self._parts.plan(job)
        if job.base is not None and not plan.pieces:
            return PreparedDataset(job.base, self._store)
        staging = Staging(self._store, plan.origin.key)
        with staging.lock():
            made = staging.made()
            if made is not None:
                artifact = made.artifact
            else:
                self._parts.leave(plan)
                self._write(plan, staging)
                artifact = self._parts.commit(plan)
            staging.finish(Made(artifact=artifact, at=self._clock.now()))
        dataset = PreparedDataset(artifact, self._store)
        return _accepted(dataset, self._max_bad) if job.purpose == "prepare" else dataset

    def _write(self, plan: Plan, staging: Staging) -> None:
        reports = [report for piece in plan.pieces if (report := staging.report(piece.number)) is not None]
        self._tell(plan, reports, {})
        for report in self._written(plan, staging, reports):
            reports.append(report)
            self._tell(plan, reports, {})
            most_bad = self._most_bad(plan, reports)
            if not report.complete or (most_bad is not None and sum(one.set_aside for one in reports) > most_bad):
                self._judge(reports, staging)
        self._judge(reports, staging)

    def _written(self, plan: Plan, staging: Staging, reports: list[Report]) -> Iterator[Report]:
        """Reports of the pieces that are not among these yet, as they get ready; the caller adds them."""
        done = {report.piece for report in reports}
        missing = [piece.number for piece in plan.pieces if piece.number not in done]
        memory = self._memory // self._workers
        if self._run is None:
            for piece in missing:

                def tell(advance: Advance, piece: int = piece) -> None:
                    self._tell(plan, reports, {piece: advance})

                yield self._parts.write(plan, piece, memory, self._most_bad(plan, reports), Paced(tell))
            return
        with ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(self._workers, thread_name_prefix="ganglion-prepare"))
            stack.callback(pool.shutdown, wait=True, cancel_futures=True)
            waiting = {
                pool.submit(self._parts.write, plan, piece, memory, self._most_bad(plan, reports), _ignore): piece
                for piece in missing
            }
            while waiting:
                ready, _ = wait(waiting, INTERVAL, FIRST_COMPLETED)
                for future in ready:
                    waiting.pop(future)
                    yield future.result()
                if not ready:
                    noted = ((piece, staging.advance(piece)) for piece in waiting.values())
                    self._tell(plan, reports, {piece: advance for piece, advance in noted if advance is not None})

    def _tell(self, plan: Plan, reports: list[Report], under_way: Mapping[int, Advance]) -> None:
        if self._progress is not None:
            self._progress(_progress(reports, under_way, len(plan.pieces)))

    def _most_bad(self, plan: Plan, reports: list[Report]) -> int | None:
        """Bad records after which there are too many, as far as is known yet."""
        done = {report.piece for report in reports}
        read = sum(report.read for report in reports)
        sizes = [planned.unit.size for piece in plan.pieces if piece.number in done for planned in piece.units]
        left = (planned.unit for piece in plan.pieces if piece.number not in done for planned in piece.units)
        return most_tolerated(self._max_bad, read, most_to_come(left, read, sum(sizes) if all(sizes) else 0))

    def _judge(self, reports: list[Report], staging: Staging) -> None:
        """End a preparation with more bad records than are tolerated."""
        bad, read = sum(report.set_aside for report in reports), sum(report.read for report in reports)
        if not too_many(bad, read, self._max_bad):
            return
        first = _first_bad(reports, self._store)
        counts = add_counts(count for report in reports for count in report.bad)
        where = staging.folder / "quarantine"
        raise DataError(f"{explain(bad, read, self._max_bad, counts, first)} All of them are listed in {where}.")


def _accepted(dataset: PreparedDataset, max_bad: MaxBad) -> PreparedDataset:
    """A dataset, unless it has more bad records than are tolerated now."""
    read = sum(account.read for account in dataset.manifest.accounts)
    bad = dataset.manifest.set_aside
    if too_many(bad, read, check_max_bad(max_bad)):
        raise DataError(explain(bad, read, max_bad, dataset.manifest.bad, list(islice(dataset.quarantine(), 3))))
    return dataset


def _first_bad(reports: list[Report], store: FolderStore) -> list[BadRecord]:
    first: list[BadRecord] = []
    for report in sorted(reports, key=lambda report: report.piece):
        if report.quarantine is not None:
            first += islice(read_quarantine(store.path(report.quarantine)), 3 - len(first))
    return first


def _progress(reports: list[Report], under_way: Mapping[int, Advance], pieces: int) -> Progress:
    segments = [segment for report in reports for segment in report.segments]
    advances = under_way.values()
    return Progress(
        pieces=len(reports),
        of=pieces,
        records=sum(segment.records for segment in segments) + sum(advance.records for advance in advances),
        size=sum(segment.size for segment in segments) + sum(advance.size for advance in advances),
        set_aside=sum(report.set_aside for report in reports) + sum(advance.set_aside for advance in advances),
    )


def _ignore(_advance: Advance) -> None:
    """What is done with how far a piece is that another process writes: that process notes it."""
