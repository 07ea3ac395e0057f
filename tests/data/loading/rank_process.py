"""A rank: delivers one global batch for every line that it reads, and says in a line of JSON what it delivered."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from loading_records import TRANSFORMS, digest

from ganglion.artifacts.store import Artifact, FolderStore
from ganglion.data.dataset.prepared import PreparedDataset
from ganglion.data.loading.loader import Loader


def main(store: str, artifact: str, options: dict, state: dict | None) -> None:
    dataset = PreparedDataset(Artifact(**json.loads(artifact)), FolderStore(Path(store)))
    with Loader(dataset, transforms=TRANSFORMS, **options) as loader:
        if state:
            loader.load_state_dict(state)
        sys.stdout.write(json.dumps({"state": loader.state_dict()}) + "\n")
        sys.stdout.flush()
        batches = iter(loader)
        for _ in sys.stdin:
            batch = next(batches, None)
            line = {
                "done": batch is None,
                "ids": [] if batch is None else batch.ids.tolist(),
                "digest": "" if batch is None else digest(batch),
                "state": loader.state_dict(),
            }
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), json.loads(sys.argv[4]))
