"""Results of earlier executions, by fingerprint.

```
memo/<fingerprint>.json          a result with when, by which run, and what it depended on
memo/latest/<name>.json          what the newest execution of a step depended on, to say what has changed since
```
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from ganglion.artifacts.files import replace_durably
from ganglion.artifacts.store import FolderStore
from ganglion.core.clock import Clock
from ganglion.core.errors import IntegrityError, NotFoundError
from ganglion.workflow.codec import references
from ganglion.workflow.fingerprint import Fingerprint, what_changed


class MemoEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A remembered execution.

    Attributes:
        at: when it ended; wall seconds.
        run: id of its run.
        step: name of the step in that run.
        parts: see `Fingerprint.parts`.
        result: encoded.
        metrics: the last value of every metric it reported.
    """

    at: float
    run: str
    step: str
    parts: dict[str, str]
    result: Any = None
    metrics: dict[str, float] = {}


class Lookup(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to whether an execution can be skipped.

    Attributes:
        entry: the earlier execution to use; `None` for a miss.
        reason: `hit: ...` or `miss: ...`, for a person.
    """

    entry: MemoEntry | None
    reason: str


class Memo:
    """The memory of a project.

    Args:
        folder: where it is kept; created when something is remembered.
        store: where the artifacts of results are.
        clock: for ages.
    """

    def __init__(self, folder: Path, store: FolderStore, clock: Clock) -> None:
        self._folder = folder
        self._store = store
        self._clock = clock

    def look_up(self, fingerprint: Fingerprint, *, owner: str, max_age: float | None = None) -> Lookup:
        """Find an earlier result.

        Args:
            fingerprint: of the execution.
            owner: pipeline and step, for saying what has changed since its newest execution.
            max_age: seconds; an older result is not used.
        """
        if fingerprint.digest is None:
            return Lookup(entry=None, reason=f"miss: cannot be fingerprinted ({fingerprint.reason})")
        entry = _read(self._folder / f"{fingerprint.digest}.json")
        if entry is None:
            return Lookup(entry=None, reason=f"miss: {self._difference(fingerprint, owner)}")
        age = max(0.0, self._clock.now() - entry.at)
        if max_age is not None and age >= max_age:
            reason = f"miss: the result is {format_duration(age)} old, max_age is {format_duration(max_age)}"
            return Lookup(entry=None, reason=reason)
        if damage := self._damage(entry):
            return Lookup(entry=None, reason=f"miss: {damage}")
        return Lookup(
            entry=entry, reason=f"hit: same code, inputs and environment as in {entry.run}, {format_duration(age)} ago"
        )

    def remember(self, fingerprint: Fingerprint, entry: MemoEntry, *, owner: str, final: bool = True) -> None:
        """Keep a result; one of the same fingerprint is replaced.

        Args:
            fingerprint: of the execution; the result of one without a digest is not kept.
            entry: what to keep.
            owner: as for `look_up`.
            final: whether later executions are compared with this one; not so for intermediate results.
        """
        if fingerprint.digest is not None:
            replace_durably(self._folder / f"{fingerprint.digest}.json", (msgspec.json.encode(entry),))
        if final:
            latest = msgspec.structs.replace(entry, result=None)
            replace_durably(self._latest(owner), (msgspec.json.encode(latest),))

    def _difference(self, fingerprint: Fingerprint, owner: str) -> str:
        latest = _read(self._latest(owner))
        if latest is None:
            return "no earlier result"
        return what_changed(latest.parts, fingerprint.parts) or "the earlier result was deleted"

    def _damage(self, entry: MemoEntry) -> str:
        try:
            for artifact in references(entry.result):
                self._store.verify(artifact.digest)
                for digest in self._store.references(artifact.digest):
                    self._store.verify(digest)
        except NotFoundError:
            return f"an artifact of the earlier result ({artifact.kind} {artifact.digest[:19]}) is gone"
        except IntegrityError:
            return f"an artifact of the earlier result ({artifact.kind} {artifact.digest[:19]}) is damaged"
        return ""

    def _latest(self, owner: str) -> Path:
        return self._folder / "latest" / f"{hashlib.sha256(owner.encode()).hexdigest()[:32]}.json"


def format_duration(seconds: float) -> str:
    """Write a duration for a person: `3.5 h`."""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def _read(path: Path) -> MemoEntry | None:
    """The entry in a file; an unreadable one is as good as none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=MemoEntry)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
