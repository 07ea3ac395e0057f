"""A model that doubles numbers, writes down which, and does not take 33; and files of numbers."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.dataset

from ganglion.artifacts.package import Signature, TensorSpec, write_package
from ganglion.data import PlainSource, open_source
from ganglion.pipelines.prediction.driver import predict_source
from ganglion.pipelines.prediction.folder import Summary
from ganglion.serving.repository import ModelRepository

FILES, RECORDS = 10, 20
BROKEN, REFUSED = 65, 33
"""Numbers whose line cannot be read, and that the model does not take."""

GOOD = [number for number in range(FILES * RECORDS) if number not in (BROKEN, REFUSED)]
SIGNATURE = Signature(inputs=(TensorSpec("x", "int64", (-1,)),), outputs=(TensorSpec("y", "float32", (-1,)),))

PREDICTOR = """
import os
import numpy as np
from ganglion.core.errors import DataError

class Predictor:
    def load(self, folder):
        self.log = (folder / "log").read_text()

    def predict(self, batch):
        if (batch["x"] == 33).any():
            raise DataError("33 is too much")
        descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, "".join(f"{number}\\n" for number in batch["x"]).encode())
        os.close(descriptor)
        return {"y": 2.0 * batch["x"]}
"""


class Doubling:
    """The model in a repository, and where its files are."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "computed"
        self.repository = ModelRepository(folder / "models")
        if folder.exists():
            return
        folder.mkdir()
        (folder / "predictor.py").write_text(PREDICTOR)
        (folder / "log").write_text(str(self.log))
        files = {name: folder / name for name in ("predictor.py", "log")}
        write_package(
            folder / "package", runtime="python", signature=SIGNATURE, files=files, entry="predictor:Predictor"
        )
        self.publish()

    def publish(self) -> None:
        self.repository.publish("doubling", self.folder / "package")

    def write_source(self) -> PlainSource:
        place = self.folder / "numbers"
        place.mkdir(exist_ok=True)
        for file in range(FILES):
            numbers = range(file * RECORDS, (file + 1) * RECORDS)
            lines = [
                "{broken" if number == BROKEN else json.dumps({"x": number, "name": f"n{number}"}) for number in numbers
            ]
            (place / f"{file:02d}.jsonl").write_text("\n".join(lines) + "\n")
        return open_source(str(place))

    def predict(self, source: PlainSource, destination: Path, **options: Any) -> Summary:
        model = options.pop("model", "doubling:1")
        options = {"columns": ["name"], "part_bytes": 1, "max_bad": 5, "batch": 8, **options}
        return predict_source(self.repository, model, source, destination, **options)

    def computed(self) -> Counter[int]:
        """How often each number was computed since this was asked before."""
        found = Counter(map(int, self.log.read_text().split())) if self.log.exists() else Counter[int]()
        self.log.unlink(missing_ok=True)
        return found


def rows(destination: Path) -> list[dict[str, Any]]:
    """The rows of a folder, as whoever reads folders of Parquet finds them."""
    found: list[dict[str, Any]] = pyarrow.dataset.dataset(destination).to_table().to_pylist()
    return found
