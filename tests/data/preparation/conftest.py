from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # processes get this folder by PYTHONPATH; tests import the same modules

from parts_source import PartsSource, write_part  # noqa: E402


@pytest.fixture
def parts(tmp_path: Path) -> PartsSource:
    """Ten files with 3, 4, ... 12 records, numbered through from 0, and a log of what is read."""
    first = 0
    for number in range(10):
        count = 3 + number
        write_part(tmp_path / "parts", number, range(first, first + count))
        first += count
    return PartsSource(folder=str(tmp_path / "parts"), log=str(tmp_path / "reads"))


@pytest.fixture
def reads(tmp_path: Path) -> Callable[[], list[str]]:
    """Which files have been read, in order; forgets them."""

    def found() -> list[str]:
        log = tmp_path / "reads"
        lines = log.read_text().split() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines

    return found


@pytest.fixture
def python() -> Callable[..., subprocess.Popen[str]]:
    """Start a Python program that finds the modules of this folder."""

    def start(code: str, *arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])},
        )

    return start
