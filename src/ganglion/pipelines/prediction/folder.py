"""The folder that a batch prediction fills, and what lies in it so that it can go on where it was killed.

```
part-00000.parquet           the rows of a piece of the source; seen whole or not at all
_job.json                    what predicts what; another model or source is refused
_bad/part-00000.jsonl        records of the piece that were set aside
_work/order.msgpack          plan and source, for the processes that compute pieces
_work/done/00000.json        the report of a piece that is done: it is never computed again
_work/under-way/00000.json   how far a piece is that another process computes
_report.json                 at the end: every record accounted for
```

Readers of folders pass over names that begin with `_`.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ganglion.artifacts.files import replace_durably, sync_folder
from ganglion.core import faults
from ganglion.core.errors import DataError
from ganglion.data.dataset.manifest import BadCount
from ganglion.data.preparation.advance import Advance
from ganglion.data.preparation.plan import Piece
from ganglion.pipelines.prediction.feed import Feed
from ganglion.pipelines.prediction.rows import Format

Struct = TypeVar("Struct", bound=msgspec.Struct)

_JOB, _REPORT = "_job.json", "_report.json"


class ModelVersion(msgspec.Struct, frozen=True, kw_only=True):
    """What predicts.

    Attributes:
        name: of the model.
        version: its number.
        digest: of the version's description, which has the digests of all of its files.
    """

    name: str
    version: int
    digest: str


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What decides the rows.

    Attributes:
        model: what predicts.
        source: fingerprint of the source.
        description: the source as plain data, for people.
        columns: of the source that are kept.
        feeds: what the inputs of the model are made of.
        format: of the parts.
        part_bytes: bytes of the source that one part is of.
    """

    model: ModelVersion
    source: str
    description: dict[str, Any]
    columns: tuple[str, ...]
    feeds: tuple[Feed, ...]
    format: Format
    part_bytes: int


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What processes that compute pieces have to know.

    Attributes:
        job: what is computed.
        pieces: of the source.
        source: as plain data.
        package: folder of the model's version.
        batch: records that the model is given at once.
    """

    job: Job
    pieces: tuple[Piece, ...]
    source: dict[str, Any]
    package: str
    batch: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A piece that is done, or that was given up.

    Attributes:
        piece: its number.
        read: records that the source found.
        made: records that transforms made of several.
        predicted: rows that were written.
        set_aside: bad records.
        left_out: records that filters dropped.
        size: bytes of the values of the records that were predicted.
        bad: bad records, counted.
        complete: whether it was read to its end; otherwise there were more bad records than are tolerated.
    """

    piece: int
    read: int
    made: int
    predicted: int
    set_aside: int
    left_out: int
    size: int
    bad: tuple[BadCount, ...] = ()
    complete: bool = True


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a batch prediction: `read + made = predicted + set_aside + left_out`.

    Attributes:
        model: what predicted.
        source: fingerprint of the source.
        parts: names of the files, in the order of the records.
        read: records that the source found.
        made: records that transforms made of several.
        predicted: rows that were written.
        set_aside: bad records.
        left_out: records that filters dropped.
        bad: bad records, counted.
    """

    model: ModelVersion
    source: str
    parts: tuple[str, ...]
    read: int
    made: int
    predicted: int
    set_aside: int
    left_out: int
    bad: tuple[BadCount, ...] = ()


class PredictionFolder:
    """The folder of one batch prediction; processes on other machines reach it by the same path.

    Attributes:
        path: where it is.

    Args:
        path: where it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._work = path / "_work"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only one who fills the folder; waits for another one. The folder is made where it is missing.

        Raises:
            DataError: it cannot be a folder.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{self.path} cannot be a folder of predictions: {error.strerror}.") from error
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def claim(self, job: Job) -> None:
        """Say what the folder is for.

        Raises:
            DataError: it is for something else; the message says what the difference is.
        """
        found = _read(self.path / _JOB, Job)
        if found is None:
            if others := sorted(path.name for path in self.path.iterdir() if not path.name.startswith("._")):
                raise DataError(
                    f"{self.path} is not empty ({', '.join(others[:3])}); predictions need a folder of their own."
                )
            replace_durably(self.path / _JOB, (msgspec.json.format(msgspec.json.encode(job)),))
        elif different := _difference(found, job):
            raise DataError(
                f"{self.path} holds {different}. Give another folder for these predictions, or delete this one."
            )

    def write_order(self, order: Order) -> None:
        """Leave the order for the processes that compute pieces."""
        replace_durably(self._work / "order.msgpack", (msgspec.msgpack.encode(order),))

    def read_order(self) -> Order:
        """The order that was left."""
        return msgspec.msgpack.decode((self._work / "order.msgpack").read_bytes(), type=Order)

    def is_ordered(self) -> bool:
        """Whether the order still stands."""
        return (self._work / "order.msgpack").exists()

    def withdraw_order(self) -> None:
        """Let processes that compute pieces end after the one that they are at."""
        (self._work / "order.msgpack").unlink(missing_ok=True)

    def part(self, piece: int, form: Format) -> Path:
        """The file with the rows of a piece."""
        return self.path / f"part-{piece:05d}.{form}"

    def bad(self, piece: int) -> Path:
        """The file with the bad records of a piece."""
        return self.path / "_bad" / f"part-{piece:05d}.jsonl"

    @contextmanager
    def new_part(self, piece: int, form: Format) -> Iterator[Path]:
        """A place to write a part to, which gets its name at the end of the block, and only if all went well."""
        self._work.mkdir(exist_ok=True)
        temporary = self._work / f"part-{piece:05d}.{secrets.token_hex(8)}"
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            faults.point("prediction.part", piece=piece)
            os.replace(temporary, self.part(piece, form))
            sync_folder(self.path)
        finally:
            temporary.unlink(missing_ok=True)

    def write_report(self, report: Report) -> None:
        """Say that a piece is done."""
        faults.point("prediction.report", piece=report.piece)
        replace_durably(self._done(report.piece), (msgspec.json.encode(report),))

    def report(self, piece: int, form: Format) -> Report | None:
        """The report of a piece that is done."""
        return _read(self._done(piece), Report) if self.part(piece, form).is_file() else None

    def finished(self) -> int:
        """How many pieces are done, and will not be computed again."""
        return len(list((self._work / "done").glob("*.json")))

    def note(self, piece: int, advance: Advance) -> None:
        """Leave how far a piece is; nothing is lost with it."""
        path = self._under_way(piece)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".part")
        temporary.write_bytes(msgspec.json.encode(advance))
        os.replace(temporary, path)

    def advance(self, piece: int) -> Advance | None:
        """How far a piece is, if somebody noted it."""
        return _read(self._under_way(piece), Advance)

    def summary(self) -> Summary | None:
        """The end, if it was reached and every part is there."""
        found = _read(self.path / _REPORT, Summary)
        return found if found is not None and all((self.path / part).is_file() for part in found.parts) else None

    def finish(self, summary: Summary) -> None:
        """Write the end down, and remove what led to it."""
        faults.point("prediction.finish")
        replace_durably(self.path / _REPORT, (msgspec.json.format(msgspec.json.encode(summary)),))
        shutil.rmtree(self._work, ignore_errors=True)

    def _done(self, piece: int) -> Path:
        return self._work / "done" / f"{piece:05d}.json"

    def _under_way(self, piece: int) -> Path:
        return self._work / "under-way" / f"{piece:05d}.json"


def _difference(found: Job, job: Job) -> str:
    """What a folder holds other than what is wanted; empty where it is the same."""
    was, now = found.model, job.model
    if was != now:
        other = f"version {was.version} of {was.name!r}"
        return f"predictions of {other}, and {now.name!r} version {now.version} was asked" + (
            "; its content is another one" if (was.name, was.version) == (now.name, now.version) else ""
        )
    if found.source != job.source:
        return "predictions for another source, or for this one before it changed"
    if found.columns != job.columns:
        return (
            f"predictions with the columns {', '.join(found.columns) or 'none'}, not {', '.join(job.columns) or 'none'}"
        )
    if found.format != job.format:
        return f"predictions as {found.format}, not {job.format}"
    if (found.feeds, found.part_bytes) != (job.feeds, job.part_bytes):
        return "predictions of other columns for the inputs of the model, or divided in another way"
    return ""


def _read(path: Path, kind: type[Struct]) -> Struct | None:
    """What a file says; one that is not there says nothing."""
    with suppress(FileNotFoundError):
        try:
            return msgspec.json.decode(path.read_bytes(), type=kind)
        except msgspec.DecodeError as error:
            raise DataError(f"{path} does not parse: {error}. Delete the folder and start anew.") from error
    return None
