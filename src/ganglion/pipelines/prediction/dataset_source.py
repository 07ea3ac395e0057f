"""A prepared dataset as a source: its records with the ids that they have in it, divided into ranges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from ganglion.artifacts.store import Artifact, FolderStore
from ganglion.data import PreparedDataset, open_dataset
from ganglion.data.dataset.manifest import KIND
from ganglion.data.records.bad_record import SetAside
from ganglion.data.records.batch import Batch
from ganglion.data.records.schema import Schema
from ganglion.data.records.unit import Unit
from ganglion.data.source import PlainSource

UNIT_BYTES = 16 * 2**20
"""Bytes of the records of a unit, about."""


class DatasetSource(
    PlainSource, frozen=True, kw_only=True, dict=True, tag="ganglion.pipelines.prediction.dataset_source:DatasetSource"
):
    """The records of a prepared dataset, in its order.

    Attributes:
        store: folder of the store that has it.
        dataset: its digest.
        size: in bytes.
    """

    store: str
    dataset: str
    size: int

    @classmethod
    def of(cls, dataset: PreparedDataset) -> DatasetSource:
        """The source for a dataset that is open."""
        artifact = dataset.artifact
        return cls(store=str(dataset.store.root.absolute()), dataset=artifact.digest, size=artifact.size)

    @cached_property
    def opened(self) -> PreparedDataset:
        """The dataset."""
        artifact = Artifact(digest=self.dataset, kind=KIND, size=self.size)
        return open_dataset(artifact, FolderStore(Path(self.store)))

    @property
    def schema(self) -> Schema:
        """The columns of the dataset."""
        return self.opened.schema

    def units(self) -> Sequence[Unit]:
        """Ranges of records within the dataset's segments."""
        dataset, found = self.opened, list[Unit]()
        for segment, begin in zip(dataset.manifest.segments, dataset.starts.tolist(), strict=False):
            ranges = max(1, min(segment.records, segment.size // UNIT_BYTES))
            for number in range(ranges):
                first, last = (segment.records * place // ranges for place in (number, number + 1))
                found.append(
                    Unit(
                        number=len(found),
                        name=f"{segment.path} records {first} to {last}",
                        path=segment.path,
                        start=begin + first,
                        stop=begin + last,
                        size=segment.size // ranges,
                        records=last - first,
                        fingerprint=segment.digest,
                    )
                )
        return tuple(found)

    def read_unit(self, unit: Unit, size: int, set_aside: SetAside) -> Iterator[Batch]:
        """The records of a range; none of them is bad."""
        dataset = self.opened
        records = np.arange(unit.start, unit.stop)
        yield from Batch(dataset.slice(unit.start, unit.stop), dataset.ids(records)).pieces(size)

    def fingerprint(self) -> str:
        """The dataset's digest."""
        return self.dataset
