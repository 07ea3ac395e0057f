"""What holds for every test."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings

from ganglion.core.log import configure

# One thread each: tests start many processes on few cores. Set before any library is imported.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

# A shell has what it starts in the background ignore Ctrl-C, and nohup the end of the terminal; so would every process
# that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Examples take as long as the machine needs: a slow one is no failure.
settings.register_profile("ganglion", deadline=None)
settings.load_profile("ganglion")


ON_RAY = ("test_ray.py", "test_ray_backend.py", "test_ray_contract.py", "test_run_script.py")
"""Files that start a Ray cluster, which takes another one on the same machine for its own."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where several files are tested at a time, those with a Ray cluster take turns."""
    for item in items:
        group = "ray" if item.path.name in ON_RAY else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(autouse=True)
def log_as_at_first() -> None:
    """No test hears less because of what an earlier one has chosen to log."""
    configure()


@pytest.fixture(autouse=True)
def no_project_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees, or changes, the runs of whoever runs it."""
    monkeypatch.delenv("GANGLION_HOME", raising=False)


@pytest.fixture
def run_python() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a Python process on a script; the caller waits for it."""
    started: list[subprocess.Popen[str]] = []

    def start(script: str, *arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", script, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests were skipped, also when none was; `-ra` lists the reasons above."""
    skipped = len(terminalreporter.stats.get("skipped", ()))
    terminalreporter.write_line(f"skipped tests: {skipped}")
