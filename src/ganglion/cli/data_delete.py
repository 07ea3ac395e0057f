"""`ganglion data delete`: who uses a prepared dataset, and its removal."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from ganglion.cli.clean import referenced
from ganglion.cli.history import History
from ganglion.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """What refers to a dataset.

    Attributes:
        runs: ids of the runs that made or used it, in order.
        models: versions of models that come from it, such as `light:3`, in order.
        going_on: those of the runs that are not over.
    """

    runs: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    going_on: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """All of it in one line; empty where nothing refers to the dataset."""
        several = {"run": self.runs, "model": self.models}
        return " and ".join(f"{what} {', '.join(names)}" for what, names in several.items() if names)

    def check(self, dataset: str, *, force: bool) -> None:
        """Refuse to delete what is needed.

        Args:
            dataset: as it was named.
            force: whether runs that are over, and models, may be left without it.

        Raises:
            UserError: it is needed.
        """
        if self.going_on:
            raise UserError(
                f"Dataset {dataset} is used by run {', '.join(self.going_on)}, which is going on. End it first: "
                f"ganglion stop {self.going_on[0]}."
            )
        if self.text and not force:
            raise UserError(
                f"Dataset {dataset} is referred to by {self.text}. Delete these first, or give --force: they stay, "
                "and cannot be made again from it."
            )


def find_use(digest: str, history: History) -> Use:
    """Who refers to a dataset, by the record and the published models."""
    platform = history.platform
    runs = {run for run, digests in _uses(digest, history) if digest in digests}
    models = (
        f"{name}:{version}"
        for name in platform.repository.names()
        for version in platform.repository.versions(name)
        if digest in platform.repository.manifest(name, version).lineage.values()
    )
    alive = {run.id for run in history.runs(state="running")}
    return Use(runs=tuple(sorted(runs)), models=tuple(sorted(models)), going_on=tuple(sorted(runs & alive)))


def delete_dataset(digest: str, history: History) -> int:
    """Remove a dataset: what finds it, and those of its files that nothing else refers to, other datasets included.

    Whoever has it open goes on reading what is gone.

    Returns:
        Bytes that were freed.
    """
    from ganglion.artifacts.garbage import find_garbage, remove_garbage
    from ganglion.data.preparation.staging import forget

    store = history.platform.store
    own = {digest, *store.references(digest)}
    forget(store, digest)
    unused = find_garbage(store, referenced(history) - {digest}, now=time.time(), grace=0.0)
    gone = tuple(blob for blob in unused.blobs if blob.digest in own)
    return remove_garbage(store, msgspec.structs.replace(unused, blobs=gone, remains=()))


def _uses(digest: str, history: History) -> Iterator[tuple[str, set[str]]]:
    """Steps on the way to the dataset and from it: the run, and what the step used and made."""
    from ganglion.metadata.lineage import downstream, upstream

    if digest not in history.artifacts():
        return
    for direction in (upstream, downstream):
        for step in direction(history.platform.record, digest).steps:
            yield step.run, {artifact.digest for artifact in (*step.inputs, *step.outputs)}
