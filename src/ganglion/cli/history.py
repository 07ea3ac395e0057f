"""The runs of a project as they stand now: what the record says, corrected by who is alive."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ganglion.core.errors import IntegrityError, NotFoundError
from ganglion.core.log import get_logger

if TYPE_CHECKING:
    from ganglion.metadata.views import ModelVersionInfo, RunDetail, RunSummary
    from ganglion.platform import Platform

INTERRUPTED = "interrupted"
"""State of a run whose orchestrator died before the run was over."""

STATES = ("running", INTERRUPTED, "succeeded", "failed", "cancelled")
"""Every state that a run is shown in."""

LATEST = "latest"
"""Stands for the id of the newest run."""


class History:
    """The runs of a platform.

    What orchestrators that died could no longer bring into the record is taken from their journals first. A project
    in which nothing has run yet is left as it is.

    Attributes:
        platform: whose runs these are.
    """

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self._folder = platform.folder / "runs"
        self._dead: set[str] = set()
        if self._exists():
            self._catch_up()

    def runs(self, *, limit: int | None = None, state: str | None = None) -> tuple[RunSummary, ...]:
        """The newest runs, newest first; at most `limit`, and of one of `STATES` if one is given."""
        from ganglion.metadata import queries

        if not self._exists():
            return ()
        recorded = "running" if state == INTERRUPTED else state
        found = queries.runs(self.platform.record, limit=limit if recorded == state else None, state=recorded)
        standing = [_interrupted_summary(run) if self._is_interrupted(run) else run for run in found]
        return tuple(run for run in standing if state in (None, run.state))[:limit]

    def find(self, text: str) -> RunDetail:
        """Everything about the run that `text` names: an id, the beginning of one, or `latest`.

        Raises:
            NotFoundError: there is no such run, or the beginning is that of several.
        """
        from ganglion.metadata import queries

        newest = self.runs(limit=1)
        if not newest:
            raise NotFoundError(f"There are no runs in {self.platform.folder}; start one with: ganglion run FILE.")
        found = queries.run(self.platform.record, newest[0].id if text == LATEST else text)
        if not self._is_interrupted(found):
            return found
        replace = msgspec.structs.replace
        steps = (replace(step, state=INTERRUPTED) if step.state == "running" else step for step in found.steps)
        return replace(found, state=INTERRUPTED, steps=tuple(steps))

    def published(self, model: str) -> dict[int, ModelVersionInfo]:
        """What the record has of the versions of a model, by version."""
        from ganglion.metadata import queries

        if not self._exists():
            return {}
        return {found.version: found for found in queries.model_versions(self.platform.record, model)}

    def artifacts(self) -> frozenset[str]:
        """Digests of what any run has used or made."""
        from ganglion.metadata.lineage import artifact_references

        return artifact_references(self.platform.record) if self._exists() else frozenset()

    def _exists(self) -> bool:
        return self._folder.is_dir() or (self.platform.folder / "record.db").is_file()

    def _catch_up(self) -> None:
        from ganglion.metadata import queries
        from ganglion.workflow.journal import is_alive, read_journal

        folders = list(self._folder.iterdir()) if self._folder.is_dir() else []
        self._dead = {folder.name for folder in folders if not is_alive(folder)}
        known = {run.id: run.state for run in queries.runs(self.platform.record, limit=None)}
        for run in self._dead:
            if known.get(run, "running") == "running":
                try:
                    self.platform.record.apply_all(read_journal(self._folder / run))
                except IntegrityError as error:
                    get_logger(run=run).warning("the journal cannot be read", error=str(error))

    def _is_interrupted(self, run: RunSummary | RunDetail) -> bool:
        return run.state == "running" and (run.id in self._dead or not (self._folder / run.id).is_dir())


def _interrupted_summary(run: RunSummary) -> RunSummary:
    steps = {INTERRUPTED if state == "running" else state: count for state, count in run.steps.items()}
    return msgspec.structs.replace(run, state=INTERRUPTED, steps=steps)
