from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

REPOSITORY = Path(__file__).parents[2]
RECIPE = REPOSITORY / "recipes" / "fashion_mnist.py"
SMALL = ("--limit", "1500", "--set", "epochs=1", "--set", "minimum=0")
"""The reference pipeline on a sample: every part of it, without the accuracy."""


class Command:
    """The `ganglion` command in a project folder of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = {**os.environ, "GANGLION_HOME": str(home), "COLUMNS": "200"}
        self.line = (sys.executable, "-m", "ganglion.cli.main")

    def __call__(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run to the end."""
        return subprocess.run(
            [*self.line, *arguments],
            env={**self.environment, **options.pop("environment", {})},
            capture_output=True,
            text=True,
            timeout=100,
            **options,
        )

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start and go on."""
        return subprocess.Popen([*self.line, *arguments], env=self.environment, text=True, **options)

    def json(self, *arguments: str) -> Any:
        """Run to a successful end and read the JSON document on standard output."""
        done = self(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def ganglion(tmp_path: Path) -> Command:
    return Command(tmp_path / "home")


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a file in the test's folder."""

    def write_file(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write_file


def descendants(pid: int) -> list[psutil.Process]:
    """Every process that `pid` has started, directly or not."""
    return psutil.Process(pid).children(recursive=True)
