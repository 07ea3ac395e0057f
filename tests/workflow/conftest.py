from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ganglion.artifacts.store import FolderStore
from ganglion.backends.local.backend import LocalBackend, LocalConfig
from ganglion.core.registry import load_file
from ganglion.core.run_events import StepFinished
from ganglion.execution.supervisor import Supervisor
from ganglion.workflow import Engine


class Recorded:
    """An engine whose events are kept."""

    def __init__(self, folder: Path, supervisor: Supervisor | None = None, **options: Any) -> None:
        self.events: list[Any] = []
        self.folder = folder
        self.store = FolderStore(folder / "store")
        self.engine = Engine(
            folder, self.store, supervisor, inline=supervisor is None, listeners=[self.events.append], **options
        )

    def run(self, graph: Any, **options: Any) -> Any:
        self.events.clear()
        return self.engine.run(graph, **options)

    def of(self, kind: type, step: str | None = None) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind) and step in (None, event.step)]

    def end(self, step: str) -> StepFinished:
        return self.of(StepFinished, step)[-1]


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


@pytest.fixture
def inline(tmp_path: Path) -> Recorded:
    return Recorded(tmp_path / "project")


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Callable[..., Recorded]]:
    """Makes engines on this machine's processes; more is declared than there is, because steps mostly wait."""
    opened: list[Supervisor] = []

    def make(**options: Any) -> Recorded:
        folder = tmp_path / "project"
        folder.mkdir(exist_ok=True)
        opened.append(Supervisor(LocalBackend(folder, LocalConfig(cpu=4)), folder, name=f"test-{len(opened)}"))
        return Recorded(folder, opened[-1], **options)

    yield make
    for supervisor in opened:
        supervisor.close()


@pytest.fixture
def recipe(tmp_path: Path) -> Iterator[Callable[[str], ModuleType]]:
    """Writes a recipe file into a folder of its own and imports it as the command line does."""
    made: list[str] = []
    path = list(sys.path)

    def write(source: str, name: str = "some_recipe") -> ModuleType:
        folder = tmp_path / "recipes"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(textwrap.dedent(source))
        made.append(name)
        return load_file(folder / f"{name}.py")

    yield write
    sys.path[:] = path
    for name in made:
        sys.modules.pop(name, None)


@pytest.fixture
def python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a script in a fresh interpreter, in `tmp_path`."""

    def run(script: str, *, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    return run
