"""The command on a Ray cluster: the same run as on this machine, and clear errors where there is no such cluster."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ganglion.artifacts.store import FolderStore

from .conftest import RECIPE, REPOSITORY, SMALL, Command

sys.path.insert(0, str(Path(__file__).parents[1] / "backends"))

import ray_cluster  # found by the line above

ON_RAY = ("--backend", "ray")
PATIENCE = 30.0
"""Seconds: on a busy machine too far fewer than the minutes for which Ray itself goes on trying."""
PIPELINE = """
from ganglion import pipeline, step


@step
def one() -> int:
    return 1


@pipeline
def single() -> int:
    return one()
"""


@pytest.fixture
def pipeline(write: Callable[..., Path]) -> str:
    """A pipeline that takes no time."""
    return str(write("single.py", PIPELINE))


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A real Ray with as many CPUs as the reference pipeline asks for on any machine."""
    with ray_cluster.started("--num-cpus=4") as address:
        yield address


def guarded(folder: Path) -> dict[str, str]:
    """An environment in which every import of Ray, in whatever process, leaves a file in `folder` and fails."""
    package = folder / "guard" / "ray"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        f"import os\nopen(os.path.join({str(folder)!r}, f'imported-{{os.getpid()}}'), 'w').close()\n"
        "raise ImportError('somebody has imported Ray')\n"
    )
    return {"PYTHONPATH": os.pathsep.join((str(package.parent), os.environ.get("PYTHONPATH", "")))}


@pytest.mark.timeout(300)
def test_the_reference_pipeline_gives_the_same_models_and_loads_ray_only_on_ray(tmp_path: Path, address: str) -> None:
    (tmp_path / "imports").mkdir()
    runs: list[tuple[Any, ...]] = []
    for backend, environment in {"local": guarded(tmp_path / "imports"), "ray": {"RAY_ADDRESS": address}}.items():
        ganglion = Command(tmp_path / backend)
        ganglion.environment |= environment
        done = ganglion.json("run", str(RECIPE), *SMALL, "--backend", backend, "--seed", "3")
        store = FolderStore(ganglion.home / "store")
        runs.append(
            (
                [(step["name"], step["state"], step["fingerprint"], measured(step)) for step in done["steps"]],
                [learned(store, step) for step in done["steps"] if "accuracy" in step["metrics"]],
                done["value"],
            )
        )
    assert list((tmp_path / "imports").iterdir()) == [tmp_path / "imports" / "guard"]
    (steps, models, answers), on_ray = runs[0], runs[1]
    assert len(steps) == 8
    assert all(len(model) == 2 for model in models)
    assert len(models) == 3
    assert len(answers) == 10
    assert on_ray == (steps, models, answers)


def measured(step: Any) -> dict[str, float]:
    """The metrics of a step that do not depend on the clock."""
    timed = {"images_per_second", "step_loss", "bound"}
    return {name: value for name, value in step["metrics"].items() if name not in timed and not name.endswith("_share")}


def learned(store: FolderStore, step: Any) -> dict[str, str]:
    """The digests of what a training has made: the graph and the weights; the package also names the run."""
    files = store.tree(step["result"]["fields"]["package"]["digest"])
    return {name: files[name].digest for name in ("model.onnx", "weights.npz")}


# bad input


def refusal(done: subprocess.CompletedProcess[str], home: Path) -> str:
    """What was said, after it was refused in a few words and nothing was started or left."""
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert list(home.glob("jobs/*")) == list(home.glob("runs/*")) == []
    return done.stderr


def test_a_service_that_says_nothing_is_named_and_not_waited_for(ganglion: Command, pipeline: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # the kernel accepts for it
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        begin = time.monotonic()
        done = ganglion("run", pipeline, *ON_RAY, environment={"RAY_ADDRESS": address})
        assert time.monotonic() - begin < PATIENCE
    assert f"What listens at {address} is no Ray cluster: it says nothing" in refusal(done, ganglion.home)


def test_an_address_where_nobody_listens_is_named_and_not_waited_for(ganglion: Command, pipeline: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    begin = time.monotonic()
    done = ganglion("run", pipeline, *ON_RAY, environment={"RAY_ADDRESS": address})
    assert time.monotonic() - begin < PATIENCE
    assert f"No Ray cluster answers at {address}" in refusal(done, ganglion.home)


def test_where_ray_is_not_installed_the_extra_is_named(ganglion: Command, pipeline: str) -> None:
    without = "import sys; sys.modules['ray'] = None; from ganglion.cli.main import run; run()"
    ganglion.line = (sys.executable, "-c", without)
    assert "pip install 'ganglion[ray]'" in refusal(ganglion("run", pipeline, *ON_RAY), ganglion.home)
    assert ganglion("run", pipeline).returncode == 0


def test_a_gang_larger_than_the_cluster_is_refused_with_what_is_missing(ganglion: Command, address: str) -> None:
    script = REPOSITORY / "tests" / "cli" / "scripts" / "torch_ddp.py"
    line = ("run-script", *ON_RAY, "--workers", "9", "--cpu", "0.5", str(script))
    said = refusal(ganglion(*line, environment={"RAY_ADDRESS": address}), ganglion.home)
    assert "9 members together need 4.5 CPUs of 4 that the Ray cluster has" in said


def test_a_node_with_another_ganglion_is_named(
    ganglion: Command, pipeline: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second installation, of another version, is what the node finds first."""
    other = tmp_path / "other"
    shutil.copytree(REPOSITORY / "src" / "ganglion", other / "ganglion", ignore=shutil.ignore_patterns("__pycache__"))
    metadata = other / "ganglion-0.0.9.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: ganglion\nVersion: 0.0.9\n")
    monkeypatch.setattr(sys, "path", [str(other), *sys.path])  # what the cluster gets
    with ray_cluster.started() as address:
        done = ganglion("run", pipeline, *ON_RAY, environment={"RAY_ADDRESS": address})
    assert re.search(r"The node [\d.]+ runs Ganglion 0\.0\.9, this process \d", refusal(done, ganglion.home))
