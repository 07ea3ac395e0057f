"""The models of the serving benchmark, untrained: speed does not depend on what the weights are.

`cnn` is the reference network (`recipes/fashion_mnist.py`), 28x28 pixels of uint8; `mlp` takes 784 numbers of float32,
and so does `deep`, which computes for some tens of milliseconds.
Every server answers with ten probabilities for each image.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ganglion.artifacts.package import Signature, TensorSpec, write_package

OUTPUT = "probabilities"


@dataclass(frozen=True, kw_only=True)
class BenchModel:
    """A model on disk and the question that every server is asked.

    Attributes:
        name: `cnn`, `mlp` or `deep`.
        package: folder of its model package; the ONNX file in it is what peers load.
        pixels: the image, integers [784].
        shape: of one instance.
        dtype: of its input.
        expected: the ten probabilities that ONNX Runtime gives for it.
    """

    name: str
    package: Path
    pixels: list[int]
    shape: tuple[int, ...]
    dtype: str
    expected: list[float]

    @property
    def onnx(self) -> Path:
        """The model file."""
        return self.package / "model.onnx"

    def rows(self) -> bytes:
        """The question in the form of TensorFlow Serving."""
        instance = np.array(self.pixels).reshape(self.shape).tolist()
        return json.dumps({"instances": [instance]}).encode()

    def tensor(self) -> bytes:
        """The question in the form of the Open Inference Protocol."""
        datatype = {"uint8": "UINT8", "float32": "FP32"}[self.dtype]
        tensor = {"name": "image", "shape": [1, *self.shape], "datatype": datatype, "data": self.pixels}
        return json.dumps({"inputs": [tensor]}).encode()


def make_models(folder: Path) -> dict[str, BenchModel]:
    """Write both models below `folder`."""
    import torch
    from recipes.fashion_mnist import ConvolutionalNetwork
    from torch import nn

    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
    pixels = np.random.default_rng(0).integers(0, 256, 784)
    return {
        "cnn": _write(folder / "cnn", ConvolutionalNetwork(), pixels, (28, 28), "uint8"),
        "mlp": _write(folder / "mlp", mlp, pixels, (784,), "float32"),
    }


def make_deep(folder: Path, *, name: str = "deep", channels: int = 64, layers: int = 10) -> BenchModel:
    """Write the model that takes long for an answer below `folder`; one with fewer channels and layers takes less."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    stack: list[nn.Module] = [nn.Unflatten(1, (1, 28, 28)), nn.Conv2d(1, channels, 3, padding=1)]
    for _ in range(layers):
        stack += [nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)]
    network = nn.Sequential(*stack, nn.AvgPool2d(28), nn.Flatten(), nn.Linear(channels, 10))
    pixels = np.random.default_rng(0).integers(0, 256, 784)
    return _write(folder / name, network, pixels, (784,), "float32")


def _write(folder: Path, network: Any, pixels: Any, shape: tuple[int, ...], dtype: str) -> BenchModel:
    import onnxruntime
    import torch
    from torch import nn

    served = nn.Sequential(network, nn.Softmax(dim=1)).eval()
    example = torch.from_numpy(np.repeat(pixels.reshape(1, *shape), 2, axis=0).astype(dtype))
    folder.mkdir(parents=True)
    file = folder / "exported.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(
            served,
            (example,),
            input_names=["image"],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("records")},),
            dynamo=True,
            verbose=False,
        )
    file.write_bytes(program.model_proto.SerializeToString())  # type: ignore[union-attr]  # not None with dynamo
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"image": example.numpy()[:1]})
    signature = Signature(
        inputs=(TensorSpec("image", dtype, (-1, *shape)),),  # type: ignore[arg-type]  # one of two element types
        outputs=(TensorSpec(OUTPUT, "float32", (-1, 10)),),
    )
    write_package(folder / "package", runtime="onnx", signature=signature, files={"model.onnx": file})
    return BenchModel(
        name=folder.name,
        package=folder / "package",
        pixels=[int(pixel) for pixel in pixels],
        shape=shape,
        dtype=dtype,
        expected=[float(value) for value in expected[0]],
    )
