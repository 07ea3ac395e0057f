"""`ingest`: a source becomes a prepared dataset, divided into a part to learn from and a part held out."""

from __future__ import annotations

import msgspec

from ganglion.artifacts.store import Artifact
from ganglion.core.resources import Resources
from ganglion.data import PlainSource, Split, limit, prepare
from ganglion.workflow import current_step, step

TRAIN, HELD_OUT = "train", "held_out"


class TrainingData(msgspec.Struct, frozen=True, kw_only=True):
    """A prepared dataset and how it is divided.

    Attributes:
        dataset: the prepared dataset.
        split: into the parts `train` and `held_out`.
        count: records in all.
        image: height and width of the field `image`, if the records have one.
    """

    dataset: Artifact
    split: Split
    count: int
    image: tuple[int, int] | None


@step(resources=Resources(cpu=0.5), preload=("numpy",))
def ingest(source: PlainSource, held_out: float = 0.1, split_seed: int = 0, shards: int | None = None) -> TrainingData:
    """Read `source` once and keep it prepared; run again, this is skipped while the source has not changed.

    Args:
        source: where the records come from.
        held_out: fraction of the records that is never trained on.
        split_seed: which records these are.
        shards: how many files each column is cut into; `None` for as few as are of a sensible size.
    """
    context = current_step()
    prepared = prepare(limit(source, context.limit), context.store, shards=shards)
    context.report({"records": prepared.count})
    image = next((field for field in prepared.schema if field.name == "image"), None)
    return TrainingData(
        dataset=prepared.artifact,
        split=Split({TRAIN: 1.0 - held_out, HELD_OUT: held_out}, split_seed),
        count=prepared.count,
        image=(image.shape[0], image.shape[1]) if image and len(image.shape) >= 2 else None,
    )
