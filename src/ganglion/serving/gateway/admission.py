"""Which prediction requests are let in, which wait for their turn, and which are refused at once."""

from __future__ import annotations

import asyncio
import math
from time import monotonic

from ganglion.core.log import get_logger
from ganglion.serving.callers import CallerLimit, Callers, digest_of
from ganglion.serving.gateway.audit import Audit, Refusals
from ganglion.serving.gateway.concurrency import ConcurrencyLimit, Entry
from ganglion.serving.gateway.errors import RequestError
from ganglion.serving.gateway.head import Head
from ganglion.serving.gateway.metrics import Metrics
from ganglion.serving.gateway.prediction_request import PredictionRequest
from ganglion.serving.gateway.token_bucket import TokenBucket
from ganglion.serving.gateway.turn import Startable, Turn

ANONYMOUS = "anonymous"
_log = get_logger(part="serving.admission")


class Caller:
    """One caller while the gateway runs.

    Args:
        name: for metrics and the log.
        limit: what it may ask for.
    """

    def __init__(self, name: str, limit: CallerLimit) -> None:
        self.name = name
        self.limit = limit
        self.bucket = TokenBucket(limit.rate, limit.burst, monotonic()) if limit.rate is not None else None
        self.turns: ConcurrencyLimit[Startable] | None = None
        if limit.concurrency is not None:
            self.turns = ConcurrencyLimit(limit.concurrency, limit.waiting, limit.waiting_bytes)


class Admission:
    """Starts requests as the limits of their callers allow.

    Args:
        loop: the gateway's event loop.
        callers: everybody who may ask.
        metrics: where refusals are counted.
        before: the admission that was in force until now; callers whose limits are the same keep their state.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, callers: Callers, metrics: Metrics, before: Admission | None = None
    ) -> None:
        self.callers = callers
        self._loop = loop
        self._metrics = metrics
        self._audit: Audit = before._audit if before is not None else Audit()
        known = {caller.name: caller for caller in before._all()} if before is not None else {}

        def caller(name: str, limit: CallerLimit) -> Caller:
            return known[name] if name in known and known[name].limit == limit else Caller(name, limit)

        self._anonymous = caller(ANONYMOUS, callers.anonymous) if callers.anonymous is not None else None
        common = callers.authenticated
        self._by_digest = {key.digest: caller(f"key {key.name}", key.limit or common) for key in callers.keys}

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return sum(len(caller.turns) for caller in self._all() if caller.turns is not None)

    def admit(self, request: PredictionRequest, head: Head) -> None:
        """Start a request now, or when it is its turn.

        Raises:
            RequestError: its caller is unknown or asks for too much.
        """
        caller = self._identify(head)
        if caller.bucket is not None:
            pause = caller.bucket.take(monotonic())
            if pause > 0.0:
                text = f"More than {caller.limit.rate:g} requests a second by {caller.name}."
                raise self._refusal(caller.name, "rate", text, math.ceil(pause))
        if caller.turns is None:
            request.start()
            return
        entry = caller.turns.enter(request, request.size)
        if entry is Entry.REFUSED:
            text = f"{caller.name} has {caller.limit.concurrency} requests in hand and {len(caller.turns)} that wait."
            raise self._refusal(caller.name, "concurrency", text, 1)
        request.wait_for_turn(Turn(caller.turns, request, self._loop.call_soon))
        if entry is Entry.RUNS:
            request.start()

    def expire(self, now: float) -> None:
        """Refuse what has waited for its turn until its deadline; tell who was limited."""
        for caller in self._all():
            for request in caller.turns or ():
                if isinstance(request, PredictionRequest) and request.deadline <= now:
                    text = f"The other requests by {caller.name} left no turn for this one in time."
                    request.fail(self._refusal(caller.name, "concurrency", text, 1))
        for refusals in self._audit.due(now):
            _tell(refusals)

    def _all(self) -> list[Caller]:
        return [*([self._anonymous] if self._anonymous is not None else []), *self._by_digest.values()]

    def _identify(self, head: Head) -> Caller:
        key = head.fields.get(b"x-api-key")
        if key is None:
            authorization = head.fields.get(b"authorization")
            if authorization is None:
                if self._anonymous is None:
                    text = "An API key is needed; send it as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'."
                    raise self._refusal(ANONYMOUS, "key", text, None, status=401)
                return self._anonymous
            scheme, _, rest = authorization.partition(b" ")
            key = rest.strip() if scheme.lower() == b"bearer" else b""
        caller = self._by_digest.get(digest_of(key))
        if caller is None:
            raise self._refusal(ANONYMOUS, "key", "The API key is not known here.", None, status=401)
        return caller

    def _refusal(self, caller: str, limit: str, text: str, retry_after: int | None, status: int = 429) -> RequestError:
        self._metrics.counter("ganglion_limited_total", caller=caller, limit=limit).add()
        refusals = self._audit.note(caller, limit, monotonic())
        if refusals is not None:
            _tell(refusals)
        return RequestError(status, text, retry_after=retry_after)


def _tell(refusals: Refusals) -> None:
    _log.warning("limited", caller=refusals.caller, limit=refusals.limit, refused=refusals.refused)
