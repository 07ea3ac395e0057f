"""Loads a dataset and reports by how much its memory grew at most."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from loading_records import TRANSFORMS  # noqa: F401  # what loading may need is imported before memory is measured

from ganglion.artifacts.store import Artifact, FolderStore
from ganglion.data.dataset.prepared import PreparedDataset
from ganglion.data.loading.loader import Loader
from ganglion.data.transforms.normalise import Scale


def taken() -> int:
    """Proportional set size of this process, in bytes."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def main(store: str, artifact: str, options: dict) -> None:
    dataset_of = Artifact(**json.loads(artifact))
    if options.pop("arrow"):
        import pyarrow as pa

        pa.array(["warm"]).take(pa.array([0]))
        pa.set_memory_pool(pa.system_memory_pool())
    before = taken()
    dataset = PreparedDataset(dataset_of, FolderStore(Path(store)))
    scaled = (Scale("image", 0, 255),) if dataset.schema[0].fixed else ()
    with Loader(dataset, transforms=scaled, **options) as loader:
        largest, records = 0, 0
        for batch in loader:
            records += len(batch)
            if loader.step % 10 == 0:
                largest = max(largest, taken())
    sys.stdout.write(json.dumps({"growth": largest - before, "records": records}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
