from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.path.insert(0, str(Path(__file__).parent))  # the modules that the tests here share

from gateway_samples import GatewayThread, ScriptedReplica
from serving_samples import write_classifier
from watched_supervisor import Watched

from ganglion.backends.local.backend import LocalBackend, LocalConfig
from ganglion.core.resources import Resources
from ganglion.serving.controller import ModelServer
from ganglion.serving.repository import ModelRepository


@pytest.fixture
def repository(tmp_path: Path) -> ModelRepository:
    return ModelRepository(tmp_path / "models")


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """A package: 28x28 uint8 pixels to 10 probabilities."""
    folder = tmp_path / "classifier"
    write_classifier(folder)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> ModelRepository:
    """One repository for all tests of a module."""
    return ModelRepository(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def supervisor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """One for all tests of a module, with its `CORES`: what replicas import is warm after the first."""
    folder = tmp_path_factory.mktemp("g")
    watched = Watched(LocalBackend(folder, LocalConfig(cpu=request.module.CORES)), folder)
    yield watched
    watched.close()


@pytest.fixture(scope="module")
def running(supervisor: Watched, models: ModelRepository) -> Iterator[ModelServer]:
    """One server for all tests of a module."""
    model_server = ModelServer(supervisor, models, gateway=Resources(cpu=0.1))
    yield model_server
    model_server.close()


@pytest.fixture
def server(running: ModelServer) -> Iterator[ModelServer]:
    """A server of no models: the machine is all free for each test."""
    yield running
    for model in running.status()["models"]:
        running.undeploy(model)


@pytest.fixture
def gateway() -> Iterator[GatewayThread]:
    thread = GatewayThread()
    yield thread
    thread.close()


@pytest.fixture
def replicas() -> Iterator[Callable[[], ScriptedReplica]]:
    made: list[ScriptedReplica] = []

    def make() -> ScriptedReplica:
        made.append(ScriptedReplica())
        return made[-1]

    yield make
    for replica in made:
        with suppress(OSError):  # it may be dead already
            replica.die()
