"""A virtual environment for each peer, outside of the repository, made on first use.

`python -m benchmarks.data.peers.environments [PEER ...]` makes them ahead of a measurement. They lie in
`$GANGLION_BENCH`, or in the user's cache.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

TORCH = "torch==2.13.0"

PATIENCE = 1800.0
"""Seconds after which an installation counts as stuck."""


class NotInstallableError(Exception):
    """A peer cannot be installed here; says why."""


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What a peer runs in.

    Attributes:
        package: the peer's name on the package index.
        version: which of it.
        beside: what it needs beside its own dependencies.
        extra: an extra of the package.
    """

    package: str
    version: str
    beside: tuple[str, ...] = ()
    extra: str = ""

    @property
    def folder(self) -> Path:
        """Where the environment lies; another version or another need gets a place of its own."""
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        root = Path(os.environ.get("GANGLION_BENCH") or cache / "ganglion-bench")
        return root / f"{self.package}-{self.version}"

    def python(self) -> Path:
        """The environment's interpreter; makes the environment if it is not there.

        Raises:
            NotInstallableError: the package index has it not, or not for this interpreter.
        """
        python, complete = self.folder / "bin" / "python", self.folder / "complete"
        requirements = (f"{self.package}{self.extra}=={self.version}", *self.beside)
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with (self.folder.parent / f"{self.folder.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not complete.exists() or complete.read_text() != "\n".join(requirements):
                _run(sys.executable, "-m", "venv", "--clear", str(self.folder))
                _run(str(python), "-m", "pip", "install", "--quiet", *requirements)
                complete.write_text("\n".join(requirements))
        return python


ENVIRONMENTS = {
    "torchdata": Environment(package="torchdata", version="0.11.0", beside=(TORCH, "numpy")),
    "tensorflow": Environment(package="tensorflow-cpu", version="2.21.0"),
    "grain": Environment(package="grain", version="0.2.18"),
    "streaming": Environment(package="mosaicml-streaming", version="0.13.0", beside=(TORCH,)),
    "ray": Environment(package="ray", version="2.60.0", extra="[data]", beside=("psycopg2-binary", "numpy")),
    "connectorx": Environment(package="connectorx", version="0.4.6", beside=("pyarrow", "numpy")),
    "webdataset": Environment(package="webdataset", version="1.0.2", beside=(TORCH,)),
    "datasets": Environment(package="datasets", version="5.2.0", beside=(TORCH,)),
}
"""By the name of the peer."""


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired as error:
        raise NotInstallableError(f"{' '.join(command)} did not end within {PATIENCE:g} s") from error
    if done.returncode != 0:
        raise NotInstallableError((done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1])


def main(names: list[str]) -> None:
    """Make the environments of these peers, or of all."""
    for name in names or ENVIRONMENTS:
        try:
            sys.stdout.write(f"{name}: {ENVIRONMENTS[name].python()}\n")
        except NotInstallableError as error:
            sys.stdout.write(f"{name}: cannot be installed: {error}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
