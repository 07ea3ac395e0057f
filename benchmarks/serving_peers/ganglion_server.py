"""Ours, as people start it: `ganglion serve`, in this process."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path


def main(port: str, file: str, _dtype: str, workers: str, *options: str) -> None:
    """Put the package where a project has its published models, and become the command."""
    folder = Path(tempfile.mkdtemp(prefix="ganglion-bench-"))  # its starter clears the folder of temporary files
    shutil.copytree(Path(file).parent, folder / "models" / "m" / "1")
    line = ["-m", "ganglion.cli.main", "serve", "m", "--port", port, "--replicas", workers]
    environment = {**os.environ, "GANGLION_HOME": str(folder)}
    os.execve(sys.executable, [sys.executable, *line, *options], environment)


if __name__ == "__main__":
    main(*sys.argv[1:])
