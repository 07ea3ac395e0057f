"""`ganglion clean`: show what takes space, and remove what nothing refers to."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.markup import escape

from ganglion.cli.history import History
from ganglion.cli.output import console, make_table, write_json
from ganglion.core.resources import format_size
from ganglion.platform import Platform

if TYPE_CHECKING:
    from rich.console import Console

    from ganglion.artifacts.garbage import Garbage

AREAS = {
    "store": "artifacts",
    "models": "published models",
    "jobs": "logs and reports of processes",
    "runs": "journals and folders of runs",
    "memo": "results of earlier steps",
    "cache": "downloads",
    "record.db": "the record",
}
"""What lies in a project folder."""

TEMPORARY = ("cache/**/.*", "memo/**/.*", "models/.incoming-*", "models/*/.aliases.json-*")
"""Names under which something is written before it gets its own."""


class Unused(msgspec.Struct, frozen=True, kw_only=True):
    """What can go.

    Attributes:
        garbage: of the store.
        jobs: folders of jobs that belong to no run and are over.
        temporary: files and folders that an interrupted write or download has left.
    """

    garbage: Garbage
    jobs: tuple[Path, ...]
    temporary: tuple[Path, ...]

    def sizes(self) -> dict[str, dict[str, int]]:
        """Number and bytes of each sort."""
        blobs, remains = self.garbage.blobs, self.garbage.remains
        return {
            "artifacts": {"count": len(blobs), "size": sum(blob.size for blob in blobs)},
            "jobs": {"count": len(self.jobs), "size": sum(map(_size, self.jobs))},
            "temporary": {
                "count": len(remains) + len(self.temporary),
                "size": sum(file.size for file in remains) + sum(map(_size, self.temporary)),
            },
        }


def clean(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json_: Annotated[
        bool, typer.Option("--json", help="Print one JSON document and nothing else; removes only with --yes.")
    ] = False,
) -> None:
    """Show what takes space, then remove what no run, earlier result or model refers to.

    What was written within the last hour, or since the start of the oldest run that is going on, always stays.

    Examples:
        ganglion clean

        ganglion clean --yes --json
    """
    with Platform() as platform:
        use = disk_use(platform.folder)
        unused = find_unused(platform, now=time.time())
        sizes = unused.sizes()
        amount = sum(sort["size"] for sort in sizes.values())
        count = sum(sort["count"] for sort in sizes.values())
        out = console(to_error=json_)
        if not json_:
            _print_use(platform.folder, use, sizes, out)
            if count and not yes:
                typer.confirm(f"Remove {count} unused items ({format_size(amount)})?", abort=True)
        removed = count > 0 and (yes or not json_)
        if removed:
            remove(platform, unused)
        if json_:
            folder = str(platform.folder)
            write_json({"folder": folder, "use": use, "unused": sizes, "removed": amount if removed else 0})
        else:
            out.print(f"Freed {format_size(amount)}." if removed else "There is nothing to remove.")


def disk_use(folder: Path) -> dict[str, int]:
    """Bytes in each part of a project folder; whatever is not in `AREAS` under `other`."""
    use = dict.fromkeys((*AREAS, "other"), 0)
    for path in folder.iterdir() if folder.is_dir() else ():
        name = "record.db" if path.name.startswith("record.db") else path.name
        use[name if name in AREAS else "other"] += _size(path)
    return use


def find_unused(platform: Platform, *, now: float) -> Unused:
    """List what nothing refers to and no living process may need; nothing is changed.

    Args:
        platform: where to look.
        now: wall time in seconds.

    Raises:
        IntegrityError: an artifact that is referred to is damaged, so that what it refers to is not known.
    """
    from ganglion.artifacts.garbage import GRACE, find_garbage

    history = History(platform)
    runs = history.runs()
    grace = max([GRACE, *(now - run.start for run in runs if run.state == "running")])
    prefixes = tuple(f"{run.id}-" for run in runs)
    jobs = (path for path in _children(platform.folder / "jobs") if not path.name.startswith(prefixes))
    temporary = (path for pattern in TEMPORARY for path in platform.folder.glob(pattern))
    return Unused(
        garbage=find_garbage(platform.store, referenced(history), now=now, grace=grace),
        jobs=tuple(path for path in jobs if _newest(path) <= now - grace and not platform.is_running(path)),
        temporary=tuple(path for path in temporary if _newest(path) <= now - grace),
    )


def referenced(history: History) -> set[str]:
    """Digests that a run, an earlier result, a model or a dataset of a project refers to."""
    from ganglion.data.preparation.staging import kept

    platform = history.platform
    return {
        *history.artifacts(),
        *_remembered(platform.folder / "memo"),
        *_published(platform),
        *kept(platform.store),
    }


def remove(platform: Platform, unused: Unused) -> None:
    """Remove what `find_unused` has listed."""
    from ganglion.artifacts.garbage import remove_garbage

    remove_garbage(platform.store, unused.garbage)
    for path in (*unused.jobs, *unused.temporary):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _remembered(memo: Path) -> Iterator[str]:
    """Artifacts of earlier results; an entry that does not parse is never used again."""
    from ganglion.workflow.codec import references
    from ganglion.workflow.memo import MemoEntry

    for path in memo.glob("*.json"):
        try:
            entry = msgspec.json.decode(path.read_bytes(), type=MemoEntry)
        except (FileNotFoundError, msgspec.DecodeError):
            continue
        yield from (artifact.digest for artifact in references(entry.result))


def _published(platform: Platform) -> Iterator[str]:
    """Artifacts that published models come from."""
    for name in platform.repository.names():
        for version in platform.repository.versions(name):
            yield from platform.repository.manifest(name, version).lineage.values()


def _print_use(folder: Path, use: dict[str, int], sizes: dict[str, dict[str, int]], out: Console) -> None:
    table = make_table("part", "what", ">size", title=f"Disk use of {escape(str(folder))}")
    for name, size in use.items():
        if size:
            table.add_row(name, AREAS.get(name, ""), format_size(size))
    table.add_row("[bold]all[/]", "", f"[bold]{format_size(sum(use.values()))}[/]")
    out.print(table)
    unused = make_table("sort", ">count", ">size", title="\nNothing refers to")
    for name, found in sizes.items():
        unused.add_row(name, str(found["count"]), format_size(found["size"]))
    out.print(unused)


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _statuses(path: Path) -> Iterator[os.stat_result]:
    """Of a file, or of a folder and everything in it."""
    for each in (path, *path.rglob("*")):
        with contextlib.suppress(FileNotFoundError):  # gone since it was listed
            yield each.lstat()


def _size(path: Path) -> int:
    """Bytes of a file, or of the files in a folder."""
    return sum(status.st_size for status in _statuses(path) if not stat.S_ISDIR(status.st_mode))


def _newest(path: Path) -> float:
    """Wall time in seconds of the last change in a file or folder."""
    return max((status.st_mtime for status in _statuses(path)), default=0.0)
