"""What one request asks of one model whose requests are sharded: split, predictions, merge, one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import monotonic

import numpy as np

from ganglion.serving.functions import PARTS
from ganglion.serving.gateway.errors import RequestError
from ganglion.serving.gateway.pool import Pool
from ganglion.serving.gateway.prediction import Cut, Finish, Prediction
from ganglion.serving.gateway.shard_plan import ShardPlan, plan_shards, together
from ganglion.serving.payload import CallPayload, Payload
from ganglion.serving.runtime import Tensors
from ganglion.serving.sharding import Sharding, is_function
from ganglion.serving.wire import Call


class Inquiry:
    """Asks a pool; the user's functions are called in its replicas, like predictions of an instance of their own kind.

    Args:
        pool: the replicas of the model.
        payload: all instances.
        finish: gets the result, once, unless the inquiry is abandoned.
        began: monotonic seconds at which the request was complete.
        deadline: monotonic seconds after which an answer is of no use.
    """

    def __init__(self, pool: Pool, payload: Payload, finish: Finish, began: float, deadline: float) -> None:
        self._pool = pool
        self._sharding = pool.model.sharding
        self._payload: Payload | None = payload
        self._finish = finish
        self._began = began
        self._deadline = deadline
        self._stage: Prediction | None = None
        self._sizes: Sequence[int] = ()

    def start(self) -> None:
        """Ask.

        Raises:
            RequestError: nothing was asked, for too much is waiting already or the request cannot be split.
        """
        pool, sharding, payload = self._pool, self._sharding, self._payload
        assert payload is not None
        if sharding is not None and payload.rows > sharding.limit:
            if is_function(sharding.by):
                call = Call("split", sharding.by, seconds=self._left)
                call_pool(pool, self._enter(self._on_split), CallPayload(call, payload.tensors, payload.images))
            else:
                self._predict(plan_shards(payload, sharding, self._together(payload, sharding)))
            return
        self._payload = None
        self._sizes = [payload.rows]
        pool.submit(self._enter(self._on_outputs).add(pool.split(payload)))

    def abandon(self) -> None:
        """Nobody waits for the result any more."""
        if self._stage is not None:
            self._stage.abandon()

    @property
    def _left(self) -> float:
        return max(0.0, self._deadline - monotonic())

    def _together(self, payload: Payload, sharding: Sharding) -> int:
        most, latency = self._pool.model.max_batch, self._pool.latency
        return together(payload, sharding, most, latency.predict) if latency.known else most

    def _enter(self, finish: Finish) -> Prediction:
        self._stage = Prediction(finish, self._began, self._deadline)
        return self._stage

    def _predict(self, plan: ShardPlan, *, admitted: bool = False) -> None:
        self._payload = None
        self._sizes = plan.sizes
        self._pool.submit(self._enter(self._on_outputs).add_cuts(plan.cuts), admitted=admitted)

    def _on_split(self, result: Tensors | RequestError) -> None:
        if isinstance(result, RequestError):
            self._end(result)
            return
        assert self._payload is not None
        assert self._sharding is not None
        most = self._together(self._payload, self._sharding)
        plan = plan_shards(self._payload, self._sharding, most, result[PARTS])
        self._predict(plan, admitted=True)

    def _on_outputs(self, result: Tensors | RequestError) -> None:
        merge = self._sharding.merge if self._sharding is not None else ""
        if isinstance(result, RequestError) or not merge:
            self._end(result)
            return
        ends = np.cumsum(self._sizes)
        groups = {
            str(part): {name: values[end - size : end] for name, values in result.items()}
            for part, (size, end) in enumerate(zip(self._sizes, ends, strict=True))
        }
        call = grouped_call("merge", merge, groups, self._left)
        call_pool(self._pool, self._enter(self._on_merged), call, admitted=True)

    def _on_merged(self, result: Tensors | RequestError) -> None:
        self._end(complete_outputs(self._pool, result))

    def _end(self, result: Tensors | RequestError) -> None:
        self._stage = None  # it refers back here: nothing is left to the garbage collector
        self._finish(result)


def call_pool(pool: Pool, prediction: Prediction, payload: CallPayload, *, admitted: bool = False) -> None:
    """Have a replica call a user's function.

    Args:
        pool: any of whose replicas does it.
        prediction: gets what it gives.
        payload: the call.
        admitted: the request has been let in already and is not refused for what else waits.

    Raises:
        RequestError: too much is waiting already.
    """
    everything = slice(0, payload.rows)
    pool.submit(prediction.add_cuts([Cut(payload, everything, everything)]), admitted=admitted)


def grouped_call(role: str, function: str, groups: Mapping[str, Tensors], seconds: float) -> CallPayload:
    """A call with the outputs of several parts or models."""
    tensors = {
        f"{number}/{name}": values for number, outputs in enumerate(groups.values()) for name, values in outputs.items()
    }
    return CallPayload(Call(role, function, tuple(groups), seconds), tensors)  # type: ignore[arg-type]


def complete_outputs(pool: Pool, result: Tensors | RequestError) -> Tensors | RequestError:
    """What a user's function gave, if it has all outputs of the model; more are allowed."""
    if isinstance(result, RequestError):
        return result
    names = [output.name for output in pool.version.signature.outputs]
    if all(name in result for name in names):
        return result
    text = f"The function gave the outputs {sorted(result)}; {', '.join(names)} are expected."
    return RequestError(500, text)
