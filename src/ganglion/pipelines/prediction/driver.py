"""Carries batch predictions out: what is done is found, what is missing is computed, here or by other processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path

import msgspec

from ganglion.artifacts.files import digest_file
from ganglion.artifacts.package import MANIFEST
from ganglion.core.errors import DataError
from ganglion.data import PlainSource, Progress, source_data
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
from ganglion.data.preparation.identity import describe_source
from ganglion.data.preparation.outlook import most_to_come, most_tolerated
from ganglion.data.preparation.plan import PlannedUnit, cut, sizes_for
from ganglion.data.preparation.work import Run
from ganglion.data.records.unit import Unit
from ganglion.pipelines.prediction.feed import choose_feeds
from ganglion.pipelines.prediction.folder import Job, ModelVersion, Order, PredictionFolder, Report, Summary
from ganglion.pipelines.prediction.piece import load_model, predict_piece
from ganglion.pipelines.prediction.rows import Layout, format_of
from ganglion.serving.repository import ModelRepository
from ganglion.serving.servable import check_servable

BATCH = 64
"""Records that the model is given at once where nothing else is said."""

TASKS = 2
"""Tasks for each worker: few, for each loads the model; more than one, for some are done sooner than others."""


def predict_source(
    repository: ModelRepository,
    model: str,
    source: PlainSource,
    destination: Path,
    *,
    columns: Sequence[str] = (),
    feeds: Mapping[str, Sequence[str]] | None = None,
    form: str | None = None,
    part_bytes: int | None = None,
    batch: int = BATCH,
    max_bad: MaxBad = MAX_BAD,
    workers: int = 1,
    run: Run | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Summary:
    """Predict every record of a source, each once, into a folder.

    If this process or one of its helpers is killed, calling it again goes on: pieces that are done are not computed
    again. The rows are in the order of the records; what is in them depends on the model, the source, `columns`,
    `feeds` and the format alone.

    Args:
        repository: has the model.
        model: `name`, `name:version` or `name:alias`.
        source: of the records; a dataset as a `DatasetSource`.
        destination: a folder that is empty, does not exist, or holds what an earlier call has left.
        columns: of the source that are kept in the rows.
        feeds: columns by input of the model, where `feed.choose_feeds` cannot find them out.
        form: `parquet`, `arrow` or `jsonl`; `None` goes by the ending of the folder's name.
        part_bytes: of the source, about, whose rows are in one file; `None` for what suits the source.
        batch: records that the model is given at once.
        max_bad: bad records that are tolerated: a count, or as a float a share of all.
        workers: pieces that are computed at the same time; more than one needs `run`.
        run: calls entries in other processes; without it this one does the work.
        progress: told before the first piece, whenever one is done, and about twice a second while one is computed.

    Raises:
        ModelError: the model is unknown or cannot be used.
        DataError: the source is missing, damaged or empty, does not fit the model, or has more bad records than are
            tolerated; or the folder is for something else.
        OutageError: the source is away.
    """
    if workers < 1 or (workers > 1 and run is None):
        raise DataError(f"{workers} workers were asked for; 1 is possible, and more where `run` starts processes.")
    if batch < 1 or (part_bytes is not None and part_bytes < 1):
        raise DataError(f"A batch of {batch} and parts of {part_bytes} bytes were asked for; both are 1 or more.")
    name, version = repository.resolve(model)
    package = repository.path(name, version).absolute()
    manifest = repository.manifest(name, version)
    check_servable(manifest)
    check_max_bad(max_bad)
    with source.snapshot() as frozen:
        schema, units = frozen.schema, frozen.units()
        if not units:
            raise DataError("The source has no records; there is nothing to predict.")
        chosen = choose_feeds(manifest, schema, feeds)
        Layout(manifest, schema, columns)
        job = Job(
            model=ModelVersion(name=name, version=version, digest=digest_file(package / MANIFEST)[0]),
            source=frozen.fingerprint(),
            description=describe_source(source),
            columns=tuple(columns),
            feeds=chosen,
            format=format_of(destination, form),
            part_bytes=part_bytes or sizes_for(units)[0],
        )
        planned = [PlannedUnit(unit=unit, number=unit.number) for unit in units]
        pieces = cut(planned, job.part_bytes)
        data = source_data(frozen) if run is not None else {}
        order = Order(job=job, pieces=pieces, source=data, package=str(package), batch=batch)
        folder = PredictionFolder(destination.absolute())
        with folder.lock():
            folder.claim(job)
            summary = folder.summary()
            if summary is None:
                summary = _Driver(order, frozen, folder, max_bad, workers, run, progress).carry_out()
        return summary


class _Driver:
    """Sees a prediction through."""

    def __init__(
        self,
        order: Order,
        source: PlainSource,
        folder: PredictionFolder,
        max_bad: MaxBad,
        workers: int,
        run: Run | None,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self._order = order
        self._source = source
        self._folder = folder
        self._max_bad = max_bad
        self._workers = workers
        self._run = run
        self._progress = progress
        self._reports: list[Report] = []

    def carry_out(self) -> Summary:
        """Compute what is missing and write the end down."""
        order, form = self._order, self._order.job.format
        found = (self._folder.report(piece.number, form) for piece in order.pieces)
        self._reports = [report for report in found if report is not None]
        self._tell({})
        for report in self._computed():
            self._reports.append(report)
            self._tell({})
            most_bad = self._most_bad()
            if not report.complete or (most_bad is not None and sum(one.set_aside for one in self._reports) > most_bad):
                self._judge()
        self._judge()
        self._check_source()
        reports = sorted(self._reports, key=lambda report: report.piece)
        summary = _summary(order, self._folder, reports)
        self._folder.finish(summary)
        return summary

    def _computed(self) -> Iterator[Report]:
        """Reports of the pieces that were missing, as they get ready."""
        done = {report.piece for report in self._reports}
        missing = [piece for piece in self._order.pieces if piece.number not in done]
        if self._run is None:
            with ExitStack() as stack:
                model = load_model(self._order)
                stack.callback(model.close)
                for piece in missing:

                    def tell(advance: Advance, piece: int = piece.number) -> None:
                        self._tell({piece: advance})

                    yield predict_piece(
                        self._order, piece, self._source, model, self._folder, self._most_bad(), Paced(tell)
                    )
            return
        self._folder.write_order(self._order)
        with ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(self._workers, thread_name_prefix="ganglion-predict"))
            stack.callback(pool.shutdown, wait=True, cancel_futures=True)
            stack.callback(self._folder.withdraw_order)
            groups = divide([piece.number for piece in missing], self._workers * TASKS)
            waiting = {pool.submit(self._elsewhere, self._run, group): group for group in groups}
            while waiting:
                ready, _ = wait(waiting, INTERVAL, FIRST_COMPLETED)
                for future in ready:
                    waiting.pop(future)
                    yield from self._new(future.result())
                if not ready:
                    pieces = [piece for group in waiting.values() for piece in group]
                    form = self._order.job.format
                    yield from self._new(report for piece in pieces if (report := self._folder.report(piece, form)))
                    noted = ((piece, self._folder.advance(piece)) for piece in pieces)
                    self._tell({piece: advance for piece, advance in noted if advance is not None})

    def _new(self, reports: Iterable[Report]) -> Iterator[Report]:
        """Those that are not known yet; the caller gets to know each."""
        for report in reports:
            if report.piece not in {known.piece for known in self._reports}:
                yield report

    def _elsewhere(self, run: Run, pieces: Sequence[int]) -> list[Report]:
        arguments = {"folder": str(self._folder.path), "pieces": list(pieces), "most_bad": self._most_bad()}
        found = run("ganglion.pipelines.prediction.piece:run_pieces", arguments)
        return msgspec.json.decode(found, type=list[Report])

    def _tell(self, under_way: Mapping[int, Advance]) -> None:
        if self._progress is None:
            return
        done = {report.piece for report in self._reports}
        more = [advance for piece, advance in under_way.items() if piece not in done]
        self._progress(
            Progress(
                pieces=len(self._reports),
                of=len(self._order.pieces),
                records=sum(one.predicted for one in self._reports) + sum(one.records for one in more),
                size=sum(one.size for one in self._reports) + sum(one.size for one in more),
                set_aside=sum(one.set_aside for one in self._reports) + sum(one.set_aside for one in more),
            )
        )

    def _most_bad(self) -> int | None:
        """Bad records after which there are too many, as far as is known yet."""
        done = {report.piece for report in self._reports}
        read = sum(report.read for report in self._reports)
        sizes = [unit.size for unit in self._units(done)]
        left = self._units({piece.number for piece in self._order.pieces} - done)
        return most_tolerated(self._max_bad, read, most_to_come(left, read, sum(sizes) if all(sizes) else 0))

    def _units(self, pieces: set[int]) -> list[Unit]:
        return [planned.unit for piece in self._order.pieces if piece.number in pieces for planned in piece.units]

    def _judge(self) -> None:
        """End a prediction with more bad records than are tolerated."""
        bad, read = sum(report.set_aside for report in self._reports), sum(report.read for report in self._reports)
        if not too_many(bad, read, self._max_bad):
            return
        files = (self._folder.bad(report.piece) for report in self._reports if report.set_aside)
        first = list(islice(chain.from_iterable(map(read_quarantine, files)), 3))
        counts = add_counts(count for report in self._reports for count in report.bad)
        where = self._folder.bad(0).parent
        raise DataError(f"{explain(bad, read, self._max_bad, counts, first)} All of them are listed in {where}.")

    def _check_source(self) -> None:
        planned = [unit.unit for piece in self._order.pieces for unit in piece.units]
        now = {unit.number: unit for unit in self._source.units()}
        if changed := [unit.name for unit in planned if now.get(unit.number) != unit]:
            raise DataError(
                f"The source has changed while it was read: {', '.join(changed[:3])}. Delete {self._folder.path} and "
                "start anew."
            )


def divide(pieces: Sequence[int], groups: int) -> list[Sequence[int]]:
    """Neighbouring pieces in so many groups, or in as many as there are pieces; sizes differ by one at most."""
    groups = min(groups, len(pieces))
    return [pieces[len(pieces) * group // groups : len(pieces) * (group + 1) // groups] for group in range(groups)]


def _summary(order: Order, folder: PredictionFolder, reports: Sequence[Report]) -> Summary:
    """All reports together.

    Raises:
        DataError: records are not accounted for.
    """

    def total(name: str) -> int:
        return sum(getattr(report, name) for report in reports)

    summary = Summary(
        model=order.job.model,
        source=order.job.source,
        parts=tuple(folder.part(report.piece, order.job.format).name for report in reports),
        read=total("read"),
        made=total("made"),
        predicted=total("predicted"),
        set_aside=total("set_aside"),
        left_out=total("left_out"),
        bad=add_counts(count for report in reports for count in report.bad),
    )
    accounted = summary.predicted + summary.set_aside + summary.left_out
    if len(reports) != len(order.pieces) or summary.read + summary.made != accounted or summary.left_out < 0:
        raise DataError(f"{summary.read} records were read, and {accounted} are accounted for: {summary}.")
    return summary
