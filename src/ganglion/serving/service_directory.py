"""The model servers of a project that run now: one small file for each, `services/<id>.json`, written by its process.

A file whose process is gone is of no use to anybody and is removed by whoever comes across it.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import psutil

from ganglion.core.log import get_logger

FOLDER = "services"
_CLOCK = 0.05
"""Seconds by which two readings of the time at which one process started may differ."""

_log = get_logger(part="serving.services")


class ServiceEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A model server that can be asked.

    Attributes:
        id: of it.
        url: where its gateway answers.
        socket: path of the Unix socket on which it takes commands.
        pid: its process.
        started: when that process started, in seconds since 1970; a later one with its number has another time.
    """

    id: str
    url: str
    socket: str
    pid: int
    started: float

    @staticmethod
    def of_this_process(id_: str, url: str, socket: Path) -> ServiceEntry:
        """An entry for a server in this process."""
        return ServiceEntry(
            id=id_, url=url, socket=str(socket), pid=os.getpid(), started=psutil.Process().create_time()
        )

    @property
    def is_running(self) -> bool:
        """Whether its process is there."""
        try:
            process = psutil.Process(self.pid)
            same: bool = abs(process.create_time() - self.started) < _CLOCK
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


class ServiceDirectory:
    """Where model servers of a project find each other's callers.

    Args:
        project: the project folder.
    """

    def __init__(self, project: Path) -> None:
        self._folder = project / FOLDER

    def add(self, entry: ServiceEntry) -> Path:
        """Write an entry so that a reader sees all of it or nothing; returns its file."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{entry.id}.json"
        temporary = path.with_suffix(".partial")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(entry))
        temporary.rename(path)
        return path

    def entries(self) -> list[ServiceEntry]:
        """Servers whose process is there, by their ids; the files of others are removed."""
        found = []
        for path in sorted(self._folder.glob("*.json")):
            try:
                entry = msgspec.json.decode(path.read_bytes(), type=ServiceEntry)
            except FileNotFoundError:
                continue  # its server has just ended
            except msgspec.DecodeError as error:
                _log.warning("service_entry_damaged", path=str(path), error=str(error))
                continue
            if entry.is_running:
                found.append(entry)
            else:
                path.unlink(missing_ok=True)
                Path(entry.socket).unlink(missing_ok=True)
        return found
