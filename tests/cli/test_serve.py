from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import psutil
import pytest
from command_line import CommandLine, write_picture

from ganglion.artifacts.package import ImageInput, PackageFile, PackageManifest, Signature, TensorSpec
from ganglion.cli.serve import example


def test_a_model_is_served_until_it_is_told_to_end(shop: CommandLine, tmp_path: Path) -> None:
    picture = write_picture(tmp_path / "image.png", 240)
    with shop.start("serve", "lights", "--port", "0", "--replicas", "1", "--cpu", "0.1") as service:
        assert service.stdout is not None
        first, curl = service.stdout.readline(), service.stdout.readline().strip()
        found = re.search(r"Serving lights version 2 at (http://127\.0\.0\.1:\d+) ", first)
        assert found is not None, first
        there = shop.json("predict", "lights", "--image", picture, "--url", found[1])
        assert there["predictions"] == shop.json("predict", "lights", "--image", picture)["predictions"]
        assert there["version"] == 2
        if shutil.which("curl"):
            answer = subprocess.run(curl, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=30)
            assert answer.stdout.startswith('{"predictions":[['), answer.stderr
        assert "'lights'" in shop.error("predict", "nights", "--image", picture, "--url", found[1])
        assert "alias" in shop.error("predict", "lights:champion", "--image", picture, "--url", found[1])
        processes = psutil.Process(service.pid).children(recursive=True)
        service.send_signal(signal.SIGTERM)
        assert service.wait(timeout=60) == 0
    assert psutil.wait_procs(processes, timeout=10)[1] == []


def test_what_cannot_be_served_is_refused(shop: CommandLine) -> None:
    assert "Did you mean 'lights'?" in shop.error("serve", "lihgts", "--port", "0")
    assert "half written" in shop.error("serve", "lights:3", "--port", "0")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "another port" in shop.error("serve", "lights", "--port", str(taken.getsockname()[1]))


def test_a_service_that_is_not_there_is_no_traceback(shop: CommandLine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    done = shop("predict", "lights", "--instances", "[1]", "--url", f"http://127.0.0.1:{port}")
    assert done.returncode == 1
    assert "No service answers" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("inputs", "image", "words"),
    [
        (
            [("x", "float32", (-1, 2, 2))],
            None,
            "curl -d '{\"instances\":[[[0,0],[0,0]]]}' http://h:1/v1/models/m:predict",
        ),
        ([("a", "bool", (-1,)), ("b", "int64", (-1, 1))], None, '{"instances":[{"a":false,"b":[0]}]}'),
        ([("x", "float32", (-1, 28, 28))], None, "curl http://h:1/v1/models/m/metadata"),
        ([("x", "uint8", (-1, 28, 28))], ImageInput(28, 28, "L"), "base64 < image.png"),
    ],
)
def test_the_example_fits_the_model(
    inputs: list[tuple[str, str, tuple[int, ...]]], image: ImageInput | None, words: str
) -> None:
    manifest = PackageManifest(
        format=1,
        runtime="onnx",
        signature=Signature(
            inputs=tuple(TensorSpec(*tensor) for tensor in inputs), outputs=(TensorSpec("y", "float32", (-1, 1)),)
        ),
        files={"model.onnx": PackageFile(digest="sha256:" + "0" * 64, size=0)},
        image=image,
    )
    assert words in example("http://h:1", "m", manifest)
