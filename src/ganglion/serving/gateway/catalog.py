"""What is served now: models, versions, ensembles, and the pools of replicas behind them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from ganglion.core.errors import suggest
from ganglion.core.log import get_logger
from ganglion.serving.ensembles import ensemble_version
from ganglion.serving.gateway.canary import CanaryChoice
from ganglion.serving.gateway.endpoint import Endpoint
from ganglion.serving.gateway.errors import RequestError
from ganglion.serving.gateway.metrics import Labels, Metrics
from ganglion.serving.gateway.pool import Pool
from ganglion.serving.gateway.row_reader import RowReader
from ganglion.serving.hanging import Hanging
from ganglion.serving.load import Load
from ganglion.serving.routes import EnsembleRoute, ModelRoute, Routes, State, VersionRoute
from ganglion.serving.traffic import Traffic

_TAKES_REQUESTS: tuple[State, ...] = ("LOADING", "AVAILABLE")
_log = get_logger(part="serving.gateway")


class Catalog:
    """The last routes and what follows from them; they stay in force for as long as no others come.

    Args:
        loop: the gateway's event loop.
        metrics: where pools and endpoints count.
        settled: told the generation of routes once they are in force and what they no longer name is finished.
        wake: called when a request waits for a version that has no replica.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        metrics: Metrics,
        settled: Callable[[int], None] | None = None,
        wake: Callable[[], None] | None = None,
    ) -> None:
        self._loop = loop
        self._metrics = metrics
        self._settled = settled or (lambda _generation: None)
        self._wake = wake
        self._announced = 0
        self._pools: dict[tuple[str, int], Pool] = {}
        self._retiring: list[Pool] = []
        self._endpoints: dict[tuple[str, int | None], Endpoint] = {}
        self._choices: dict[str, CanaryChoice] = {}
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
        self._choices = {
            name: choice for name, model in self.models.items() if (choice := self._choice(model)) is not None
        }
        listed = {
            (model.name, version.version): (model, version) for model in routes.models for version in model.versions
        }
        taking = {key for key, (_model, version) in listed.items() if version.state in _TAKES_REQUESTS}
        for key in self._pools.keys() - taking:
            self._retire(key, listed[key][1].error if key in listed else "", listed=key in listed)
        for key, (model, version) in listed.items():
            if key in taking and key not in self._pools:
                self._pools[key] = Pool(self._loop, model, version, self._metrics, self._wake)
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

    def look(self) -> None:
        """Take note of the loads that have to be reported."""
        for pool in self._pools.values():
            if pool.model.elastic:
                pool.look()

    def take_loads(self, now: float) -> list[Load]:
        """The loads of the versions whose replicas follow it, since the last time."""
        return [pool.take_load(now) for pool in self.pools() if pool.model.elastic]

    def take_hanging(self, now: float) -> list[Hanging]:
        """The replicas that hang."""
        return [hanging for pool in self.pools() for hanging in pool.take_hanging(now)]

    def take_traffic(self) -> list[Traffic]:
        """What came of the requests to versions that are compared, since the last time."""
        tallies = [tally for choice in self._choices.values() for tally in (choice.baseline, choice.trial)]
        return [traffic for tally in tallies if (traffic := tally.take()) is not None]

    def _choice(self, model: ModelRoute) -> CanaryChoice | None:
        """The choice between two versions of a model, as it was if it is between the same."""
        if model.canary is None or model.default is None:
            return None
        known = self._choices.get(model.name)
        if known is None or known.key != (model.name, model.default, model.canary.version):
            return CanaryChoice(model.name, model.default, model.canary)
        known.route = model.canary
        return known

    def _retire(self, key: tuple[str, int], error: str, *, listed: bool) -> None:
        """Let a version finish what it holds; or, if it has failed or gets no replica, refuse what waits for it."""
        pool = self._pools.pop(key)
        if error:
            pool.give_up(f"Version {key[1]} of model {key[0]!r} could not be served: {error}")
        elif not listed and not pool.version.replicas:
            pool.give_up(f"Model {key[0]!r} is served no longer.")
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
        reader = RowReader(pools[0].version.signature)
        choice = self._choices.get(name) if version is None else None
        tally = choice.baseline if choice is not None else None
        endpoint = self._endpoints[name, version] = Endpoint(name, pools, ensemble, reader, self._metrics, tally)
        return endpoint

    def trial(self, name: str) -> tuple[CanaryChoice, Endpoint] | None:
        """The version that is tried beside the default one, and what decides between them; `None` if there is none."""
        choice = self._choices.get(name)
        pool = self._pools.get((name, choice.route.version)) if choice is not None else None
        if choice is None or pool is None:
            return None
        reader = RowReader(pool.version.signature)
        return choice, Endpoint(name, [pool], None, reader, self._metrics, choice.trial)

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

    def numbered(self, name: str, version: int | str | None) -> int | None:
        """The number of a version; a label is looked up.

        Raises:
            RequestError: there is no such model or label.
        """
        if not isinstance(version, str):
            return version
        labels = {} if name in self.ensembles else self.model(name).labels
        if version not in labels:
            raise RequestError(404, f"{name!r} has no label {version!r}. {suggest(version, labels)}")
        return labels[version]

    def versions(self, name: str, version: int | None) -> list[VersionRoute]:
        """All versions, or the one asked for; an ensemble has the version 1, ready when its members are.

        Raises:
            RequestError: there is no such model or version.
        """
        ensemble = self.ensembles.get(name)
        if ensemble is not None:
            state: State = "AVAILABLE" if self.ready(name) else "LOADING"
            members = [self.pool(member, None).version for member in ensemble.members]
            versions = [ensemble_version(ensemble, members, state)]
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
        return pool is not None and pool.ready

    @property
    def names(self) -> list[str]:
        """Models and ensembles."""
        return sorted((*self.models, *self.ensembles))

    def replicas(self, name: str, version: int) -> int:
        """Replicas of a version that the gateway is connected to."""
        pool = self._pools.get((name, version))
        return pool.connected if pool is not None else 0

    def waiting(self, name: str, version: int) -> int:
        """Instances that wait for a replica of a version."""
        pool = self._pools.get((name, version))
        return pool.queue.rows if pool is not None else 0

    def gauges(self) -> dict[tuple[str, Labels], float]:
        """What is measured when it is asked for."""
        gauges: dict[tuple[str, Labels], float] = {}
        for (model, version), pool in self._pools.items():
            labels = (("model", model), ("version", str(version)))
            gauges["ganglion_queue_instances", labels] = pool.queue.rows
            gauges["ganglion_queue_bytes", labels] = pool.queue.size
            gauges["ganglion_replicas", labels] = pool.connected
        return gauges
