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
