"""What a preparation leaves on the way, so that it can go on where it was killed; and where it finds what it made.

```
store/prepared/<key>/
  lock                     held by whoever carries the preparation out
  plan.msgpack             for processes that write pieces
  pieces/00003.json        the report of a piece that is written; its segments are in the store
  quarantine/00003.jsonl   bad records, from the moment they are found
  under-way/00003.json     how far a piece is that another process writes
  done.json                the dataset, once it is committed
store/prepared/ages/<description>.json   the newest dataset of a source, found without looking at the source
```

A report and an end are seen whole or not at all. Segments go to the store as they are written, so that nothing is
copied when the dataset is committed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from ganglion.artifacts.files import replace_durably
from ganglion.artifacts.store import Artifact, FolderStore
from ganglion.core import faults
from ganglion.data.dataset.manifest import Account, BadCount
from ganglion.data.preparation.advance import Advance
from ganglion.data.preparation.plan import Plan
from ganglion.data.preparation.segment_writer import Written

FOLDER = "prepared"
"""Name of the folder in the store."""

Struct = TypeVar("Struct", bound=msgspec.Struct)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A piece as it was written.

    Attributes:
        piece: its number.
        segments: in order.
        accounts: of its units, in order.
        bad: its bad records, counted.
        quarantine: all of them, if there is one.
        complete: whether it was read to its end; otherwise there were more bad records than are tolerated.
    """

    piece: int
    segments: tuple[Written, ...] = ()
    accounts: tuple[Account, ...] = ()
    bad: tuple[BadCount, ...] = ()
    quarantine: Artifact | None = None
    complete: bool = True

    @property
    def read(self) -> int:
        """Records that the source found."""
        return sum(account.read for account in self.accounts)

    @property
    def set_aside(self) -> int:
        """Records in quarantine."""
        return sum(account.set_aside for account in self.accounts)


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """A dataset that was committed.

    Attributes:
        artifact: the dataset.
        at: wall time in seconds when its source was last seen to be what it was made from.
    """

    artifact: Artifact
    at: float


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """A plan, and the digest of the source that it is for: plain data in the store."""

    plan: Plan
    source: str


class Staging:
    """The folder of one preparation.

    Attributes:
        folder: where it is.

    Args:
        store: where the dataset will be.
        key: of the preparation.
    """

    def __init__(self, store: FolderStore, key: str) -> None:
        self._store = store
        self.folder = store.root / FOLDER / key

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only one who carries this preparation out; waits for another one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("ab") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    def write_order(self, order: Order) -> None:
        """Leave the plan for other processes."""
        replace_durably(self.folder / "plan.msgpack", (msgspec.msgpack.encode(order),))

    def read_order(self) -> Order:
        """The plan that was left."""
        return msgspec.msgpack.decode((self.folder / "plan.msgpack").read_bytes(), type=Order)

    def quarantine(self, piece: int) -> Path:
        """Where the bad records of a piece are written."""
        return self.folder / "quarantine" / f"{piece:05d}.jsonl"

    def write_report(self, report: Report) -> None:
        """Say that a piece is written."""
        faults.point("data.report", piece=report.piece)
        replace_durably(self._report(report.piece), (msgspec.json.encode(report),))

    def note(self, piece: int, advance: Advance) -> None:
        """Leave how far a piece is; nothing is lost with it."""
        path = self._advance(piece)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".part")
        temporary.write_bytes(msgspec.json.encode(advance))
        os.replace(temporary, path)

    def advance(self, piece: int) -> Advance | None:
        """How far a piece is, if somebody noted it."""
        return _read(self._advance(piece), Advance)

    def report(self, piece: int) -> Report | None:
        """The report of a piece, if it is written and all of it is still in the store."""
        report = _read(self._report(piece), Report)
        if report is None:
            return None
        digests = [segment.digest for segment in report.segments]
        if report.quarantine is not None:
            digests.append(report.quarantine.digest)
        return report if all(digest in self._store for digest in digests) else None

    def made(self) -> Made | None:
        """The dataset, if it was committed and is still in the store."""
        return _existing(self._store, _read(self.folder / "done.json", Made))

    def finish(self, made: Made) -> None:
        """Remember the dataset and remove what led to it."""
        replace_durably(self.folder / "done.json", (msgspec.json.encode(made),))
        for name in ("pieces", "quarantine", "under-way"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        (self.folder / "plan.msgpack").unlink(missing_ok=True)

    def _advance(self, piece: int) -> Path:
        return self.folder / "under-way" / f"{piece:05d}.json"

    def _report(self, piece: int) -> Path:
        return self.folder / "pieces" / f"{piece:05d}.json"


def newest(store: FolderStore, description: str) -> Made | None:
    """The dataset that was made last of a source of this description, if it is still in the store."""
    return _existing(store, _read(_age(store, description), Made))


def remember(store: FolderStore, description: str, made: Made) -> None:
    """Make a dataset what `newest` finds."""
    replace_durably(_age(store, description), (msgspec.json.encode(made),))


def forget(store: FolderStore, digest: str) -> None:
    """Remove everything by which a dataset would be found again; its files stay in the store.

    Args:
        store: where it is.
        digest: of the dataset.
    """
    root = store.root / FOLDER
    for path in [*root.glob("ages/*.json"), *root.glob("*/done.json")]:
        made = _read(path, Made)
        if made is not None and made.artifact.digest == digest:
            path.unlink(missing_ok=True)


def kept(store: FolderStore) -> Iterator[str]:
    """Digests that datasets in the cache, and preparations that were interrupted, refer to."""
    for path in sorted((store.root / FOLDER).glob("*/done.json")):
        if made := _read(path, Made):
            yield made.artifact.digest
    for path in sorted((store.root / FOLDER).glob("*/pieces/*.json")):
        if report := _read(path, Report):
            yield from (segment.digest for segment in report.segments)
            if report.quarantine is not None:
                yield report.quarantine.digest


def _age(store: FolderStore, description: str) -> Path:
    return store.root / FOLDER / "ages" / f"{description}.json"


def _existing(store: FolderStore, made: Made | None) -> Made | None:
    if made is None or made.artifact not in store:
        return None
    return made if all(digest in store for digest in store.references(made.artifact)) else None


def _read(path: Path, kind: type[Struct]) -> Struct | None:
    """What a file says; one that cannot be read says nothing."""
    with suppress(FileNotFoundError, msgspec.DecodeError):
        return msgspec.json.decode(path.read_bytes(), type=kind)
    return None
