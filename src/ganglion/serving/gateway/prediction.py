"""A prediction request while the gateway owns it, from the parsed body to the one answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ganglion.serving.gateway.ensemble import combine
from ganglion.serving.gateway.errors import RequestError
from ganglion.serving.payload import Payload
from ganglion.serving.runtime import Tensors

Finish = Callable[[Tensors | RequestError], None]
"""Takes the outputs of all instances, or what went wrong; called once."""

MOST_DEATHS = 3
"""Replica deaths after which a part is no longer tried: the first try and two retries."""

MOST_DEATHS_ALONE = 2
"""Replica deaths after which a part that was the only one there is held to be their cause."""


class Prediction:
    """One request, cut into parts: for each model that answers it, for each slice of its instances.

    Args:
        finish: gets the result, once.
        began: monotonic seconds at which the request was complete.
        deadline: monotonic seconds after which an answer is of no use.
        how: how the answers of several models become one; `None` for one model.
    """

    __slots__ = ("_finish", "_how", "_missing", "_outputs", "began", "deadline", "settled")

    def __init__(self, finish: Finish, began: float, deadline: float, how: str | None = None) -> None:
        self._finish = finish
        self._how = how
        self._outputs: list[list[Tensors]] = []
        self._missing = 0
        self.began = began
        self.deadline = deadline
        self.settled = False

    def add(self, slices: Sequence[Payload]) -> list[Part]:
        """Ask one more model, for all instances in these slices; returns the parts to be queued."""
        model = len(self._outputs)
        if len(slices) == 1:
            self._outputs.append([{}])
            self._missing += 1
            return [Part(self, model, 0, 0, slices[0])]
        self._outputs.append([{} for _ in slices])
        self._missing += len(slices)
        parts = []
        first_row = 0
        for index, payload in enumerate(slices):
            parts.append(Part(self, model, index, first_row, payload))
            first_row += payload.rows
        return parts

    def complete(self, part: Part, outputs: Tensors) -> None:
        """Take the outputs of a part; the last one finishes the request."""
        if self.settled:
            return
        if self._missing == 1 and self._how is None and len(self._outputs[0]) == 1:
            self.settled = True
            self._finish(outputs)
            return
        self._outputs[part.model][part.index] = outputs
        self._missing -= 1
        if not self._missing:
            self.settled = True
            try:
                result: Tensors | RequestError = self._join()
            except RequestError as error:
                result = error
            self._finish(result)

    def fail(self, error: RequestError) -> None:
        """Finish the request with an error, unless it is finished."""
        if not self.settled:
            self.settled = True
            self._finish(error)

    @property
    def allowed(self) -> float:
        """Seconds that it may take in all."""
        return self.deadline - self.began

    def abandon(self) -> None:
        """Forget the request: its caller is gone."""
        self.settled = True

    def _join(self) -> Tensors:
        answers = [_concatenate(slices) for slices in self._outputs]
        return answers[0] if self._how is None else combine(answers, self._how)


class Part:
    """Some instances of a request for one model: the unit that is queued, batched and tried again.

    Attributes:
        prediction: the request it belongs to.
        model: number of the model within the request.
        index: number of the slice within the model.
        first_row: number of its first instance within the request.
        payload: its instances.
        deadline: of the request.
        deaths: replicas that died while they held it.
        deaths_alone: those among them that held nothing else.
    """

    __slots__ = ("deadline", "deaths", "deaths_alone", "first_row", "index", "model", "payload", "prediction")

    def __init__(self, prediction: Prediction, model: int, index: int, first_row: int, payload: Payload) -> None:
        self.prediction = prediction
        self.model = model
        self.index = index
        self.first_row = first_row
        self.payload = payload
        self.deadline = prediction.deadline
        self.deaths = 0
        self.deaths_alone = 0

    @property
    def suspect(self) -> bool:
        """Whether a replica died with it, so that it must not take other requests along the next time."""
        return self.deaths > 0

    @property
    def settled(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.prediction.settled

    def blame(self, *, alone: bool) -> RequestError | None:
        """Note that the replica that held it died; the error if it must not be tried again."""
        self.deaths += 1
        self.deaths_alone += alone
        if self.deaths_alone >= MOST_DEATHS_ALONE:
            return RequestError(500, f"This request ended {self.deaths} replicas and is not tried again.")
        if self.deaths >= MOST_DEATHS:
            return RequestError(500, f"{self.deaths} replicas ended while they held this request; it is given up.")
        return None


def _concatenate(slices: list[Tensors]) -> Tensors:
    if len(slices) == 1:
        return slices[0]
    return {name: np.concatenate([part[name] for part in slices]) for name in slices[0]}
