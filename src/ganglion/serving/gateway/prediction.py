"""What one model answers to one request while the gateway owns it, from its parts to the one result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ganglion.serving.gateway.errors import RequestError
from ganglion.serving.parts import Rows
from ganglion.serving.payload import Payload
from ganglion.serving.runtime import Tensors

Finish = Callable[[Tensors | RequestError], None]
"""Takes the outputs of all instances, or what went wrong; called once."""

_WAY = (0.1, 0.005)
"""Part of what a request may take, and seconds at most, that its way to the gateway and back has of it."""


def due_of(began: float, deadline: float) -> float:
    """When outputs have to be here for the caller to have them at the deadline of a request that came at `began`."""
    share, longest = _WAY
    return deadline - min(longest, share * (deadline - began))


def over_of(began: float, deadline: float) -> float:
    """When a caller is told that there are no outputs, so that it knows at its deadline; give or take a timer."""
    return (due_of(began, deadline) + deadline) / 2.0


class Cut(NamedTuple):
    """Some instances of a request that are asked together.

    Attributes:
        payload: they themselves.
        rows: which instances of the request they are.
        target: which rows of the result their outputs are.
        shard: that has to answer; `None` for any replica.
    """

    payload: Payload
    rows: Rows
    target: Rows
    shard: int | None = None


class Prediction:
    """The instances of one request for one model, cut into parts; the outputs are put together once, in place.

    Args:
        finish: gets the result, once.
        began: monotonic seconds at which the request was complete.
        deadline: monotonic seconds after which an answer is of no use.

    Attributes:
        due: monotonic seconds at which the outputs have to be here to reach the caller in time.
        over: monotonic seconds at which it is given up; the deadline, unless somebody sets it earlier.
    """

    __slots__ = ("_finish", "_missing", "_outputs", "_rows", "_whole", "began", "deadline", "due", "over", "settled")

    def __init__(self, finish: Finish, began: float, deadline: float) -> None:
        self._finish = finish
        self._outputs: Tensors = {}
        self._missing = 0
        self._rows = 0
        self._whole = False
        self.began = began
        self.deadline = deadline
        self.due = due_of(began, deadline)
        self.over = deadline
        self.settled = False

    def add(self, slices: Sequence[Payload]) -> list[Part]:
        """Ask for all instances in these slices; returns the parts to be queued."""
        if len(slices) == 1:  # most requests: nothing is put together, so nothing need be known of the place
            self._missing = 1
            self._whole = True
            return [Part(self, slices[0])]
        cuts = []
        first = 0
        for payload in slices:
            rows = slice(first, first + payload.rows)
            cuts.append(Cut(payload, rows, rows))
            first += payload.rows
        return self.add_cuts(cuts)

    def add_cuts(self, cuts: Sequence[Cut]) -> list[Part]:
        """Ask for all instances, as they have been cut; returns the parts to be queued."""
        self._missing = len(cuts)
        self._whole = len(cuts) == 1 and isinstance(cuts[0].target, slice)
        self._rows = sum(cut.payload.rows for cut in cuts)
        return [Part(self, cut.payload, cut) for cut in cuts]

    def complete(self, part: Part, outputs: Tensors) -> None:
        """Take the outputs of a part, the first time that it is answered; the last one finishes the request."""
        settled, part.answered = part.settled, True
        if settled:
            return
        if self._whole:
            self.settled = True
            self._finish(outputs)
            return
        assert part.cut is not None
        self._missing -= 1
        try:
            self._place(part.cut.target, outputs)
        except RequestError as error:
            self.fail(error)
            return
        if not self._missing:
            self.settled = True
            self._finish(self._outputs)

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

    def _place(self, target: Rows, outputs: Tensors) -> None:
        if not self._outputs:
            self._outputs = {
                name: np.empty((self._rows, *values.shape[1:]), values.dtype) for name, values in outputs.items()
            }
        if outputs.keys() != self._outputs.keys():
            raise RequestError(500, f"Parts have the outputs {sorted(outputs)} and {sorted(self._outputs)}.")
        for name, values in outputs.items():
            whole = self._outputs[name]
            if values.shape[1:] != whole.shape[1:] or values.dtype != whole.dtype:
                raise RequestError(
                    500, f"Output {name!r} has parts that do not go together: {_kind(whole)} and {_kind(values)}."
                )
            whole[target] = values


class Part:
    """Some instances of a request for one model: the unit that is queued, batched and tried again.

    Args:
        prediction: what it is a part of.
        payload: its instances.
        cut: where they belong; `None` for all instances of a request.

    Attributes:
        shard: that has to answer; `None` for any replica.
        deadline: when its outputs are due.
        answered: whether its outputs are there; it may still be at a replica that was thought to have stopped.
        deaths: replicas that died while they held it.
        lone_deaths: ids of those among them that held nothing else.
        suspect: whether a replica died with it or did not answer in time, so that it must not take other requests along
            the next time.
        stalls: replicas that were held to have stopped while they held it.
        condemned: whether it is kept as one that ends replicas.
    """

    __slots__ = (
        "answered",
        "condemned",
        "cut",
        "deadline",
        "deaths",
        "lone_deaths",
        "payload",
        "prediction",
        "shard",
        "stalls",
        "suspect",
    )

    def __init__(self, prediction: Prediction, payload: Payload, cut: Cut | None = None) -> None:
        self.prediction = prediction
        self.cut = cut
        self.payload = payload
        self.shard = cut.shard if cut is not None else None
        self.deadline = prediction.due
        self.answered = False
        self.deaths = 0
        self.lone_deaths: tuple[str, ...] = ()
        self.suspect = False
        self.stalls = 0
        self.condemned = False

    def instance(self, row: int) -> int:
        """The number within the request of one of its instances."""
        if self.cut is None:
            return row
        rows = self.cut.rows
        return rows.start + row if isinstance(rows, slice) else int(rows[row])

    @property
    def settled(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.answered or self.prediction.settled

    def blame(self, replica: str, *, alone: bool) -> None:
        """Note that the replica that held it died."""
        self.deaths += 1
        self.suspect = True
        if alone:
            self.lone_deaths += (replica,)


def _kind(values: Any) -> str:
    return f"{values.dtype} {[-1, *values.shape[1:]]}"
