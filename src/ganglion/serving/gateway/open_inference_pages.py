"""What can be asked over the Open Inference Protocol beside inference: health and metadata."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import orjson

from ganglion.artifacts.package import TensorSpec
from ganglion.serving.gateway.catalog import Catalog
from ganglion.serving.gateway.open_inference import BYTES, DATATYPES, Target
from ganglion.serving.gateway.question import Reply

_SERVER = "ganglion"


class OpenInferencePages:
    """Whether the server and its models are ready, and what models take and give.

    Args:
        catalog: what is served.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def show(self, target: Target) -> Reply:
        """Answer a request that is none for inference.

        Raises:
            RequestError: there is no such model or version.
        """
        catalog = self._catalog
        if target.verb == "live":
            return Reply(b'{"live":true}')
        if target.verb == "ready" and not target.model:
            ready = catalog.routes is not None and all(catalog.ready(name) for name in catalog.names)
            return _readiness("ready", ready)
        if not target.model:
            about = {"name": _SERVER, "version": self._version, "extensions": ["binary_tensor_data"]}
            return Reply(orjson.dumps(about))
        if target.verb == "ready":
            catalog.versions(target.model, target.version)
            return _readiness("ready", catalog.ready(target.model, target.version))
        return Reply(orjson.dumps(self._metadata(target)))

    @cached_property
    def _version(self) -> str:
        from importlib.metadata import version  # takes memory to load and to ask, and few ask

        return version(_SERVER)

    def _metadata(self, target: Target) -> dict[str, Any]:
        found = self._catalog.described(target.model, target.version)
        inputs = [_tensor(tensor) for tensor in found.signature.inputs]
        if found.image is not None:
            inputs[0]["parameters"] = {"image": f"{BYTES} [-1]: encoded images"}
        return {
            "name": target.model,
            "versions": [str(other.version) for other in self._catalog.versions(target.model, None)],
            "platform": _SERVER,
            "inputs": inputs,
            "outputs": [_tensor(tensor) for tensor in found.signature.outputs],
        }


def _readiness(key: str, ready: bool) -> Reply:
    return Reply(orjson.dumps({key: ready}), status=200 if ready else 503)


def _tensor(tensor: TensorSpec) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": DATATYPES[tensor.dtype], "shape": list(tensor.shape)}
