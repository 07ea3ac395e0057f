"""The command as a process, and small real models and pictures."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from PIL import Image
from typer.testing import CliRunner

from ganglion.artifacts.package import ImageInput, Signature, TensorSpec, write_package
from ganglion.cli.main import make_app
from ganglion.core.errors import UserError

RECIPE = Path(__file__).parent / "lights.py"
CLASSES = ("dark", "bright")


class CommandLine:
    """`ganglion` in a project folder of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = {**os.environ, "GANGLION_HOME": str(home), "COLUMNS": "200"}
        self.line = (sys.executable, "-m", "ganglion.cli.main")

    def __call__(self, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run to the end."""
        return subprocess.run(
            [*self.line, *map(str, arguments)],
            env={**self.environment, **environment},
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=100,
        )

    @contextmanager
    def start(self, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
        """Start and go on; what still runs at the end of the block is killed."""
        pipe = subprocess.PIPE
        with subprocess.Popen(
            [*self.line, *map(str, arguments)], env=self.environment, text=True, stdout=pipe
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def json(self, *arguments: str | Path, status: int = 0, **environment: str) -> Any:
        """Run to its end; standard output has to be one JSON document."""
        done = self(*arguments, "--json", **environment)
        assert done.returncode == status, done.stderr
        return json.loads(done.stdout)

    def error(self, *arguments: str | Path) -> str:
        """The message for input that cannot work; in this process, which takes less time."""
        before = signal.getsignal(signal.SIGTERM)
        try:
            shown = CliRunner().invoke(make_app(), list(map(str, arguments)), env={"GANGLION_HOME": str(self.home)})
        finally:
            signal.signal(signal.SIGTERM, before)
        assert isinstance(shown.exception, UserError), (shown.exception, shown.output)
        assert shown.stdout == ""
        return str(shown.exception)


def served_at(service: subprocess.Popen[str]) -> str:
    """The URL at which `ganglion serve` says that it serves."""
    assert service.stdout is not None
    for said in service.stdout:
        if found := re.match(r"Serving .* at (http://[^ ]+)", said):
            return found[1]
    raise AssertionError("it never served")


class ProjectWithRuns(CommandLine):
    """A project with two runs.

    Attributes:
        good: what the command left that ran a pipeline to its end.
        bad: what it left when, later, a step failed.
    """

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.good = self("run", f"{RECIPE}:good")
        self.bad = self("run", f"{RECIPE}:bad")


def write_lights(folder: Path) -> Path:
    """A package: 2x2 gray pictures to the probabilities of dark and bright."""
    weights = np.array([[-2.0, 2.0]] * 4, np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["pixels"], ["real"], to=TensorProto.FLOAT),
            helper.make_node("Div", ["real", "scale"], ["scaled"]),
            helper.make_node("Flatten", ["scaled"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weights"], ["products"]),
            helper.make_node("Add", ["products", "offset"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        ],
        "lights",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", 2, 2])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 2])],
        [
            onnx.numpy_helper.from_array(np.array(255, np.float32), "scale"),
            onnx.numpy_helper.from_array(weights, "weights"),
            onnx.numpy_helper.from_array(np.array([4, -4], np.float32), "offset"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    folder.mkdir(parents=True)
    file = folder.parent / f"{folder.name}.onnx"
    onnx.save(model, str(file))
    write_package(
        folder,
        runtime="onnx",
        signature=Signature(
            inputs=(TensorSpec("pixels", "uint8", (-1, 2, 2)),),
            outputs=(TensorSpec("probabilities", "float32", (-1, 2)),),
        ),
        files={"model.onnx": file},
        image=ImageInput(2, 2, "L"),
        classes=CLASSES,
        metrics={"accuracy": 0.9},
    )
    return folder


def write_picture(path: Path, brightness: int) -> Path:
    """A PNG file of 4x4 equal pixels."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4), brightness, np.uint8)).save(buffer, "PNG")
    path.write_bytes(buffer.getvalue())
    return path
