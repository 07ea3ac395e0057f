"""Which prediction requests are let in, which wait for their turn, and which are refused at once."""

from __future__ import annotations

import asyncio
import math
from time import monotonic

from ganglion.core.log import get_logger
from ganglion.serving.callers import ANONYMOUS, CallerLimit, Callers, digest_of
from ganglion.serving.gateway.audit import Audit, Refusals
from ganglion.serving.gateway.concurrency import ConcurrencyLimit, Entry
from ganglion.serving.gateway.errors import RequestError
from ganglion.serving.gateway.head import Head
from ganglion.serving.gateway.metrics import Counter, Metrics
from ganglion.serving.gateway.prediction_request import PredictionRequest
from ganglion.serving.gateway.tally import Share, SharedBucket
from ganglion.serving.gateway.token_bucket import TokenBucket
from ganglion.serving.gateway.turn import Startable, Turn

UNKNOWN = "unknown"
_log = get_logger(part="serving.admission")


class Caller:
    """One caller while the gateway runs.

    Args:
        name: for metrics and the log.
        limit: what it may ask for.
        key: what its key is called in the log; empty for callers without one.
        share: the part of this gateway in the limit; `None` for all of it.

    Attributes:
        too_often: what is said beyond the rate; made once, since a flood is told nothing else.
    """

    def __init__(self, name: str, limit: CallerLimit, key: str = "", share: Share | None = None) -> None:
        self.name = name
        self.key = key
        self.limit = limit
        self.too_often = f"More than {limit.rate:g} requests a second by {name}." if limit.rate is not None else ""
        self.row = share.rows[name] if share is not None else None
        self.bucket: TokenBucket | SharedBucket | None = None
        if limit.rate is not None:
            bucket = TokenBucket(limit.rate, limit.burst, monotonic())
            self.bucket = bucket if share is None else SharedBucket(bucket, share.tally, share.rows[name])
        self.turns: ConcurrencyLimit[Startable] | None = None
        if limit.concurrency is not None:
            most, waiting, size = limit.concurrency, limit.waiting, limit.waiting_bytes
            if share is not None:
                most, waiting, size = max(1, share.of(most)), share.of(waiting), share.of(size)
            self.turns = ConcurrencyLimit(most, waiting, size)


class Admission:
    """Starts requests as the limits of their callers allow.

    Args:
        loop: the gateway's event loop.
        callers: everybody who may ask.
        metrics: where refusals are counted.
        before: the admission that was in force until now; callers whose limits are the same keep their state.
        share: the part of this gateway in the limits; `None` where it is the only one.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        callers: Callers,
        metrics: Metrics,
        before: Admission | None = None,
        share: Share | None = None,
    ) -> None:
        self.callers = callers
        self._loop = loop
        self._metrics = metrics
        self._limited: dict[tuple[str, str], Counter] = {}
        self._audit: Audit = before._audit if before is not None else Audit()
        known = {caller.name: caller for caller in before._all()} if before is not None else {}

        def caller(name: str, limit: CallerLimit, key: str = "") -> Caller:
            old, new = known.get(name), Caller(name, limit, key, share)
            same = old is not None and (old.limit, old.key, old.row) == (limit, key, new.row)
            return old if old is not None and same else new

        self._anonymous = caller(ANONYMOUS, callers.anonymous) if callers.anonymous is not None else None
        common = callers.authenticated
        self._ids: dict[str, str] = {key.caller: key.id for key in callers.keys}
        self._by_digest = {key.digest: caller(key.caller, key.limit or common, key.id) for key in callers.keys}

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
                raise self._refusal(caller.name, "rate", caller.too_often, math.ceil(pause))
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
            if isinstance(caller.bucket, SharedBucket):
                caller.bucket.follow(now)
            for request in caller.turns or ():
                if isinstance(request, PredictionRequest) and request.deadline <= now:
                    text = f"The other requests by {caller.name} left no turn for this one in time."
                    request.fail(self._refusal(caller.name, "concurrency", text, 1))
        for refusals in self._audit.due(now):
            self._tell(refusals)

    def _all(self) -> list[Caller]:
        return [*([self._anonymous] if self._anonymous is not None else []), *self._by_digest.values()]

    def name_of(self, head: Head) -> str:
        """What the caller of a request is called in logs; `unknown` with a key that nobody has."""
        key = _key_of(head)
        if key is None:
            return ANONYMOUS
        caller = self._by_digest.get(digest_of(key))
        return caller.name if caller is not None else UNKNOWN

    def _identify(self, head: Head) -> Caller:
        key = _key_of(head)
        if key is None:
            if self._anonymous is None:
                text = "An API key is needed; send it as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'."
                raise self._refusal(ANONYMOUS, "key", text, None, status=401)
            return self._anonymous
        caller = self._by_digest.get(digest_of(key))
        if caller is None:
            raise self._refusal(ANONYMOUS, "key", "The API key is not known here.", None, status=401)
        return caller

    def _refusal(self, caller: str, limit: str, text: str, retry_after: int | None, status: int = 429) -> RequestError:
        counter = self._limited.get((caller, limit))
        if counter is None:
            counter = self._metrics.counter("ganglion_limited_total", caller=caller, limit=limit)
            self._limited[caller, limit] = counter
        counter.add()
        refusals = self._audit.note(caller, limit, monotonic())
        if refusals is not None:
            self._tell(refusals)
        return RequestError(status, text, retry_after=retry_after)

    def _tell(self, refusals: Refusals) -> None:
        key = self._ids.get(refusals.caller, "")
        _log.warning("limited", caller=refusals.caller, key=key, limit=refusals.limit, refused=refusals.refused)


def _key_of(head: Head) -> bytes | None:
    """The key that a request brings; empty for one in a form that is none."""
    key = head.fields.get(b"x-api-key")
    authorization = head.fields.get(b"authorization")
    if key is not None or authorization is None:
        return key
    scheme, _, rest = authorization.partition(b" ")
    return rest.strip() if scheme.lower() == b"bearer" else b""
