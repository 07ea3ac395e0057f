"""What the gateway does with a request: find the model, queue it, answer it; and with new routes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import orjson

from ganglion.core.errors import suggest
from ganglion.core.log import get_logger
from ganglion.serving.gateway import tensorflow_rest as rest
from ganglion.serving.gateway.errors import RequestError
from ganglion.serving.gateway.exchange import Exchange
from ganglion.serving.gateway.http import HttpServer
from ganglion.serving.gateway.limits import HttpLimits
from ganglion.serving.gateway.metrics import Labels, Metrics
from ganglion.serving.gateway.pool import Pool
from ganglion.serving.gateway.prediction import Prediction
from ganglion.serving.routes import EnsembleRoute, ModelRoute, Routes, State, VersionRoute
from ganglion.serving.runtime import Tensors

TICK = 0.1
"""Seconds between looks at deadlines."""

_TAKES_REQUESTS: tuple[State, ...] = ("LOADING", "AVAILABLE")
_log = get_logger(part="serving.gateway")


class Gateway:
    """The core of the gateway process; everything happens on one event loop.

    Routes come from outside, by `apply`; the last ones stay in force for as long as no others come.

    Args:
        limits: of client connections.
        settled: told the generation of routes once they are in force and what they no longer name is finished.
    """

    def __init__(self, limits: HttpLimits | None = None, settled: Callable[[int], None] | None = None) -> None:
        self.http = HttpServer(self.handle, limits or HttpLimits())
        self._settled = settled or (lambda _generation: None)
        self._loop = asyncio.get_running_loop()
        self._metrics = Metrics()
        self._routes: Routes | None = None
        self._announced = 0
        self._models: dict[str, ModelRoute] = {}
        self._ensembles: dict[str, EnsembleRoute] = {}
        self._pools: dict[tuple[str, int], Pool] = {}
        self._retiring: list[Pool] = []
        self._tick = self._loop.call_later(TICK, self._on_tick)

    # routes

    def apply(self, routes: Routes) -> None:
        """Put new routes in force; routes older than those in force are ignored."""
        if self._routes is not None and routes.generation <= self._routes.generation:
            return
        self._routes = routes
        self._models = {model.name: model for model in routes.models}
        self._ensembles = {ensemble.name: ensemble for ensemble in routes.ensembles}
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
        _log.info("routes", generation=routes.generation, models=len(self._models), ensembles=len(self._ensembles))
        self._announce()

    def _retire(self, key: tuple[str, int], error: str) -> None:
        """Let a version finish what it holds; or, if it has failed, refuse what waits for it."""
        pool = self._pools.pop(key)
        if error:
            pool.give_up(f"Version {key[1]} of model {key[0]!r} could not be served: {error}")
        pool.retire()
        self._retiring.append(pool)

    def _announce(self) -> None:
        """Say that the routes are settled, once that is so."""
        self._retiring = [pool for pool in self._retiring if not pool.settled]
        if self._routes is None or self._announced >= self._routes.generation or self._retiring:
            return
        if all(pool.settled for pool in self._pools.values()):
            self._announced = self._routes.generation
            self._settled(self._announced)

    def _on_tick(self) -> None:
        now = self._loop.time()
        for pool in (*self._pools.values(), *self._retiring):
            pool.expire(now)
        self._announce()
        self.http.sweep(now)
        self._tick = self._loop.call_later(TICK, self._on_tick)

    async def close(self) -> None:
        """Cut every connection, also of requests in hand, and leave all replicas."""
        self._tick.cancel()
        pools = (*self._pools.values(), *self._retiring)
        for pool in pools:
            pool.abort()
        while self.http.connections or any(pool.attached for pool in pools):
            self.http.abort()
            await asyncio.sleep(0)  # the loop says on its next turns that connections are lost

    # requests

    def handle(self, exchange: Exchange) -> None:
        """Answer a request, now or when its predictions are there."""
        try:
            self._dispatch(exchange)
        except RequestError as error:
            exchange.refuse(error)

    def _dispatch(self, exchange: Exchange) -> None:
        target = rest.parse_path(exchange.path)
        if target is not None and target.verb == "predict":
            if _allow(exchange, "POST"):
                self._predict(exchange, target)
            return
        answer = self._page(exchange.path) if target is None else lambda: self._describe(target)
        if answer is None:
            raise RequestError(404, f"There is nothing at {exchange.path!r}; models are under {rest.PREFIX}.")
        if _allow(exchange, "GET", "HEAD"):
            status, body, content_type = answer()
            exchange.respond(status, body, content_type=content_type)

    def _page(self, path: str) -> Callable[[], tuple[int, bytes, str]] | None:
        pages = {"/healthz": _health, "/readyz": self._readiness, "/metrics": self._measure}
        return pages.get(path)

    def _predict(self, exchange: Exchange, target: rest.Target) -> None:
        try:
            ensemble = self._ensembles.get(target.model)
            if ensemble is not None and target.version is not None:
                raise RequestError(404, f"{target.model!r} is an ensemble of {', '.join(ensemble.members)}; "
                                        "ask it without a version.")  # fmt: skip
            models = ensemble.members if ensemble is not None else (target.model,)
            pools = [self._pool(model, target.version) for model in models]
            first = pools[0].version
            payload, columns = rest.parse_predict(exchange.body, first.signature, first.image)
        except RequestError as error:
            self._count(target.model, error.status)
            raise
        exchange.body = b""

        def finish(result: Tensors | RequestError) -> None:
            if isinstance(result, RequestError):
                self._count(target.model, result.status)
                exchange.refuse(result)
            else:
                self._count(target.model, 200)
                exchange.respond(200, rest.render_predictions(result, columns=columns))

        deadline = self._loop.time() + min(pool.model.timeout for pool in pools)
        prediction = Prediction(finish, deadline, ensemble.how if ensemble is not None else None)
        exchange.abandoned = prediction.abandon
        try:
            for pool, parts in [(pool, prediction.add(pool.split(payload))) for pool in pools]:
                pool.submit(parts)
        except RequestError as error:
            prediction.fail(error)

    def _pool(self, name: str, version: int | None) -> Pool:
        model = self._model(name)
        wanted = model.default if version is None else version
        pool = self._pools.get((name, wanted)) if wanted is not None else None
        if pool is None:
            loaded = [str(other.version) for other in model.versions if other.state in _TAKES_REQUESTS]
            given = f"no version {version}" if version is not None else "no version that takes requests"
            raise RequestError(404, f"Model {name!r} has {given}; it has: {', '.join(loaded) or 'none'}.")
        return pool

    def _model(self, name: str) -> ModelRoute:
        if name not in self._models:
            if self._routes is None:
                raise RequestError(503, "The gateway has not been told its models yet.", retry_after=1)
            raise RequestError(404, f"There is no model {name!r}. {suggest(name, (*self._models, *self._ensembles))}")
        return self._models[name]

    def _count(self, model: str, status: int) -> None:
        known = model if model in self._models or model in self._ensembles else ""  # callers do not choose labels
        self._metrics.count("ganglion_requests_total", model=known, status=str(status))

    # what is there

    def _describe(self, target: rest.Target) -> tuple[int, bytes, str]:
        if target.verb == "list":
            return _json(200, {"models": [self._summary(name) for name in sorted((*self._models, *self._ensembles))]})
        versions = self._versions(target)
        if target.verb == "metadata":
            return 200, rest.render_metadata(target.model, self._default(target, versions)), "application/json"
        return 200, rest.render_status(versions), "application/json"

    def _versions(self, target: rest.Target) -> list[VersionRoute]:
        """The versions that a path asks about; an ensemble has the version 1, ready when its members are."""
        ensemble = self._ensembles.get(target.model)
        if ensemble is not None:
            first = self._pool(ensemble.members[0], None).version
            ready = all(self._ready(member) for member in ensemble.members)
            state: State = "AVAILABLE" if ready else "LOADING"
            versions = [
                VersionRoute(
                    version=1, state=state, signature=first.signature, image=first.image, classes=first.classes
                )
            ]
        else:
            versions = list(self._model(target.model).versions)
        if target.version is None:
            return versions
        found = [version for version in versions if version.version == target.version]
        if not found:
            known = ", ".join(str(version.version) for version in versions)
            raise RequestError(
                404, f"Model {target.model!r} has no version {target.version}; it has: {known or 'none'}."
            )
        return found

    def _default(self, target: rest.Target, versions: list[VersionRoute]) -> VersionRoute:
        default = self._models[target.model].default if target.model in self._models else None
        return next((version for version in versions if version.version == default), versions[-1])

    def _summary(self, name: str) -> dict[str, Any]:
        if name in self._ensembles:
            ensemble = self._ensembles[name]
            return {"name": name, "ensemble": ensemble.members, "how": ensemble.how, "ready": self._ready(name)}
        model = self._models[name]
        versions = [
            {
                "version": version.version,
                "state": version.state,
                "replicas": pool.connected if (pool := self._pools.get((name, version.version))) else 0,
            }
            for version in model.versions
        ]
        return {"name": name, "default": model.default, "versions": versions, "ready": self._ready(name)}

    def _ready(self, name: str) -> bool:
        if name in self._ensembles:
            return all(self._ready(member) for member in self._ensembles[name].members)
        model = self._models.get(name)
        pool = self._pools.get((name, model.default)) if model is not None and model.default is not None else None
        return pool is not None and pool.connected > 0

    def _readiness(self) -> tuple[int, bytes, str]:
        if self._routes is None:
            return _json(503, {"ready": False, "error": "The gateway has not been told its models yet."})
        declared = [*self._models, *self._ensembles]
        waiting = sorted(name for name in declared if not self._ready(name))
        if waiting:
            return _json(503, {"ready": False, "error": f"Not ready: {', '.join(waiting)}."})
        return _json(200, {"ready": True, "models": sorted(declared)})

    def _measure(self) -> tuple[int, bytes, str]:
        gauges: dict[tuple[str, Labels], float] = {("ganglion_connections", ()): len(self.http.connections)}
        for (model, version), pool in self._pools.items():
            labels = (("model", model), ("version", str(version)))
            gauges["ganglion_queue_instances", labels] = pool.queue.rows
            gauges["ganglion_replicas", labels] = pool.connected
        return 200, self._metrics.render(gauges), "text/plain; version=0.0.4; charset=utf-8"


def _health() -> tuple[int, bytes, str]:
    return _json(200, {"status": "ok"})


def _json(status: int, value: Any) -> tuple[int, bytes, str]:
    return status, orjson.dumps(value), "application/json"


def _allow(exchange: Exchange, *methods: str) -> bool:
    """Whether the method is allowed; if not, say so."""
    if exchange.method in methods:
        return True
    allowed = ", ".join(methods)
    error = RequestError(405, f"{exchange.method} is not allowed at {exchange.path!r}; allowed: {allowed}.")
    exchange.refuse(error, headers={"allow": allowed})
    return False
