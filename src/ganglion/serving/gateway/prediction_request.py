"""A prediction request from the complete HTTP request to its answer."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Protocol

from ganglion.core.log import get_logger
from ganglion.serving.gateway.endpoint import Endpoint
from ganglion.serving.gateway.ensemble_prediction import Degradation, EnsemblePrediction
from ganglion.serving.gateway.errors import RequestError
from ganglion.serving.gateway.exchange import Exchange
from ganglion.serving.gateway.inquiry import Inquiry
from ganglion.serving.gateway.loop_lag import LoopLag
from ganglion.serving.gateway.prediction import Prediction, over_of
from ganglion.serving.gateway.question import Read, Reply
from ganglion.serving.gateway.turn import Turn
from ganglion.serving.payload import Payload
from ganglion.serving.runtime import Tensors

TIMEOUT = b"x-request-timeout-ms"
"""The header field in which a caller says how many milliseconds the answer may take."""

DEGRADED = "ganglion-degraded"
"""The header field of an answer that says which members of an ensemble are missing in it."""

_DIGITS = 9

_TIGHT = 1.0
"""Seconds that a request may take below which it counts how long its bytes lay there before they were read."""

_log = get_logger(part="serving.gateway")


class Abandonable(Protocol):
    """What is asked of replicas for a request."""

    def abandon(self) -> None:
        """Nobody waits for the result any more."""
        ...


class PredictionRequest:
    """Reads a request, queues its instances and writes the answer.

    Args:
        exchange: the HTTP request.
        endpoint: what is asked.
        read: reads the body in the protocol of the request.
        lag: how late the gateway is in reading.

    Attributes:
        deadline: monotonic seconds after which an answer is of no use.
        turn: given back when the request is answered or its caller is gone; `None` where callers are not limited.
    """

    __slots__ = (
        "_asked",
        "_began",
        "_endpoint",
        "_exchange",
        "_over",
        "_parameters",
        "_read",
        "_render",
        "deadline",
        "turn",
    )

    def __init__(self, exchange: Exchange, endpoint: Endpoint, read: Read, lag: LoopLag) -> None:
        self._exchange = exchange
        self._endpoint = endpoint
        self._read = read
        self._began = monotonic()
        self._render: Callable[[Tensors], Reply] | None = None
        self._parameters: dict[str, str] | None = None
        self._over = False
        self._asked: Abandonable | None = None
        self.turn: Turn | None = None
        given = exchange.head.fields.get(TIMEOUT)
        allowed = endpoint.timeout if given is None else min(endpoint.timeout, _seconds(given))
        if allowed < _TIGHT:
            self._began -= lag.seconds(self._began)
        self.deadline = self._began + allowed

    @property
    def size(self) -> int:
        """Bytes that it holds while it waits for its turn."""
        return len(self._exchange.body)

    def start(self) -> None:
        """Read the body and hand its instances to the replicas' queues."""
        if self._over:
            return  # its caller went away when it was its turn
        exchange, endpoint = self._exchange, self._endpoint
        try:
            if endpoint.plain:
                endpoint.pools[0].check_hope(self._began, self.deadline)
            question = self._read(endpoint, exchange.head, exchange.body)
        except RequestError as error:
            self.fail(error)
            return
        exchange.body = b""
        self._render, self._parameters = question.render, question.parameters
        if question.timeout is not None:
            self.deadline = min(self.deadline, self._began + question.timeout)
        try:
            if endpoint.plain:
                pool = endpoint.pools[0]
                self._asked = prediction = Prediction(self._finish, self._began, self.deadline)
                prediction.over = over_of(self._began, self.deadline)
                exchange.abandoned = self._abandon
                pool.submit(prediction.add(pool.split(question.payload)))
            else:
                self._inquire(question.payload)
        except RequestError as error:
            self.fail(error)

    def fail(self, error: RequestError) -> None:
        """Answer with an error."""
        self._endpoint.count(error.status, monotonic() - self._began)
        self._leave()
        self._exchange.refuse(error)

    def wait_for_turn(self, turn: Turn) -> None:
        """It is started when it is its turn, which may be at once."""
        self.turn = turn
        self._exchange.abandoned = self._leave

    def _inquire(self, payload: Payload) -> None:
        """Ask an ensemble, or a model whose requests are sharded."""
        endpoint = self._endpoint
        inquiry: EnsemblePrediction | Inquiry
        if endpoint.ensemble is not None:
            inquiry = EnsemblePrediction(
                endpoint.ensemble, endpoint.pools, payload, self._finish, self._began, self.deadline
            )
        else:
            inquiry = Inquiry(endpoint.pools[0], payload, self._finish, self._began, self.deadline)
        self._asked = inquiry
        self._exchange.abandoned = self._abandon
        inquiry.start()

    def _finish(self, result: Tensors | RequestError, degradation: Degradation | None = None) -> None:
        if isinstance(result, RequestError):
            self.fail(result)
            return
        if degradation is None and monotonic() > self.deadline:
            self.fail(RequestError(504, "The answer came after the deadline of the request."))
            return
        assert self._render is not None
        if degradation is not None and self._parameters is not None:
            self._parameters["degraded"] = str(degradation)
        try:
            reply = self._render(result)
        except Exception:  # noqa: BLE001  a fault on one answer must not take the others of its batch along
            _log.error("answer_failed", model=self._endpoint.name, exc_info=True)
            self.fail(RequestError(500, "The gateway failed on this answer; its log says why."))
            return
        self._endpoint.count(reply.status, monotonic() - self._began)
        self._leave()
        headers = reply.headers
        if degradation is not None:
            headers = {**(headers or {}), DEGRADED: str(degradation)}
        self._exchange.respond(reply.status, reply.body, content_type=reply.content_type, headers=headers)

    def _abandon(self) -> None:
        if self._asked is not None:
            self._asked.abandon()
        self._leave()

    def _leave(self) -> None:
        self._over = True
        self._exchange.abandoned = self._asked = None  # they refer back here: nothing is left to the garbage collector
        if self.turn is not None:
            turn, self.turn = self.turn, None
            turn.leave()


def _seconds(given: bytes) -> float:
    if not given.isdigit() or len(given) > _DIGITS or int(given) < 1:
        shown = given[:40].decode("latin-1")
        name = TIMEOUT.decode()
        raise RequestError(400, f"{name} is {shown!r}; a whole number of milliseconds, at least 1, is expected.")
    return int(given) / 1000.0
