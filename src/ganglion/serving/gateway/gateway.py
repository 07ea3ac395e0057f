"""The core of the gateway: who asks for what, in which protocol, and what else can be asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

import orjson

from ganglion.serving.gateway import open_inference, openapi, start_page, tensorflow_examples, tensorflow_rest
from ganglion.serving.gateway.access_log import AccessLog, nobody
from ganglion.serving.gateway.admission import Admission
from ganglion.serving.gateway.canary import Trial
from ganglion.serving.gateway.catalog import Catalog
from ganglion.serving.gateway.endpoint import Endpoint
from ganglion.serving.gateway.errors import RequestError
from ganglion.serving.gateway.exchange import Exchange, MakeExchange
from ganglion.serving.gateway.http import HttpServer
from ganglion.serving.gateway.limits import HttpLimits
from ganglion.serving.gateway.loop_lag import LoopLag
from ganglion.serving.gateway.metrics import Labels, Metrics
from ganglion.serving.gateway.open_inference_pages import OpenInferencePages
from ganglion.serving.gateway.openapi_page import OpenapiPage
from ganglion.serving.gateway.prediction_request import PredictionRequest
from ganglion.serving.gateway.question import Read, Reply
from ganglion.serving.gateway.siblings import POST_INTERVAL, Siblings
from ganglion.serving.gateway.start_page import StartPage
from ganglion.serving.gateway.tensorflow_pages import TensorflowPages
from ganglion.serving.hanging import Hanging
from ganglion.serving.load import LOAD_INTERVAL, Load
from ganglion.serving.routes import Routes
from ganglion.serving.traffic import Traffic

TICK = 0.1
"""Seconds between looks at deadlines."""

_MOST_KNOWN_PATHS = 1024


class Gateway:
    """Answers requests; everything happens on one event loop.

    Routes come from outside, by `apply`; the last ones stay in force for as long as no others come.

    Args:
        limits: of client connections.
        settled: told the generation of routes once they are in force and what they no longer name is finished.
        loads: told the loads of the versions whose replicas follow it, every now and then.
        access_log: where every request is noted, if anywhere.
        traffic: told what came of the requests to versions that are compared, every now and then.
        siblings: what several gateways know of each other; `None` for the only one.
        hanging: told which replicas hang, every now and then while there are any.
    """

    def __init__(
        self,
        limits: HttpLimits | None = None,
        settled: Callable[[int], None] | None = None,
        loads: Callable[[list[Load]], None] | None = None,
        access_log: AccessLog | None = None,
        traffic: Callable[[list[Traffic]], None] | None = None,
        siblings: Siblings | None = None,
        hanging: Callable[[list[Hanging]], None] | None = None,
    ) -> None:
        self._siblings = siblings
        self._post_at = monotonic()
        self._access_log = access_log
        exchange: MakeExchange = access_log.exchange if access_log is not None else Exchange
        self.http = HttpServer(self.handle, limits or HttpLimits(), exchange, self._count_refused)
        self._loop = asyncio.get_running_loop()
        self._lag = LoopLag(self._loop.call_soon)
        self._metrics = Metrics()
        self.catalog = Catalog(self._loop, self._metrics, settled, self._on_wake)
        self._loads = loads or (lambda _loads: None)
        self._traffic = traffic or (lambda _traffic: None)
        self._hanging = hanging or (lambda _hanging: None)
        self._hanging_at = self._post_at
        self._report_at = monotonic() + LOAD_INTERVAL
        self._tensorflow = TensorflowPages(self.catalog)
        self._open_inference = OpenInferencePages(self.catalog)
        self._openapi = OpenapiPage(self.catalog)
        self._start_page = StartPage(self.catalog, self._measure)
        self._admission: Admission | None = None
        self._asked: dict[str, tuple[Endpoint, Read, Trial | None]] = {}
        self._tick = self._loop.call_later(TICK, self._on_tick)

    def apply(self, routes: Routes) -> None:
        """Put new routes in force; routes older than those in force are ignored."""
        if not self.catalog.apply(routes):
            return
        self._asked.clear()
        if routes.callers is None:
            self._admission = None
        elif self._admission is None or self._admission.callers != routes.callers:
            share = self._siblings.share(routes.rows) if self._siblings is not None else None
            self._admission = Admission(self._loop, routes.callers, self._metrics, self._admission, share)
        if self._access_log is not None:
            self._access_log.identify = self._admission.name_of if self._admission is not None else nobody

    def _on_tick(self) -> None:
        now = monotonic()
        for pool in self.catalog.pools():
            pool.expire(now)
        if self._admission is not None:
            self._admission.expire(now)
        self.catalog.announce()
        self.catalog.look()
        if now >= self._report_at:
            self._report_loads()
        if now >= self._hanging_at:
            self._hanging_at = now + LOAD_INTERVAL
            hanging = self.catalog.take_hanging(now)
            if hanging:
                self._hanging(hanging)
        if self._siblings is not None and now >= self._post_at:
            self._post_at = now + POST_INTERVAL
            self._siblings.post(self._measure_own())
        self.http.sweep(self._loop.time())
        if self._access_log is not None:
            self._access_log.flush()
        self._tick = self._loop.call_later(TICK, self._on_tick)

    def _on_wake(self) -> None:
        self._loop.call_soon(self._report_loads)  # when all that arrived with the request has been read

    def _report_loads(self) -> None:
        now = monotonic()
        self._report_at = now + LOAD_INTERVAL
        loads = self.catalog.take_loads(now)
        if loads:
            self._loads(loads)
        traffic = self.catalog.take_traffic()
        if traffic:
            self._traffic(traffic)

    async def close(self) -> None:
        """Cut every connection, also of requests in hand, and leave all replicas."""
        self._tick.cancel()
        pools = tuple(self.catalog.pools())
        for pool in pools:
            pool.abort()
        while self.http.connections or any(pool.attached for pool in pools):
            self.http.abort()
            await asyncio.sleep(0)  # the loop says on its next turns that connections are lost
        self._lag.close()
        if self._access_log is not None:
            self._access_log.close()

    def handle(self, exchange: Exchange) -> None:
        """Answer a request, now or when its predictions are there."""
        try:
            asked = self._asked.get(exchange.head.path)
            if asked is not None and exchange.head.method == "POST":
                self._predict(exchange, *asked)
            else:
                self._dispatch(exchange)
        except RequestError as error:
            exchange.refuse(error)

    def _dispatch(self, exchange: Exchange) -> None:
        path = exchange.path
        tensorflow = tensorflow_rest.parse_path(path)
        target = open_inference.parse_path(path) if tensorflow is None else None
        if tensorflow is not None and tensorflow.verb in tensorflow_rest.PREDICTIONS:
            self._ask(exchange, tensorflow)
        elif target is not None and target.verb == "infer":
            self._ask(exchange, target)
        else:
            self._show(exchange, lambda: self._page(exchange, tensorflow, target))

    def _ask(self, exchange: Exchange, target: tensorflow_rest.Target | open_inference.Target) -> None:
        if not _allow(exchange, "POST"):
            return
        model = target.model
        try:
            version = self.catalog.numbered(model, target.version)
            endpoint = self.catalog.endpoint(model, version)
            read = self._reader(target, version)
            trial = self._trial(target) if version is None else None
        except RequestError as error:
            known = model if model in self.catalog.names else ""  # callers do not choose labels
            labels = {"model": known, "version": "", "status": str(error.status)}
            self._metrics.counter("ganglion_requests_total", **labels).add()
            raise
        if len(self._asked) < _MOST_KNOWN_PATHS:
            self._asked[exchange.path] = endpoint, read, trial
        self._predict(exchange, endpoint, read, trial)

    def _reader(self, target: tensorflow_rest.Target | open_inference.Target, version: int | None) -> Read:
        if target.verb == "infer":
            return open_inference.read
        if target.verb == "predict":
            return tensorflow_rest.read
        described = self.catalog.described(target.model, version)
        return tensorflow_examples.reader(target.verb, target.model, described)

    def _trial(self, target: tensorflow_rest.Target | open_inference.Target) -> Trial | None:
        found = self.catalog.trial(target.model)
        if found is None:
            return None
        choice, endpoint = found
        return Trial(choice, endpoint, self._reader(target, choice.route.version))

    def _predict(self, exchange: Exchange, endpoint: Endpoint, read: Read, trial: Trial | None) -> None:
        if trial is not None and trial.takes(exchange.head):
            endpoint, read = trial.endpoint, trial.read
        try:
            request = PredictionRequest(exchange, endpoint, read, self._lag)
        except RequestError as error:
            endpoint.count(error.status, 0.0)
            raise
        if self._admission is None:
            request.start()
            return
        try:
            self._admission.admit(request, exchange.head)
        except RequestError as error:
            request.fail(error)

    def _count_refused(self, status: int) -> None:
        self._metrics.counter("ganglion_refused_total", status=str(status)).add()

    def _show(self, exchange: Exchange, page: Callable[[], Reply | None]) -> None:
        reply = page()
        if reply is None:
            text = f"There is nothing at {exchange.path!r}; models are under /v1/models and /v2/models."
            raise RequestError(404, text)
        if _allow(exchange, "GET", "HEAD"):
            exchange.respond(reply.status, reply.body, content_type=reply.content_type, headers=reply.headers)

    def _page(
        self, exchange: Exchange, tensorflow: tensorflow_rest.Target | None, target: open_inference.Target | None
    ) -> Reply | None:
        if exchange.method not in ("GET", "HEAD"):
            return Reply(b"")  # what is refused for its method is not looked for
        if tensorflow is not None:
            return self._tensorflow.show(tensorflow)
        if target is not None:
            return self._open_inference.show(target)
        match exchange.path:
            case "/healthz":
                return Reply(b'{"status":"ok"}')
            case "/readyz":
                return self._readiness()
            case "/metrics":
                return Reply(self._measure(), "text/plain; version=0.0.4; charset=utf-8")
            case start_page.PATH:
                return self._start_page.show()
            case start_page.STATUS_PATH:
                return self._start_page.status()
            case openapi.PATH:
                return self._openapi.show()
        return None

    def _readiness(self) -> Reply:
        catalog = self.catalog
        if catalog.routes is None:
            reason = {"ready": False, "error": "The gateway has not been told its models yet."}
            return Reply(orjson.dumps(reason), status=503)
        waiting = [name for name in catalog.names if not catalog.ready(name)]
        if waiting:
            return Reply(orjson.dumps({"ready": False, "error": f"Not ready: {', '.join(waiting)}."}), status=503)
        return Reply(orjson.dumps({"ready": True, "models": catalog.names}))

    def _measure(self) -> bytes:
        """The metrics, of all gateways if there are several."""
        page = self._measure_own()
        return page if self._siblings is None else self._siblings.show(page)

    def _measure_own(self) -> bytes:
        gauges: dict[tuple[str, Labels], float] = {
            ("ganglion_connections", ()): len(self.http.connections),
            **self.catalog.gauges(),
        }
        if self._admission is not None:
            gauges["ganglion_callers_waiting", ()] = self._admission.waiting
        return self._metrics.render(gauges)


def _allow(exchange: Exchange, *methods: str) -> bool:
    """Whether the method is allowed; if not, say so."""
    if exchange.method in methods:
        return True
    allowed = ", ".join(methods)
    error = RequestError(405, f"{exchange.method} is not allowed at {exchange.path!r}; allowed: {allowed}.")
    exchange.refuse(error, headers={"allow": allowed})
    return False
