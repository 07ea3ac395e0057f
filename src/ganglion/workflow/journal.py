"""The journal of a run: one event a line, on the disk before anybody acts on it.

`runs/<run>/journal.jsonl` is only ever appended to; the line that a crash cut short is dropped when the journal is
opened again. `runs/<run>/lock` is locked by the orchestrator while it lives, and released by the kernel however it
ends; it holds the orchestrator's process id.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType

import msgspec

from ganglion.artifacts.files import sync_folder
from ganglion.core import faults
from ganglion.core.errors import IntegrityError, UserError
from ganglion.core.run_events import AnyRunEvent, MetricReported, ResourcesSampled

JOURNAL = "journal.jsonl"
LOCK = "lock"

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(AnyRunEvent)
_UNSYNCED = (MetricReported, ResourcesSampled)
"""A crash may cost the last of these; it must not cost a transition."""


class Journal:
    """An open journal; to be closed, or used as a context manager.

    Args:
        folder: of the run; created.

    Attributes:
        run: id of the run.
        events: what it held when it was opened.

    Raises:
        UserError: another orchestrator holds the run.
        IntegrityError: a line before the last does not parse.
    """

    def __init__(self, folder: Path) -> None:
        self.run = folder.name
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise UserError(f"Run {folder.name} is being worked on by another process.") from error
        os.pwrite(self._lock, b"%-20d\n" % os.getpid(), 0)  # of one length: a reader sees no mixture of two
        path = folder / JOURNAL
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        data = path.read_bytes()
        complete = data[: data.rfind(b"\n") + 1]
        os.ftruncate(self._file, len(complete))
        self.events = _parse(complete, path)
        sync_folder(folder)

    def append(self, event: AnyRunEvent) -> None:
        """Write one event; transitions are on the disk when this returns."""
        line = _encoder.encode(event) + b"\n"
        faults.point("journal.write", event=event, file=self._file, line=line)
        while line:
            line = line[os.write(self._file, line) :]
        if not isinstance(event, _UNSYNCED):
            os.fsync(self._file)
        faults.point("journal.written", event=event)

    def close(self) -> None:
        """Close the file and give the run free."""
        os.close(self._file)
        os.close(self._lock)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def read_journal(folder: Path) -> list[AnyRunEvent]:
    """The events of the run in `folder`, whether or not it is still going on; empty when there is no journal.

    Raises:
        IntegrityError: a line before the last does not parse.
    """
    path = folder / JOURNAL
    data = path.read_bytes() if path.exists() else b""
    return _parse(data[: data.rfind(b"\n") + 1], path)


def read_first(folder: Path) -> AnyRunEvent | None:
    """The first event of the run in `folder`, if there is a readable one."""
    try:
        with (folder / JOURNAL).open("rb") as file:
            event: AnyRunEvent = _decoder.decode(file.readline())
            return event
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def is_alive(folder: Path) -> bool:
    """Whether an orchestrator holds the run in `folder`."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: whoever asks does not pass for an orchestrator
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def orchestrator(folder: Path) -> int | None:
    """Process id of the orchestrator that holds the run in `folder`; `None` when nobody does."""
    written = (folder / LOCK).read_bytes() if is_alive(folder) else b""
    return int(written) if written.strip() else None


def wait_for_end(folder: Path) -> None:
    """Return once no orchestrator holds the run in `folder`, however it ends."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _parse(data: bytes, path: Path) -> list[AnyRunEvent]:
    events: list[AnyRunEvent] = []
    for number, line in enumerate(data.splitlines(), 1):
        try:
            events.append(_decoder.decode(line))
        except msgspec.DecodeError as error:
            raise IntegrityError(f"{path}, line {number} is damaged: {error}. Delete the run to start over.") from error
    return events
