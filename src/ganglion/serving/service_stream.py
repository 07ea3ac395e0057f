"""Streams predicted through a service: small batches, several at a time, answers in order."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import orjson

from ganglion.core.errors import ControlError
from ganglion.serving.arrivals import Arrivals
from ganglion.serving.client import Client, ServiceError
from ganglion.serving.stream import BATCH, Answer, Instance, json_problem

CONCURRENCY = 4
"""Batches that are on their way at once, at most."""

PATIENCE = 60.0
"""Seconds for which a service that is overloaded or away is tried again."""

_BUSY = (429, 503, 504)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0


class ServedModel:
    """A model or an ensemble that a gateway serves; use as a context manager, or close it.

    Args:
        url: of the gateway.
        model: its name.
        version: a version other than the one that is served by default.
        batch: instances of one request, at most.
        concurrency: requests that are on their way at once, at most.
        patience: seconds for which a service that is overloaded or away is tried again.

    Attributes:
        batch: as given.
        classes: names of the classes, if there are any.
        version: that answers.

    Raises:
        ControlError: no service answers.
        ServiceError: it does not serve the model.
    """

    def __init__(
        self,
        url: str,
        model: str,
        version: int | None = None,
        *,
        batch: int = BATCH,
        concurrency: int = CONCURRENCY,
        patience: float = PATIENCE,
    ) -> None:
        self._url = url
        self._name = model
        self._wanted = version
        self.batch = batch
        self._concurrency = concurrency
        self._patience = patience
        self._clients: queue.SimpleQueue[Client] = queue.SimpleQueue()
        self._made: list[Client] = []
        self._over = threading.Event()
        with Client(url) as client:
            about = client.metadata(model, version)
        self.version = int(about["model_spec"]["version"])
        self.classes = tuple(about["metadata"].get("classes", ()))
        for _ in range(concurrency):
            self._made.append(Client(url))
            self._clients.put(self._made[-1])

    def answers(self, arrivals: Arrivals[Instance]) -> Iterator[list[Answer]]:
        """The answers, in order, a batch at a time; a batch is made when it can be sent."""
        room = threading.Semaphore(self._concurrency)
        self._over.clear()
        sent: queue.SimpleQueue[Future[list[Answer]] | BaseException | None] = queue.SimpleQueue()
        with ThreadPoolExecutor(self._concurrency, thread_name_prefix="ganglion-stream") as pool:

            def send() -> None:
                try:
                    while room.acquire() and (instances := arrivals.take(self.batch)):
                        sent.put(pool.submit(self.predict, instances))
                    sent.put(None)
                except BaseException as error:  # noqa: BLE001  it is raised in the place of the answers
                    sent.put(error)

            threading.Thread(target=send, name="ganglion-stream-sender", daemon=True).start()
            try:
                while (found := sent.get()) is not None:
                    if isinstance(found, BaseException):
                        raise found
                    answers = found.result()
                    room.release()
                    yield answers
            finally:
                self._over.set()
                arrivals.close()
                room.release()
                pool.shutdown(wait=False, cancel_futures=True)

    def predict(self, instances: Sequence[Instance]) -> list[Answer]:
        """The answers to some instances; one that is at fault does not fail the others.

        Raises:
            ControlError: no service answers any more.
            ServiceError: it does not serve the model any more, or is overloaded for too long.
        """
        problems = {instance.number: json_problem(instance.document) for instance in instances}
        sound = [instance for instance in instances if not problems[instance.number]]
        found = {answer.number: answer for answer in self._sound(sound)} if sound else {}
        return [
            found.get(instance.number) or Answer(number=instance.number, error=problems[instance.number])
            for instance in instances
        ]

    def close(self) -> None:
        """Close the connections."""
        for client in self._made:
            client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _sound(self, instances: Sequence[Instance]) -> list[Answer]:
        try:
            values = self._ask([orjson.loads(instance.document) for instance in instances])
        except ServiceError as error:
            if error.status in (404, *_BUSY):
                raise
            if len(instances) == 1:
                return [Answer(number=instances[0].number, error=str(error))]
            middle = len(instances) // 2  # one of them is at fault
            return [*self._sound(instances[:middle]), *self._sound(instances[middle:])]
        return [
            Answer(number=instance.number, prediction=value) for instance, value in zip(instances, values, strict=True)
        ]

    def _ask(self, values: list[Any]) -> list[Any]:
        """Ask until there is an answer; asking twice for a prediction does no harm."""
        client = self._clients.get()
        until = time.monotonic() + self._patience
        pause = _FIRST_PAUSE
        try:
            while True:
                try:
                    return client.predict(self._name, values, version=self._wanted)
                except (ServiceError, ControlError) as error:
                    passing = isinstance(error, ControlError) or error.status in _BUSY
                    if not passing or time.monotonic() + pause > until or self._over.wait(pause):
                        raise
                pause = min(2 * pause, _LONGEST_PAUSE)
        finally:
            self._clients.put(client)
