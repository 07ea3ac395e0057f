"""A model that the gateway holds itself, beside its replicas, for requests to which the way there is the most part."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ganglion.core.log import get_logger
from ganglion.serving.gateway.latency_model import LatencyModel
from ganglion.serving.gateway.prediction import Part
from ganglion.serving.model import LoadedModel
from ganglion.serving.payload import Payload
from ganglion.serving.runtime import Tensors

SHORT = 0.002
"""Seconds of the event loop that a prediction may take here: everything else waits for as long."""

MOST_ROWS = 16
"""Instances that are predicted here at once, at most; the model is timed with so many."""

_TIMINGS = 5
"""Times that the model is timed before it is used; the fastest counts, since any one may have been disturbed."""

_log = get_logger(part="serving.gateway")


class GatewayModel:
    """Loaded in a thread, used in the event loop, closed with its last user.

    A package that cannot be loaded here, or whose model is not short, is left to the replicas. What counts is the
    processor's time, which other processes on a busy machine do not change.

    Args:
        loop: the gateway's event loop.
        folder: of the model package.

    Attributes:
        closed: whether its last user is gone.
        loading: done when it is there, or left to the replicas.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, folder: Path) -> None:
        self.closed = False
        self._folder = folder
        self._users: set[object] = set()
        self._model: LoadedModel | None = None
        self._latency = LatencyModel()
        self.loading = loop.create_task(self._load(loop))

    def attach(self, user: object) -> None:
        """Keep it at least until this user leaves."""
        self._users.add(user)

    def detach(self, user: object) -> None:
        """This user is gone; nothing happens if it was gone before."""
        self._users.discard(user)
        if not self._users:
            self.closed = True
            self._drop()

    def predict(self, parts: Sequence[Part]) -> Tensors | None:
        """Predict now, or leave it to a replica.

        Args:
            parts: what would otherwise be a batch for a replica.

        Returns:
            Outputs by name; `None` where it would not be short, must not be risked here, or failed; a replica says how.
        """
        model = self._model
        if model is None or not all(map(_is_plain, parts)):
            return None
        payloads = [part.payload for part in parts]
        rows = sum([payload.rows for payload in payloads])
        if rows > MOST_ROWS or self._latency.promise(rows) >= SHORT:
            return None
        inputs = payloads[0].tensors
        if len(payloads) > 1:
            inputs = {name: np.concatenate([payload.tensors[name] for payload in payloads]) for name in inputs}
        elif not all(values.flags.aligned for values in inputs.values()):
            return None
        began = time.thread_time()
        outputs, failures = model.predict(inputs)
        self._latency.observe(rows, time.thread_time() - began)
        return None if failures else outputs

    async def _load(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            model, taken = await loop.run_in_executor(None, _load_and_time, self._folder)
        except Exception as error:  # noqa: BLE001  whatever it is, replicas have loaded it and answer
            _log.warning("model_left_to_replicas", folder=str(self._folder), error=f"{type(error).__name__}: {error}")
            return
        for rows, seconds in taken:
            self._latency.observe(rows, seconds)
        self._model = model
        fixed = all(
            tensor.dtype != "string" and -1 not in tensor.shape[1:] for tensor in model.manifest.signature.inputs
        )
        if not fixed or self._latency.promise(1) >= SHORT:
            _log.info("model_left_to_replicas", folder=str(self._folder), seconds=self._latency.predict(1), fixed=fixed)
            self._drop()
        elif self.closed:
            self._drop()

    def _drop(self) -> None:
        model, self._model = self._model, None
        if model is not None:
            model.close()


def _is_plain(part: Part) -> bool:
    """Whether it is tensors in place that nobody died of: an image may be of any size, a function do anything."""
    payload = part.payload
    return type(payload) is Payload and not payload.images and not part.deaths and part.shard is None


def _load_and_time(folder: Path) -> tuple[LoadedModel, list[tuple[int, float]]]:
    """The loaded model, and the seconds of the processor that it took for so many instances."""
    model = LoadedModel(folder)
    model.warm(MOST_ROWS)
    return model, [(rows, min(_seconds(model, rows) for _ in range(_TIMINGS))) for rows in (1, MOST_ROWS)]


def _seconds(model: LoadedModel, rows: int) -> float:
    inputs = model.zeros(rows)
    began = time.thread_time()
    model.predict(inputs)
    return time.thread_time() - began
