"""`ingest`: a source becomes a prepared dataset, divided into a part to learn from and a part held out."""

from __future__ import annotations

from typing import Any

import msgspec

from ganglion.artifacts.store import Artifact
from ganglion.core.resources import Resources
from ganglion.data import PlainSource, PreparedDataset, Progress, Split, limit, open_dataset, prepare, prepare_elsewhere
from ganglion.data.dataset.quarantine import MAX_BAD, MaxBad
from ganglion.execution.entry import Entry
from ganglion.execution.spec import Task
from ganglion.workflow import Host, operation

TRAIN, HELD_OUT = "train", "held_out"


class TrainingData(msgspec.Struct, frozen=True, kw_only=True):
    """A prepared dataset and how it is divided.

    Attributes:
        dataset: the prepared dataset.
        split: into the parts `train` and `held_out`.
        count: records in all.
        image: height and width of the field `image`, if the records have one.
        classes: names of the classes that labels number, where the source knows them.
    """

    dataset: Artifact
    split: Split
    count: int
    image: tuple[int, int] | None
    classes: tuple[str, ...] = ()


@operation(kind="ingestion", resources=Resources(cpu=0.5), preload=("numpy", "ganglion.data.preparation.driver"))
def ingest(
    host: Host,
    /,
    source: PlainSource,
    held_out: float = 0.1,
    split_seed: int = 0,
    max_bad: MaxBad = MAX_BAD,
    workers: int = 1,
    memory: int = 512 * 2**20,
) -> TrainingData:
    """Read `source` once and keep it prepared; run again, this is skipped while the source has not changed.

    Killed on the way, it goes on where it was.

    Args:
        host: given by the engine.
        source: where the records come from.
        held_out: fraction of the records that is never trained on.
        split_seed: which records these are.
        max_bad: bad records that are tolerated, as a count or, as a float, a share of all; they are set aside.
        workers: processes that read parts of the source at the same time.
        memory: bytes that they may take together for records.
    """
    call = host.call

    def run(entry: str, arguments: dict[str, Any]) -> Any:
        spec = Task(
            id=host.job_id(),
            entry=Entry(path=entry),
            arguments=arguments,
            resources=call.options.resources,
            environment=call.options.environment,
            import_path=call.import_path,
            preload=call.options.preload,
            numerics=call.options.numerics,
            timeout=call.options.timeout,
            labels=call.labels,
        )
        outcome = host.run(spec)
        outcome.raise_for_failure()
        return outcome.value

    def progress(progress: Progress) -> None:
        host.report({"records": progress.records})

    limited = limit(source, call.limit)
    if workers == 1 or host.inline or host.supervisor is None:
        artifact = prepare_elsewhere(limited, call.store, run, max_bad=max_bad, memory=memory)
        prepared = open_dataset(artifact, call.store)
    else:
        prepared = prepare(
            limited, call.store, max_bad=max_bad, memory=memory, workers=workers, run=run, progress=progress
        )
    host.report({"records": prepared.count, "bad_records": prepared.manifest.set_aside})
    return training_data(prepared, held_out, split_seed)


def training_data(prepared: PreparedDataset, held_out: float, split_seed: int) -> TrainingData:
    """Divide a prepared dataset at random.

    Args:
        prepared: the dataset.
        held_out: fraction of the records that is never trained on.
        split_seed: which records these are.
    """
    image = next((field for field in prepared.schema if field.name == "image"), None)
    return TrainingData(
        dataset=prepared.artifact,
        split=Split({TRAIN: 1.0 - held_out, HELD_OUT: held_out}, split_seed),
        count=prepared.count,
        image=(image.shape[0], image.shape[1]) if image and len(image.shape) >= 2 else None,
        classes=prepared.manifest.classes.get("label", ()),
    )
