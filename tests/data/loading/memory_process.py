"""Loads a dataset and reports by how much its memory grew at most, that of the processes of the loader included."""

from __future__ import annotations

import json
import sys
import threading
from itertools import chain
from pathlib import Path

import psutil
from loading_records import Brighten  # what loading may need is imported before memory is measured

from ganglion.artifacts.store import Artifact, FolderStore
from ganglion.data.dataset.prepared import PreparedDataset
from ganglion.data.loading.loader import Loader
from ganglion.data.transform import Transform
from ganglion.data.transforms.normalise import Scale

INTERVAL = 0.02


def taken() -> int:
    """Proportional set size of this process and those that it started, in bytes."""
    own = psutil.Process()
    found = 0
    for process in chain([own], own.children(recursive=True)):
        try:
            lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it has ended
        found += next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
    return found


class Watch:
    """The most that was taken while it is entered."""

    def __enter__(self) -> Watch:
        self.largest = taken()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(INTERVAL):
            self.largest = max(self.largest, taken())


def imports(small: PreparedDataset, options: dict) -> int:
    """What this process and those of a loader take when there is next to nothing to load."""
    if options.get("workers") != "processes":
        return taken()
    with Loader(small, transforms=transforms_of(small, options), **{**options, "global_batch": 1}) as loader:
        for _ in range(20):  # so that every worker has done something
            for batch in loader:
                del batch
        return taken()


def transforms_of(dataset: PreparedDataset, options: dict) -> tuple[Transform, ...]:
    if not dataset.schema[0].fixed:
        return ()
    return (Brighten("image") if options.get("workers") == "processes" else Scale("image", 0, 255),)


def main(small: tuple[str, str], large: tuple[str, str], options: dict) -> None:
    if options.pop("arrow"):
        import pyarrow as pa

        pa.array(["warm"]).take(pa.array([0]))
        pa.set_memory_pool(pa.system_memory_pool())
    dataset = opened(*large)
    given = {"transforms": transforms_of(dataset, options), **options}
    with Loader(dataset, **given) as loader:  # it has fewer processes than were asked for where memory is short
        processes = {"parallel": loader._workers.count} if loader._workers is not None else {}
    before = imports(opened(*small), options | processes)
    with Loader(dataset, **given) as loader, Watch() as watch:
        records = 0
        for batch in loader:
            records += len(batch)
            if loader.step % 10 == 0:
                watch.largest = max(watch.largest, taken())
    sys.stdout.write(json.dumps({"growth": watch.largest - before, "records": records}))


def opened(store: str, artifact: str) -> PreparedDataset:
    return PreparedDataset(Artifact(**json.loads(artifact)), FolderStore(Path(store)))


if __name__ == "__main__":
    main((sys.argv[1], sys.argv[2]), (sys.argv[3], sys.argv[4]), json.loads(sys.argv[5]))
