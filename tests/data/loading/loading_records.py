"""Records, transforms and digests that the tests of loading share; processes of loaders import it too."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from ganglion.artifacts.store import FolderStore
from ganglion.core.errors import OutageError
from ganglion.data import JsonLinesSource, prepare
from ganglion.data.dataset.prepared import PreparedDataset
from ganglion.data.records.batch import Batch
from ganglion.data.records.draw import Draw
from ganglion.data.records.schema import Field, Schema
from ganglion.data.sources.transformed import TransformedSource
from ganglion.data.transform import Transform
from ganglion.data.transforms.pack import Pack

LENGTH = 16


def packed_dataset(folder: Path, store: FolderStore, lines: int = 3000) -> PreparedDataset:
    random = np.random.default_rng(7)
    with (folder / "documents.jsonl").open("w") as file:
        for number in range(lines):
            tokens = random.integers(1, 1000, random.integers(1, 20)).tolist()
            file.write('{"tokens": [1, 2\n' if number % 100 == 50 else json.dumps({"tokens": tokens}) + "\n")
    source = JsonLinesSource(paths=str(folder / "documents.jsonl"))
    packed = TransformedSource(source=source, transforms=(Pack("tokens", LENGTH),))
    return prepare(packed, store, max_bad=0.05, segment_bytes=60_000)


class Strict(Transform, frozen=True, tag="loading_records:Strict"):
    """Fails on about one record in a hundred, and does not say on which."""

    def schema(self, given: Schema) -> Schema:
        return given

    def apply(self, batch: Batch, draw: Draw) -> Batch:
        if (batch.columns["tokens"][:, 3] % 100 == 77).any():
            raise ValueError("77 is not a token")
        return batch


class Keep(Transform, frozen=True, tag="loading_records:Keep"):
    """Leaves out one record in three or so."""

    @property
    def keeps_records(self) -> bool:
        return False

    def schema(self, given: Schema) -> Schema:
        return given

    def apply(self, batch: Batch, draw: Draw) -> Batch:
        return batch.take(np.flatnonzero(batch.columns["tokens"][:, 0] % 3 != 0))


class Jitter(Transform, frozen=True, tag="loading_records:Jitter"):
    """Adds noise that is another one in each epoch."""

    def schema(self, given: Schema) -> Schema:
        return given

    def apply(self, batch: Batch, draw: Draw) -> Batch:
        noise = (draw.bits(batch.ids, "jitter", LENGTH) % np.uint64(5)).astype(batch.columns["tokens"].dtype)
        return batch.having({**batch.columns, "tokens": batch.columns["tokens"] + noise})


class Away(Transform, frozen=True, tag="loading_records:Away"):
    """Needs something that is away as long as a file is there."""

    file: str

    def schema(self, given: Schema) -> Schema:
        return given

    def apply(self, batch: Batch, draw: Draw) -> Batch:
        if Path(self.file).exists() and (batch.ids % 1000 == 400).any():
            raise OutageError("The thesaurus does not answer.")
        return batch


class Deadly(Transform, frozen=True, tag="loading_records:Deadly"):
    """Ends the process it is applied in."""

    def schema(self, given: Schema) -> Schema:
        return given

    def apply(self, batch: Batch, draw: Draw) -> Batch:
        import os

        os._exit(3)


class Brighten(Transform, frozen=True, tag="loading_records:Brighten"):
    """Pixels as numbers, each image by its own mean; in Python, and with copies on the way."""

    column: str

    def schema(self, given: Schema) -> Schema:
        return tuple(Field(field.name, "float32", field.shape) for field in given)

    def apply(self, batch: Batch, draw: Draw) -> Batch:
        pixels = batch.columns[self.column]
        means = [float(image.mean()) for image in pixels]
        shifted = pixels.astype(np.float32) - np.array(means, np.float32)[:, None, None]
        return batch.having({self.column: shifted / np.float32(255)})


TRANSFORMS = (Strict(), Keep(), Jitter())


def digest(batch: Batch) -> str:
    """A digest of everything that a batch has."""
    state = hashlib.sha256(batch.ids.tobytes())
    for name, column in batch.columns.items():
        state.update(name.encode() + np.ascontiguousarray(column).tobytes())
    return state.hexdigest()


def global_batch(pieces: list[Batch]) -> str:
    """The digest of the records of all ranks."""
    return digest(Batch.join(pieces))
