"""Going on at 90% of an epoch: `python -m benchmarks.data.resume [--json] [--repetitions N]`.

Up to 10^6 records: a dataset is opened, a loader made, its state loaded, and the first batch awaited. Beyond that the
plan alone, which says which records the batch has: nothing else depends on how many there are. The target is 20 ms,
whatever the number of records.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.harness import Case, environment, measure, show
from ganglion.artifacts.store import Artifact, FolderStore
from ganglion.data import ArraySource, Loader, prepare
from ganglion.data.dataset.prepared import PreparedDataset
from ganglion.data.loading.batch_plan import BatchPlan, Span
from ganglion.data.order import Order
from ganglion.data.parts.part import whole
from ganglion.data.parts.split import Split

BATCH, VALUES = 256, 20
LOADED = (10**4, 10**5, 10**6)
PLANNED = (10**4, 10**6, 10**9, 10**12)
SPLIT = Split({"train": 0.9, "held_out": 0.1}, seed=1)


def resume(artifact: Artifact, store: FolderStore, state: str) -> float:
    """Seconds from the state of a run to its next batch."""
    begin = time.perf_counter()
    dataset = PreparedDataset(artifact, store)
    loader = Loader(dataset, SPLIT.part("train", dataset), global_batch=BATCH, seed=3)
    loader.load_state_dict(json.loads(state))
    batches = iter(loader)
    delivered = next(batches)
    seconds = time.perf_counter() - begin
    assert len(delivered) == BATCH, "nine tenths of an epoch are not its end"
    batches.close()  # type: ignore[attr-defined]  # it is a generator
    return seconds


def plan(records: int) -> float:
    """Seconds from nothing to the records of a batch, of a dataset that there is no room for."""
    begin = time.perf_counter()
    planned = BatchPlan(whole(records), Order(records, 3), BATCH)
    steps = next(planned.epoch(7, Span(0, 1, 1), planned.steps * 9 // 10))
    seconds = time.perf_counter() - begin
    assert len(steps.records) == BATCH, "nine tenths of an epoch are not its end"
    return seconds


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--repetitions", type=int, default=20)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = FolderStore(Path(folder))
        cases = []
        for records in LOADED:
            rows = np.random.default_rng(0).standard_normal((records, VALUES), np.float32)
            dataset = prepare(ArraySource({"row": rows}), store)
            loader = Loader(dataset, SPLIT.part("train", dataset), global_batch=BATCH, seed=3)
            state = json.dumps(loader.state_dict() | {"epoch": 7, "step": loader.steps_per_epoch * 9 // 10})
            assert len(state) <= 256, "the state has a bound"
            against = cases[0].name if cases else None
            cases.append(
                Case(
                    name=f"first batch, {records:,} records",
                    run=partial(resume, dataset.artifact, store, state),
                    against=against,
                    note=f"at most 20 ms; state {len(state)} bytes",
                )
            )
        first = f"plan, {PLANNED[0]:,} records"
        cases += [
            Case(name=f"plan, {records:,} records", run=partial(plan, records), against=first) for records in PLANNED
        ]
        measurements = measure(cases, given.repetitions)
    show("Going on at 90% of an epoch", measurements, environment(["numpy"]), as_json=given.json)


if __name__ == "__main__":
    main()
