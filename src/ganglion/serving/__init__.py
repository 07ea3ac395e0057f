"""Model serving: the repository of published versions, the replicas that run them and the gateway in front.

`ModelRepository` keeps versions, `ModelServer` serves them through a supervisor, `Client` asks. The gateway process
owns every request until its answer is written; replicas are killable processes that answer batches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ganglion.core.registry import lazy_names

if TYPE_CHECKING:
    from ganglion.serving.client import Client
    from ganglion.serving.controller import ModelServer
    from ganglion.serving.repository import ModelRepository

__all__ = ["Client", "ModelRepository", "ModelServer"]

_MODULES = {"Client": "client", "ModelRepository": "repository", "ModelServer": "controller"}

__getattr__ = lazy_names(__name__, _MODULES)
