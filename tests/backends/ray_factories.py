"""A Ray backend as the contract suite wants it: two CPUs, on the cluster that `RAY_ADDRESS` names."""

from pathlib import Path

from ganglion.backends.ray.backend import RayBackend, RayConfig


def connected(folder: Path) -> RayBackend:
    return RayBackend(folder)


def travelling(folder: Path) -> RayBackend:
    """The folder beside the project's is copied to the nodes."""
    return RayBackend(folder, RayConfig(working_dir=str(folder.parent / "project")))
