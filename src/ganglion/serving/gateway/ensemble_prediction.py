"""One request to an ensemble: all members at the same time, on the same arrays, and who was missing at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import NamedTuple
from urllib.parse import quote

from ganglion.serving.gateway.ensemble import combine
from ganglion.serving.gateway.errors import RequestError
from ganglion.serving.gateway.inquiry import Inquiry, call_pool, complete_outputs, grouped_call
from ganglion.serving.gateway.pool import Pool
from ganglion.serving.gateway.prediction import Finish, Prediction
from ganglion.serving.payload import Payload
from ganglion.serving.routes import EnsembleRoute
from ganglion.serving.runtime import Tensors
from ganglion.serving.sharding import is_function

_SERVER_ERRORS = 500
_RESERVE = 0.1
"""Part of the time of a request that is kept for the user's function to combine what is there."""


class Degradation(NamedTuple):
    """Who is missing in an answer.

    Attributes:
        members: of the ensemble, how many.
        missing: names of those that did not answer.
    """

    members: int
    missing: tuple[str, ...]

    def __str__(self) -> str:
        names = ",".join(quote(name) for name in self.missing)
        return f"members={self.members - len(self.missing)}/{self.members}; missing={names}"


FinishEnsemble = Callable[[Tensors | RequestError, Degradation | None], None]
"""Takes the combined outputs and who is missing in them, or what went wrong; called once."""


class EnsemblePrediction:
    """Asks every member; without a quorum all have to answer, with one those count that have by the deadline.

    A member that fails (a status of 500 and above) is missing; a request that is at fault fails as a whole.

    Args:
        route: the ensemble.
        pools: of its members, in their order.
        payload: all instances; nobody copies them.
        finish: gets the result, once, unless it is abandoned.
        began: monotonic seconds at which the request was complete.
        deadline: monotonic seconds after which an answer is of no use.
    """

    def __init__(
        self,
        route: EnsembleRoute,
        pools: Sequence[Pool],
        payload: Payload,
        finish: FinishEnsemble,
        began: float,
        deadline: float,
    ) -> None:
        self._route = route
        self._pools = pools
        self._payload: Payload | None = payload
        self._finish = finish
        self._began = began
        self._deadline = deadline
        self._answers: list[Tensors | None] = [None] * len(pools)
        self._outstanding = len(pools)
        self._problem: RequestError | None = None
        self._concluded = False
        self._asked: list[Inquiry | Prediction] = []
        self._stage: Prediction | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Ask all members."""
        if self._route.quorum is not None:
            left = self._deadline - monotonic()
            patience = left * (1 - _RESERVE) if is_function(self._route.how) else left
            self._timer = asyncio.get_running_loop().call_later(max(0.0, patience), self._conclude)
        payload, self._payload = self._payload, None
        assert payload is not None
        for number, pool in enumerate(self._pools):
            if self._concluded:
                return
            try:
                self._ask(pool, payload, partial(self._take, number))
            except RequestError as error:
                self._take(number, error)

    def abandon(self) -> None:
        """Nobody waits for the result any more."""
        self._leave()
        if self._stage is not None:
            self._stage.abandon()
            self._stage = None

    def _ask(self, pool: Pool, payload: Payload, finish: Finish) -> None:
        """Ask one member."""
        if pool.model.sharding is None:
            prediction = Prediction(finish, self._began, self._deadline)
            self._asked.append(prediction)
            pool.submit(prediction.add(pool.split(payload)))
        else:
            inquiry = Inquiry(pool, payload, finish, self._began, self._deadline)
            self._asked.append(inquiry)
            inquiry.start()

    def _take(self, number: int, result: Tensors | RequestError) -> None:
        """A member has answered or failed."""
        if self._concluded:
            return
        self._outstanding -= 1
        if not isinstance(result, RequestError):
            self._answers[number] = result
        elif self._route.quorum is None or result.status < _SERVER_ERRORS:
            self._end(result)
            return
        else:
            self._problem = self._problem or result
            if self._answered + self._outstanding < self._route.quorum:
                self._end(self._problem)
                return
        if not self._outstanding:
            self._conclude()

    @property
    def _answered(self) -> int:
        return sum(answer is not None for answer in self._answers)

    def _conclude(self) -> None:
        """Combine what is there; whoever is still at work is late."""
        if self._concluded:
            return
        route = self._route
        there = {name: answer for name, answer in zip(route.members, self._answers, strict=True) if answer is not None}
        if route.quorum is not None and len(there) < route.quorum:
            text = f"{len(there)} of {len(self._pools)} members answered in time; the quorum is {route.quorum}."
            self._end(self._problem or RequestError(504, text))
            return
        if not is_function(route.how):
            try:
                result: Tensors | RequestError = combine(
                    self._answers, route, [pool.version.classes for pool in self._pools]
                )
            except RequestError as error:
                result = error
            self._end(result)
            return
        self._leave()
        self._stage = Prediction(self._on_combined, self._began, self._deadline)
        pool = next(pool for pool, answer in zip(self._pools, self._answers, strict=True) if answer is not None)
        call = grouped_call("combine", route.how, there, max(0.0, self._deadline - monotonic()))
        call_pool(pool, self._stage, call, admitted=True)

    def _on_combined(self, result: Tensors | RequestError) -> None:
        self._stage = None
        self._end(complete_outputs(self._pools[0], result))

    def _end(self, result: Tensors | RequestError) -> None:
        self._leave()
        missing = tuple(name for name, answer in zip(self._route.members, self._answers, strict=True) if answer is None)
        degradation = Degradation(len(self._pools), missing) if missing else None
        self._finish(result, None if isinstance(result, RequestError) else degradation)

    def _leave(self) -> None:
        """Take nothing more of the members."""
        self._concluded = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        asked, self._asked = self._asked, []  # they refer back here
        for member in asked:
            member.abandon()
