from __future__ import annotations

import os
import socket
from pathlib import Path

from command_line import CommandLine

from ganglion.data.datasets import fashion_mnist

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def put_data(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in NAMES:
        (folder / name).touch()
    return folder


def test_what_this_machine_has(ganglion: CommandLine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as ray:
        address = f"127.0.0.1:{ray.getsockname()[1]}"
        found = ganglion.json("doctor", RAY_ADDRESS=f"ray://{address}")
    assert found["cores"]["usable"] == len(os.sched_getaffinity(0))
    assert found["memory"]["total"] > found["memory"]["available"] > 0
    assert found["project"]["folder"] == str(ganglion.home)
    assert found["project"]["free"] > 0
    assert found["torch"]["version"].startswith("2.")
    assert found["onnxruntime"]
    assert found["processes"]["start_method"] == "fork"
    assert found["ray"]["answers"] == {f"ray://{address}": True}
    assert not ganglion.home.exists()
    assert "cores" in ganglion("doctor").stdout


def test_clusters_that_do_not_answer(ganglion: CommandLine, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    configuration = tmp_path / "config"
    configuration.write_text(f"clusters:\n- cluster:\n    server: https://127.0.0.1:{port}\n  name: here\n")
    found = ganglion.json("doctor", KUBECONFIG=str(configuration))
    assert found["kubernetes"]["configuration"] == [str(configuration)]
    assert found["kubernetes"]["answers"] == {f"https://127.0.0.1:{port}": False}


def test_data_is_found_where_the_datasets_look_for_it(ganglion: CommandLine, tmp_path: Path) -> None:
    folder = put_data(tmp_path / "data" / "fashion-mnist")
    for given in (folder, folder.parent):
        found = ganglion.json("doctor", "--data", GANGLION_DATA=str(given))["fashion_mnist"]
        assert found["files"]["train"] == [str(folder / name) for name in NAMES[:2]]
        assert found["files"]["test"] == [str(folder / name) for name in NAMES[2:]]
    cached = put_data(ganglion.home / "cache" / "fashion-mnist")
    found = ganglion.json("doctor", "--data")["fashion_mnist"]
    assert found["files"]["train"] == [str(cached / name) for name in NAMES[:2]]
    assert fashion_mnist("train", cache=cached).images == found["files"]["train"][0]
