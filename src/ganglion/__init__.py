"""Ganglion takes a machine-learning pipeline from a laptop to a cluster without rewriting it.

The public names are loaded on first use, so that `import ganglion` costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ganglion.core.resources import Resources
    from ganglion.platform import Platform, RunResult, run
    from ganglion.workflow import as_completed, pipeline, step

__version__ = "0.1.0"
__all__ = ["Platform", "Resources", "RunResult", "as_completed", "pipeline", "run", "step"]

_HOMES = {
    "Platform": "ganglion.platform",
    "Resources": "ganglion.core.resources",
    "RunResult": "ganglion.platform",
    "as_completed": "ganglion.workflow",
    "pipeline": "ganglion.workflow",
    "run": "ganglion.platform",
    "step": "ganglion.workflow",
}


def __getattr__(name: str) -> Any:
    """Load a public name from the module it lives in."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ganglion' has no attribute {name!r}")
    from ganglion.core.registry import load_object

    return load_object(f"{_HOMES[name]}:{name}")
