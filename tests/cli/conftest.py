from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the modules that the tests here share
sys.path.insert(0, str(Path(__file__).parents[1] / "backends"))

import ray_cluster
from command_line import CommandLine, ProjectWithRuns, write_lights

from ganglion.serving.repository import ModelRepository


@pytest.fixture
def ganglion(tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path / "home")


@pytest.fixture(scope="session")
def history(tmp_path_factory: pytest.TempPathFactory) -> ProjectWithRuns:
    """A project, to be left as it is, in which a run has succeeded and a later one has failed."""
    return ProjectWithRuns(tmp_path_factory.mktemp("history") / "home")


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    """A project, to be left as it is, with two versions of the model `lights` and a third that is half written."""
    folder = tmp_path_factory.mktemp("shop")
    command = CommandLine(folder / "home")
    repository = ModelRepository(command.home / "models")
    package = write_lights(folder / "package")
    for _ in range(2):
        repository.publish("lights", package)
    repository.set_alias("lights", "champion", 1)
    (command.home / "models" / "lights" / "3").mkdir()
    return command


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """A real Ray with four CPUs, started once."""
    with ray_cluster.started("--num-cpus=4") as address:
        yield address


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """A named pipe by which a step says that it runs."""
    path = tmp_path / "started"
    os.mkfifo(path)
    return path
