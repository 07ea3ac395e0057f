"""The page that describes everything that can be asked, made anew when what is served has changed."""

from __future__ import annotations

from functools import cached_property

import orjson

from ganglion.serving.gateway.catalog import Catalog
from ganglion.serving.gateway.errors import RequestError
from ganglion.serving.gateway.openapi import Served, document
from ganglion.serving.gateway.question import Reply
from ganglion.serving.routes import Routes


class OpenapiPage:
    """The OpenAPI document of a gateway.

    Args:
        catalog: what is served.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._made: tuple[Routes, bytes] | None = None

    def show(self) -> Reply:
        """The document.

        Raises:
            RequestError: it is not known yet what is served.
        """
        routes = self._catalog.routes
        if routes is None:
            raise RequestError(503, "The gateway has not been told its models yet.", retry_after=1)
        if self._made is None or self._made[0] is not routes:
            served = [found for name in self._catalog.names if (found := self._served(name)) is not None]
            self._made = routes, orjson.dumps(document(served, routes.callers, self._version))
        return Reply(self._made[1])

    @cached_property
    def _version(self) -> str:
        from importlib.metadata import version  # takes memory to load and to ask, and few ask

        return version("ganglion")

    def _served(self, name: str) -> Served | None:
        """A model or an ensemble, if it takes requests now."""
        catalog = self._catalog
        try:
            catalog.endpoint(name, None)
            default = catalog.described(name, None)
        except RequestError:
            return None
        if name in catalog.ensembles:
            return Served(name, default)
        taking = [one for one in catalog.versions(name, None) if one.state in ("LOADING", "AVAILABLE")]
        return Served(name, default, taking, catalog.models[name].labels)
