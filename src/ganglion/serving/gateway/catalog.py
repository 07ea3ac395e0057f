"""What is served now: models, versions, ensembles, and the pools of replicas behind them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from ganglion.core.errors import suggest
from ganglion.core.log import get_logger
from ganglion.serving.gateway.endpoint import Endpoint
from ganglion.serving.gateway.errors import RequestError
from ganglion.serving.gateway.metrics import Labels, Metrics
from ganglion.serving.gateway.pool import Pool
from ganglion.serving.gateway.row_reader import RowReader
from ganglion.serving.routes import EnsembleRoute, ModelRoute, Routes, State, VersionRoute

_TAKES_REQUESTS: tuple[State, ...] = ("LOADING", "AVAILABLE")
_log = get_logger(part="serving.gateway")


class Catalog:
    """The last routes and what follows from them; they stay in force for as long as no others come.

    Args:
        loop: the gateway's event loop.
        metrics: where pools and endpoints count.
        settled: told the generation of routes once they are in force and what they no longer name is finished.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, metrics: Metrics, settled: Callable[[int], None] | None = None
    ) -> None:
        self._loop = loop
        self._metrics = metrics
        self._settled = settled or (lambda _generation: None)
        self._announced = 0
        self._pools: dict[tuple[str, int], Pool] = {}
        self._retiring: list[Pool] = []
        self._endpoints: dict[tuple[str, int | None], Endpoint] = {}
        self.routes: Routes | None = None
        self.models: dict[str, ModelRoute] = {}
        self.ensembles: dict[str, EnsembleRoute] = {}

    # routes

    def apply(self, routes: Routes) -> bool:
        """Put new routes in force; returns whether they are newer than those in force."""
        if self.routes is not None and routes.generation <= self.routes.generation:
            return False
        self.routes = routes
        self._endpoints.clear()
        self.models = {model.name: model for model in routes.models}
        self.ensembles = {ensemble.name: ensemble for ensemble in routes.ensembles}
        listed = {
            (model.name, version.version): (model, version) for model in routes.models for version in model.versions
        }
        taking = {key for key, (_model, version) in listed.items() if version.state in _TAKES_REQUESTS}
        for key in self._pools.keys() - taking:
            self._retire(key, listed[key][1].error if key in listed else "")
        for key, (model, version) in listed.items():
            if key in taking and key not in self._pools:
                self._pools[key] = Pool(self._loop, model, version, self._metrics)
            for pool in [self._pools[key]] if key in taking else self._retiring:
                if pool.key == key:
                    pool.update(model, version)
        _log.info("routes", generation=routes.generation, models=len(self.models), ensembles=len(self.ensembles))
        self.announce()
        return True

    def announce(self) -> None:
        """Say that the routes are settled, once that is so."""
        self._retiring = [pool for pool in self._retiring if not pool.settled]
        if self.routes is None or self._announced >= self.routes.generation or self._retiring:
            return
        if all(pool.settled for pool in self._pools.values()):
            self._announced = self.routes.generation
            self._settled(self._announced)

    def pools(self) -> Iterator[Pool]:
        """Every pool, also of versions that finish what they hold."""
        yield from self._pools.values()
        yield from self._retiring

    def _retire(self, key: tuple[str, int], error: str) -> None:
        """Let a version finish what it holds; or, if it has failed, refuse what waits for it."""
        pool = self._pools.pop(key)
        if error:
            pool.give_up(f"Version {key[1]} of model {key[0]!r} could not be served: {error}")
        pool.retire()
        self._retiring.append(pool)

    # look-ups

    def endpoint(self, name: str, version: int | None) -> Endpoint:
        """What predictions are asked of.

        Raises:
            RequestError: there is no such model, or it has no such version that takes requests.
        """
        known = self._endpoints.get((name, version))
        if known is not None:
            return known
        ensemble = self.ensembles.get(name)
        if ensemble is not None and version is not None:
            text = f"{name!r} is an ensemble of {', '.join(ensemble.members)}; ask it without a version."
            raise RequestError(404, text)
        members = ensemble.members if ensemble is not None else (name,)
        pools = [self.pool(member, version) for member in members]
        how = ensemble.how if ensemble is not None else None
        reader = RowReader(pools[0].version.signature)
        endpoint = self._endpoints[name, version] = Endpoint(name, pools, how, reader, self._metrics)
        return endpoint

    def pool(self, name: str, version: int | None) -> Pool:
        """The replicas of a version; of the default one if none is given.

        Raises:
            RequestError: there is no such model, or no such version that takes requests.
        """
        model = self.model(name)
        wanted = model.default if version is None else version
        pool = self._pools.get((name, wanted)) if wanted is not None else None
        if pool is None:
            loaded = [str(other.version) for other in model.versions if other.state in _TAKES_REQUESTS]
            given = f"no version {version}" if version is not None else "no version that takes requests"
            raise RequestError(404, f"Model {name!r} has {given}; it has: {', '.join(loaded) or 'none'}.")
        return pool

    def model(self, name: str) -> ModelRoute:
        """A model by its name.

        Raises:
            RequestError: there is none.
        """
        if name not in self.models:
            if self.routes is None:
                raise RequestError(503, "The gateway has not been told its models yet.", retry_after=1)
            raise RequestError(404, f"There is no model {name!r}. {suggest(name, (*self.models, *self.ensembles))}")
        return self.models[name]

    def versions(self, name: str, version: int | None) -> list[VersionRoute]:
        """All versions, or the one asked for; an ensemble has the version 1, ready when its members are.

        Raises:
            RequestError: there is no such model or version.
        """
        ensemble = self.ensembles.get(name)
        if ensemble is not None:
            first = self.pool(ensemble.members[0], None).version
            state: State = "AVAILABLE" if self.ready(name) else "LOADING"
            versions = [
                VersionRoute(
                    version=1, state=state, signature=first.signature, image=first.image, classes=first.classes
                )
            ]
        else:
            versions = list(self.model(name).versions)
        if version is None:
            return versions
        found = [other for other in versions if other.version == version]
        if not found:
            known = ", ".join(str(other.version) for other in versions)
            raise RequestError(404, f"Model {name!r} has no version {version}; it has: {known or 'none'}.")
        return found

    def described(self, name: str, version: int | None) -> VersionRoute:
        """The version whose signature is asked for: the one given, else the default one, else the newest.

        Raises:
            RequestError: there is no such model or version.
        """
        versions = self.versions(name, version)
        default = self.models[name].default if name in self.models else None
        found = next((other for other in versions if other.version == default), versions[-1] if versions else None)
        if found is None:
            raise RequestError(404, f"Model {name!r} has no version.")
        return found

    def ready(self, name: str, version: int | None = None) -> bool:
        """Whether a model or an ensemble can answer; nothing that is not served can."""
        if name in self.ensembles:
            return version in (None, 1) and all(self.ready(member) for member in self.ensembles[name].members)
        model = self.models.get(name)
        wanted = version if version is not None or model is None else model.default
        pool = self._pools.get((name, wanted)) if wanted is not None else None
        return pool is not None and pool.connected > 0

    @property
    def names(self) -> list[str]:
        """Models and ensembles."""
        return sorted((*self.models, *self.ensembles))

    def replicas(self, name: str, version: int) -> int:
        """Replicas of a version that the gateway is connected to."""
        pool = self._pools.get((name, version))
        return pool.connected if pool is not None else 0

    def gauges(self) -> dict[tuple[str, Labels], float]:
        """What is measured when it is asked for."""
        gauges: dict[tuple[str, Labels], float] = {}
        for (model, version), pool in self._pools.items():
            labels = (("model", model), ("version", str(version)))
            gauges["ganglion_queue_instances", labels] = pool.queue.rows
            gauges["ganglion_queue_bytes", labels] = pool.queue.size
            gauges["ganglion_replicas", labels] = pool.connected
        return gauges
