"""Backends as the contract suite wants them: two CPUs declared."""

from pathlib import Path

from ganglion.backends.local.backend import LocalBackend, LocalConfig


def forking(folder: Path) -> LocalBackend:
    return LocalBackend(folder, LocalConfig(cpu=2.0, start_method="fork"))


def spawning(folder: Path) -> LocalBackend:
    """What macOS gets: a new interpreter for each member and no cgroup."""
    return LocalBackend(folder, LocalConfig(cpu=2.0, start_method="spawn", cgroup=False))
