"""A virtual environment with TensorFlow, outside of the repository, made once.

`python tests/cli/tensorflow_environment.py` makes it ahead of the tests. It lies in `$GANGLION_TEST_TENSORFLOW`, or in
the user's cache.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

VERSION = "2.21.0"


class NotInstallable(Exception):
    """TensorFlow cannot be installed here; says why."""


def tensorflow_python() -> Path:
    """The environment's interpreter; makes the environment if it is not there."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    given = os.environ.get("GANGLION_TEST_TENSORFLOW")
    folder = Path(given) if given else cache / "ganglion-tests" / f"tensorflow-{VERSION}"
    python, complete = folder / "bin" / "python", folder / "complete"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            _run(sys.executable, "-m", "venv", "--clear", str(folder))
            _run(str(python), "-m", "pip", "install", "--quiet", f"tensorflow-cpu=={VERSION}")
            complete.touch()
    return python


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise NotInstallable((done.stderr.strip() or done.stdout.strip()).splitlines()[-1])


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{tensorflow_python()}\n")
    except NotInstallable as error:
        sys.exit(f"tensorflow-cpu {VERSION} cannot be installed, its tests will be skipped: {error}")
