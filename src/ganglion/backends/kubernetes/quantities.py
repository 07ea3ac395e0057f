"""Resources as Kubernetes writes them: strings, never floating-point numbers."""

from __future__ import annotations

import math
from typing import Any

from ganglion.core.errors import SpecError
from ganglion.core.resources import Resources

GPU = "nvidia.com/gpu"

SMALLEST_MEMORY = 16 * 2**20
"""Bytes; a smaller amount is a forgotten unit, and no Python process starts in it."""

_UNITS = (("Gi", 2**30), ("Mi", 2**20), ("Ki", 2**10))


def requirements(resources: Resources, who: str) -> dict[str, Any]:
    """The `resources` of a container.

    CPU is requested and not limited, so that idle cores are used; memory and GPUs are both.

    Args:
        resources: what one process needs.
        who: whose they are, for errors.

    Raises:
        SpecError: a pod cannot have them.
    """
    if resources.cpu < 0.001:
        raise SpecError(f"{who}: {resources.cpu:g} CPUs; a pod needs at least 0.001.")
    if resources.memory and resources.memory < SMALLEST_MEMORY:
        raise SpecError(
            f"{who}: {resources.memory} bytes of memory; a Python process needs more than 16 MiB. Is a unit missing, "
            "as in parse_size('512MiB')?"
        )
    if resources.gpu != int(resources.gpu):
        raise SpecError(f"{who}: {resources.gpu:g} GPUs; Kubernetes gives whole GPUs only.")
    limits: dict[str, str] = {}
    if resources.memory:
        limits["memory"] = memory(resources.memory)
    if resources.gpu:
        limits[GPU] = str(int(resources.gpu))
    found: dict[str, Any] = {"requests": {"cpu": cpu(resources.cpu), **limits}}
    if limits:
        found["limits"] = dict(limits)
    return found


def cpu(cores: float) -> str:
    """Cores as a quantity: `2`, `500m`; a thousandth is the smallest part."""
    thousandths = math.ceil(round(cores * 1000, 6))
    return str(thousandths // 1000) if thousandths % 1000 == 0 else f"{thousandths}m"


def memory(size: int) -> str:
    """Bytes as a quantity: `512Mi`; a plain number where no unit fits."""
    for unit, factor in _UNITS:
        if size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)


def seconds(duration: float) -> int:
    """A duration as the whole seconds that Kubernetes counts in, rounded up; at least 1."""
    return max(1, math.ceil(duration))
