"""One piece of a source predicted, and its rows written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from ganglion.artifacts.files import digest_file
from ganglion.artifacts.package import MANIFEST
from ganglion.core.errors import DataError, ModelError
from ganglion.data.dataset.quarantine import QuarantineWriter, count_bad, read_quarantine
from ganglion.data.preparation.advance import Advance, Paced, Tell
from ganglion.data.preparation.plan import Piece
from ganglion.data.preparation.tally import Tally, makes_records, numbers_through, sources_within
from ganglion.data.records.bad_record import BadRecord
from ganglion.data.records.batch import Batch
from ganglion.data.records.columns import Array
from ganglion.data.records.unit import Unit, inner_unit
from ganglion.data.source import Source, source_from
from ganglion.data.sources.transformed import TransformedSource
from ganglion.pipelines.prediction.dataset_source import DatasetSource
from ganglion.pipelines.prediction.feed import Feed, Flaws, feed
from ganglion.pipelines.prediction.folder import Order, PredictionFolder, Report
from ganglion.pipelines.prediction.rows import Layout, open_writer
from ganglion.serving.model import LoadedModel

READ_BYTES = 8 * 2**20
"""Bytes of records that are asked for at once, at most."""


def load_model(order: Order) -> LoadedModel:
    """The model of an order, in this process.

    Raises:
        ModelError: it cannot be loaded, or is not the one that was ordered.
    """
    folder = Path(order.package)
    model = LoadedModel(folder)
    ordered = order.job.model
    if digest_file(folder / MANIFEST)[0] != ordered.digest:
        raise ModelError(f"{folder} is not version {ordered.version} of {ordered.name!r} as it was ordered any more.")
    return model


def run_pieces(*, folder: str, pieces: Sequence[int], most_bad: int | None) -> bytes:
    """Entry: predict some pieces of the order that was left in a folder, with the model loaded once.

    Each is done when its report is written, so that it stays done if the process dies in the next one. The process ends
    early when the order is withdrawn, or a piece has more bad records than are tolerated.

    Returns:
        The reports as JSON.
    """
    place = PredictionFolder(Path(folder))
    order = place.read_order()
    source = source_from(order.source)
    reports: list[Report] = []
    with closing(load_model(order)) as model:
        for number in pieces:
            if not place.is_ordered():
                break
            tell = Paced(partial(place.note, number))
            reports.append(predict_piece(order, order.pieces[number], source, model, place, most_bad, tell))
            if not reports[-1].complete:
                break
    return msgspec.json.encode(reports)


def predict_piece(
    order: Order,
    piece: Piece,
    source: Source,
    model: LoadedModel,
    folder: PredictionFolder,
    most_bad: int | None,
    tell: Tell,
) -> Report:
    """Predict the records of a piece, write the rows and then the report.

    Args:
        order: what is computed.
        piece: of which records.
        source: where they come from.
        model: of the order.
        folder: where rows go.
        most_bad: bad records after which going on is of no use; `None` goes on to the end.
        tell: told how far it is, after every batch.

    Raises:
        DataError: the source cannot be read, or does not do what sources have to do.
        OutageError: the source is away.
    """
    job = order.job
    layout = Layout(model.manifest, source.schema, job.columns)
    readings: list[_Reading] = []
    rows = size = 0
    complete = True
    quarantine = QuarantineWriter(folder.bad(piece.number))
    try:
        with (
            quarantine,
            folder.new_part(piece.number, job.format) as path,
            closing(open_writer(path, job.format, layout.arrow)) as writer,
        ):
            for planned in piece.units:
                reading = _Reading(planned.unit, source, quarantine, most_bad)
                readings.append(reading)
                for batch in reading.batches(READ_BYTES):
                    good, outputs = _predict(batch, job.feeds, model, order.batch, reading)
                    if len(good):
                        writer.write_table(layout.table(good, outputs))
                    reading.predicted += len(good)
                    rows, size = rows + len(good), size + good.nbytes
                    tell(Advance(records=rows, size=size, set_aside=quarantine.count))
    except _EnoughError:
        complete = False
    report = Report(
        piece=piece.number,
        read=sum(reading.read for reading in readings),
        made=sum(reading.made for reading in readings),
        predicted=rows,
        set_aside=quarantine.count,
        left_out=sum(reading.left_out for reading in readings),
        size=size,
        bad=count_bad(read_quarantine(folder.bad(piece.number))) if quarantine.count else (),
        complete=complete,
    )
    if complete:
        folder.write_report(report)
    return report


class _EnoughError(DataError):
    """There are more bad records than are tolerated."""


class _Reading:
    """One unit on its way through the model, with every record of it accounted for."""

    def __init__(self, unit: Unit, source: Source, quarantine: QuarantineWriter, most_bad: int | None) -> None:
        self.predicted = 0
        self._unit = unit
        self._source = source
        self._quarantine = quarantine
        self._most_bad = most_bad
        self._set_aside = 0
        self._base = source.source if isinstance(source, TransformedSource) else source
        self._inner = unit if self._base is source else inner_unit(unit)
        self._records = 0
        # The records of a dataset were counted when it was made, and have the ids of what it was made of.
        self._prepared = any(isinstance(inner, DatasetSource) for inner in sources_within(self._base))
        self._tally = Tally(self._inner, numbers_through(self._base))

    @property
    def read(self) -> int:
        """Records that the source found."""
        return self._records if self._prepared else self._tally.good + self._tally.bad

    @property
    def made(self) -> int:
        """Records that transforms made of several."""
        return self.predicted if makes_records(self._source) else 0

    @property
    def left_out(self) -> int:
        """Records that filters dropped, or that others were made of."""
        return self.read + self.made - self.predicted - self._set_aside

    def batches(self, size: int) -> Iterator[Batch]:
        """What is to be predicted."""
        read = self._counted(self._base.read_unit(self._inner, size, self._bad))
        if isinstance(self._source, TransformedSource):
            read = self._source.transform_unit(self._unit, read, size, self.set_aside)
        yield from read
        if not self._prepared:
            self._tally.check_complete()

    def set_aside(self, record: BadRecord) -> None:
        """Take a record that cannot be predicted."""
        self._set_aside += 1
        self._quarantine.write(record)
        if self._most_bad is not None and self._quarantine.count > self._most_bad:
            raise _EnoughError("There are more bad records than are tolerated.")

    def refuse(self, record: int, reason: str) -> None:
        """Take a record, given by its id, that the model cannot predict."""
        bad = BadRecord.at(self._unit, 0, reason, stage="predict")
        self.set_aside(msgspec.structs.replace(bad, id=record))

    def _counted(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self._records += len(batch)
            if not self._prepared:
                self._tally.came(batch.ids)
            yield batch

    def _bad(self, record: BadRecord) -> None:
        if self._tally.set_aside(record.id):
            self.set_aside(record)


def _predict(
    batch: Batch, feeds: Sequence[Feed], model: LoadedModel, size: int, reading: _Reading
) -> tuple[Batch, dict[str, Array]]:
    """The records that can be predicted, and the outputs for them; the others are set aside in order."""
    kept: list[Batch] = []
    found: list[dict[str, Array]] = []
    for start in range(0, len(batch), size):
        some = batch.part(start, min(start + size, len(batch)))
        some, flaws, inputs = _sound(some, feeds)
        failures: Flaws = {}
        if len(some):
            outputs, failed = model.predict_images(inputs) if isinstance(inputs, list) else model.predict(inputs)
            failures = {int(some.ids[failure.row]): failure.message for failure in failed}
            good = np.flatnonzero(~np.isin(some.ids, np.fromiter(failures, np.int64, len(failures))))
            if len(good):
                whole = len(good) == len(some)
                kept.append(some if whole else some.take(good))
                found.append(outputs if whole else {name: values[good] for name, values in outputs.items()})
        for record, reason in sorted((flaws | failures).items()):
            reading.refuse(record, reason)
    if not kept:
        return batch.part(0, 0), {}
    return Batch.join(kept), {name: _join([outputs[name] for outputs in found], name) for name in found[0]}


def _sound(batch: Batch, feeds: Sequence[Feed]) -> tuple[Batch, Flaws, dict[str, Array] | list[bytes]]:
    """Records whose values the inputs can hold, why the others, by id, are none, and the inputs."""
    if feeds[0].image:
        column = batch.columns[feeds[0].columns[0]]
        return batch, {}, list(column.to_pylist())  # type: ignore[union-attr]  # bytes are in Arrow
    inputs, flaws = feed(feeds, batch.columns)
    if not flaws:
        return batch, {}, inputs
    good = np.array([row for row in range(len(batch)) if row not in flaws], np.int64)
    by_id = {int(batch.ids[row]): reason for row, reason in flaws.items()}
    return batch.take(good), by_id, {name: values[good] for name, values in inputs.items()}


def _join(values: Sequence[Array], name: str) -> Array:
    try:
        return np.concatenate(values)
    except ValueError as error:
        raise DataError(
            f"The output {name!r} has another shape from batch to batch ({error}), which rows cannot have."
        ) from error
