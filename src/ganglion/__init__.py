"""Ganglion takes a machine-learning pipeline from a laptop to a cluster without rewriting it.

The public names are loaded on first use, so that `import ganglion` costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ganglion.core.registry import lazy_names

if TYPE_CHECKING:
    from ganglion.core.resources import Resources
    from ganglion.platform import Platform, Run, run
    from ganglion.serving.client import Client
    from ganglion.workflow import as_completed, current_step, pipeline, step

__version__ = "0.1.0"
__all__ = ["Client", "Platform", "Resources", "Run", "as_completed", "current_step", "pipeline", "run", "step"]

_HOMES = {
    "Client": "serving.client",
    "Platform": "platform",
    "Resources": "core.resources",
    "Run": "platform",
    "as_completed": "workflow",
    "current_step": "workflow",
    "pipeline": "workflow",
    "run": "platform",
    "step": "workflow",
}

__getattr__ = lazy_names(__name__, _HOMES)
