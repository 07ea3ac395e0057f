"""`ganglion services logs`: what the replicas of a model have written, and what they write."""

from __future__ import annotations

import os
import re
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ganglion.cli.follower import write_lines
from ganglion.core.errors import ControlError, NotFoundError, UserError, suggest
from ganglion.core.project import find_folder

if TYPE_CHECKING:
    from ganglion.serving.service_directory import ServiceEntry

_INTERVAL = 0.2
"""Seconds between two looks at what was written."""

_PIECE = 2**20
"""Bytes of a log that are read at once."""

_JOBS_INTERVAL = 1.0
"""Seconds between two looks for versions that have come."""


def logs(
    reference: Annotated[
        str, typer.Argument(metavar="NAME[:VERSION]", help="A model; without a number all of its versions that run.")
    ],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C, or until it has ended.")] = False,
    replica: Annotated[
        int | None, typer.Option("--replica", "-r", help="Number of the only replica.", min=0, show_default="all")
    ] = None,
    tail: Annotated[
        int | None, typer.Option("--tail", "-n", help="Lines at the end of each log.", min=0, show_default="all")
    ] = None,
    url: Annotated[str | None, typer.Option(help="Of the service, where several serve the model.")] = None,
) -> None:
    """Show what the replicas of a model have written: what its code prints, warnings, and why one ended.

    Of a model that is not served, because it failed or was stopped, its last service counts.

    Examples:
        ganglion services logs fashion

        ganglion services logs fashion:3 --follow --tail 10

        ganglion services logs fashion --replica 0
    """
    source = _Source(find_folder(), reference, url)
    shown = _Shown(replica, tail)
    try:
        while follow and source.runs:
            shown.look(source.jobs())
            time.sleep(_INTERVAL)
        shown.look(source.jobs(), last=True)
    except KeyboardInterrupt:
        raise typer.Exit from None
    except BrokenPipeError:  # who read it has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit from None
    if shown.logs and all(log.is_empty for log in shown.logs.values()):
        sys.stderr.write(f"Nothing was written to {', '.join(map(str, shown.logs))}.\n")
    if not shown.logs:
        which = f"replica {replica} of {reference}" if replica is not None else f"any replica of {reference}"
        raise NotFoundError(f"There is no log of {which} in {source.folder}.")


class _Source:
    """Where the logs of a model are.

    Args:
        project: the project folder.
        reference: `name` or `name:version`.
        url: of the service, or nothing.

    Attributes:
        folder: that holds a folder for each job.
    """

    def __init__(self, project: Path, reference: str, url: str | None) -> None:
        from ganglion.serving.service_client import ServiceClient

        self._name, separator, self._version = reference.partition(":")
        if separator and not self._version.isdigit():
            raise UserError(f"{reference!r} is not of the form NAME or NAME:VERSION; versions are numbers.")
        self.folder = project / "jobs"
        try:
            self._entry: ServiceEntry | None = ServiceClient(project).find(self._name, url)
        except NotFoundError:
            if url is not None:
                raise  # the service that is meant is not the last one
            self._entry = None
        self._jobs: list[tuple[str, Path]] = []
        self._looked = 0.0

    @property
    def runs(self) -> bool:
        """Whether anything may still be written."""
        return self._entry is not None and self._entry.is_running

    def jobs(self) -> list[tuple[str, Path]]:
        """The version and the folder of each job that counts.

        Raises:
            NotFoundError: there is none.
        """
        now = time.monotonic()
        if self._jobs and (not self.runs or now - self._looked < _JOBS_INTERVAL):
            return self._jobs
        self._looked = now
        self._jobs = self._served() or self._jobs or self._last()
        return self._jobs

    def _served(self) -> list[tuple[str, Path]]:
        """Of the service that runs; none where it does not serve the model any more."""
        if self._entry is None or not self._entry.is_running:
            return []
        from ganglion.serving.service_client import ask
        from ganglion.serving.service_messages import Describe

        try:
            versions = ask(self._entry, Describe())["models"].get(self._name, {}).get("versions", {})
        except ControlError:
            return []
        return [
            (str(number), self.folder / version["job"])
            for number, version in versions.items()
            if self._version in ("", str(number))
        ]

    def _last(self) -> list[tuple[str, Path]]:
        """Of the service that was started last."""
        found: list[tuple[float, str, Path]] = []
        names = set()
        for path in self.folder.glob("serve-*"):
            about = _JOB.fullmatch(path.name)
            if about is None:
                continue
            names.add(about["name"])
            if about["name"] == self._name and self._version in ("", about["version"]):
                with suppress(FileNotFoundError):  # 'ganglion clean' may run meanwhile
                    found.append((path.stat().st_mtime, about["version"], path))
        if not found:
            raise NotFoundError(f"Nothing has written a log of model {self._name!r}. {suggest(self._name, names)}")
        _at, version, path = max(found)
        return [(version, path)]


_JOB = re.compile(r"serve-(?P<name>.+)-(?P<version>\d+)-\d{8}-\d{6}-[0-9a-f]+")
_PLACE = re.compile(r"replica-(?P<number>\d+)/(?P<attempt>\d+)/log")


class _Log:
    """One growing file.

    Args:
        path: of it.
        label: that is put before each line.
        tail: lines at its end that are shown of what is there already; `None` for all.
    """

    def __init__(self, path: Path, label: str, tail: int | None) -> None:
        self._path = path
        self._label = label
        self._tail = tail
        self._position = 0
        self._rest = b""

    @property
    def is_empty(self) -> bool:
        """Whether nothing was found in it, shown or not."""
        return self._position == 0

    def show(self, *, last: bool) -> None:
        """Write the lines that are new, with `last` also one that has no end yet."""
        lines: Iterable[bytes] = self._new(last=last)
        if self._tail is not None:
            lines, self._tail = deque(lines, maxlen=self._tail), None
        write_lines(sys.stdout, self._label, lines)
        sys.stdout.flush()

    def _new(self, *, last: bool) -> Iterator[bytes]:
        """The lines that are new; a file that was removed has none, and one that was emptied begins anew."""
        with suppress(FileNotFoundError):
            size = self._path.stat().st_size
            if size < self._position:
                self._position, self._rest = 0, b""
            if size > self._position:
                with self._path.open("rb") as file:
                    file.seek(self._position)
                    while piece := file.read(_PIECE):
                        self._position += len(piece)
                        *lines, self._rest = (self._rest + piece).split(b"\n")
                        yield from lines
        if last and self._rest:
            yield self._rest
            self._rest = b""


class _Shown:
    """What was shown, and of whom.

    Args:
        replica: number of the only one; `None` for all.
        tail: lines at the end of each log that is there at the first look; `None` for all.

    Attributes:
        logs: that were found.
    """

    def __init__(self, replica: int | None, tail: int | None) -> None:
        self.logs: dict[Path, _Log] = {}
        self._replica = replica
        self._tail = tail

    def look(self, jobs: list[tuple[str, Path]], *, last: bool = False) -> None:
        """Show what is new in the logs of these jobs."""
        for version, job in jobs:
            places = ((_place(path), path) for path in job.glob("replica-*/*/log"))
            for place, path in sorted((place, path) for place, path in places if place is not None):
                number, attempt = place
                if self._replica not in (None, number):
                    continue
                if path not in self.logs:
                    again = f" attempt {attempt}" if attempt > 1 else ""
                    label = f"version {version} replica {number}{again}"
                    self.logs[path] = _Log(path, label, self._tail)
                self.logs[path].show(last=last)
        if jobs:
            self._tail = None  # whoever comes later is shown from the beginning


def _place(path: Path) -> tuple[int, int] | None:
    """Number and attempt of a replica, of `replica-0/1/log`; nothing of a path that is not so."""
    found = _PLACE.fullmatch("/".join(path.parts[-3:]))
    return (int(found["number"]), int(found["attempt"])) if found else None
