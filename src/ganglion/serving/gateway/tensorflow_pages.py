"""What can be asked of models over the REST protocol of TensorFlow Serving beside predictions."""

from __future__ import annotations

from typing import Any

import orjson

from ganglion.serving.gateway import tensorflow_rest as rest
from ganglion.serving.gateway.catalog import Catalog
from ganglion.serving.gateway.question import Reply


class TensorflowPages:
    """The list of models, their states and their metadata.

    Args:
        catalog: what is served.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def show(self, target: rest.Target) -> Reply:
        """Answer a request that is none for a prediction.

        Raises:
            RequestError: there is no such model or version.
        """
        if target.verb == "list":
            return Reply(orjson.dumps({"models": [self._summary(name) for name in self._catalog.names]}))
        version = self._catalog.numbered(target.model, target.version)
        if target.verb == "metadata":
            return Reply(rest.render_metadata(target.model, self._catalog.described(target.model, version)))
        return Reply(rest.render_status(self._catalog.versions(target.model, version)))

    def _summary(self, name: str) -> dict[str, Any]:
        catalog = self._catalog
        if name in catalog.ensembles:
            ensemble = catalog.ensembles[name]
            return {"name": name, "ensemble": ensemble.members, "how": ensemble.how, "ready": catalog.ready(name)}
        model = catalog.models[name]
        versions = [
            {
                "version": version.version,
                "state": version.state,
                "replicas": catalog.replicas(name, version.version),
            }
            for version in model.versions
        ]
        return {
            "name": name,
            "default": model.default,
            "versions": versions,
            "labels": model.labels,
            "ready": catalog.ready(name),
        }
