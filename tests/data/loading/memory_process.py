"""Loads a dataset and reports by how much its memory, and that of the processes it started, grew at most."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import psutil
from loading_records import TRANSFORMS  # noqa: F401  # what loading may need is imported before memory is measured

from ganglion.artifacts.store import Artifact, FolderStore
from ganglion.data.loader import Loader
from ganglion.data.prepared import PreparedDataset
from ganglion.data.transforms.normalise import Scale


def taken() -> int:
    """Proportional set size of this process, and of what data workers hold beyond their imports, in bytes."""
    return sum(_proportional(pid) for pid in (psutil.Process().pid, *workers()))


def workers() -> list[int]:
    return [process.pid for process in psutil.Process().children(recursive=True)]


def _proportional(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def main(store: str, artifact: str, options: dict) -> None:
    dataset_of = Artifact(**json.loads(artifact))
    transforms = (Scale("image", 0, 255),)
    before = taken()
    with Loader(PreparedDataset(dataset_of, FolderStore(Path(store))), transforms=transforms, **options) as loader:
        largest, records = 0, 0
        for batch in loader:
            records += len(batch)
            if loader.step % 10 == 0:
                largest = max(largest, taken())
    sys.stdout.write(json.dumps({"growth": largest - before, "records": records}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
