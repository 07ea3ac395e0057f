"""Predictions for an unbounded stream of instances, in order: by a model in this process, or through a service.

```python
with EmbeddedModel(folder) as model:
    for answer in predict_stream(model, readings()):
        ...
```

Instances are batched by what is there: a batch is never waited for, so that nothing is held back when the stream
pauses. An instance is a JSON document as the service takes it in `instances`.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import msgspec
import orjson

from ganglion.core.errors import UserError
from ganglion.serving.arrivals import Arrivals
from ganglion.serving.gateway.errors import RequestError
from ganglion.serving.gateway.row_reader import RowReader
from ganglion.serving.gateway.tensorflow_rest import orjson_default, parse_predict, render_predictions
from ganglion.serving.model import LoadedModel
from ganglion.serving.payload import Payload

BATCH = 32
"""Instances that a model is given at once, at most."""


class Instance(msgspec.Struct, frozen=True):
    """One instance of a stream.

    Attributes:
        number: its place in the stream.
        document: JSON, as it arrived.
    """

    number: int
    document: bytes


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one instance.

    Attributes:
        number: its place in the stream.
        prediction: numbers or text, nested lists of them, or these by the names of several outputs.
        error: why there is no prediction; empty where there is one.
    """

    number: int
    prediction: Any = None
    error: str = ""


class StreamModel(Protocol):
    """What predicts a stream.

    Attributes:
        batch: instances that it is given at once, at most.
        classes: names of the numbers of a prediction, if they have names.
    """

    batch: int
    classes: tuple[str, ...]

    def answers(self, arrivals: Arrivals[Instance]) -> Iterator[list[Answer]]:
        """The answers, in order, some at a time, until nothing arrives any more."""
        ...


def predict_stream(model: StreamModel, instances: Iterable[Any]) -> Iterator[Answer]:
    """Predict what an iterator gives, while it gives it.

    Args:
        model: an `EmbeddedModel`, or a `service_stream.ServedModel`.
        instances: nested lists, NumPy arrays, numbers or text; these by the names of several inputs; or encoded images,
            as bytes or as paths. Taken from in a thread of its own, a few batches ahead.

    Returns:
        An answer for each, in order; an instance that cannot be predicted has an error and does not end the stream.

    Raises:
        UserError: an instance is nothing that can be written as JSON, or its file cannot be read.
    """
    documents = (Instance(number, _document(instance)) for number, instance in enumerate(instances))
    yield from predict_documents(model, documents)


def predict_documents(model: StreamModel, instances: Iterable[Instance]) -> Iterator[Answer]:
    """As `predict_stream`, for instances that are JSON already; what is no JSON gets an error for an answer."""
    with Arrivals(instances, ahead=2 * model.batch) as arrivals:
        for answers in model.answers(arrivals):
            yield from answers


class EmbeddedModel:
    """A model in this process; use as a context manager, or close it.

    Args:
        folder: a model package.
        batch: instances that it is given at once, at most.

    Attributes:
        batch: as given.
        classes: names of the classes, if there are any.

    Raises:
        ModelError: the package is half written, damaged or cannot be executed.
    """

    def __init__(self, folder: Path, *, batch: int = BATCH) -> None:
        self._model = LoadedModel(folder)
        self._reader = RowReader(self._model.manifest.signature)
        self.batch = batch
        self.classes = self._model.manifest.classes

    def answers(self, arrivals: Arrivals[Instance]) -> Iterator[list[Answer]]:
        """The answers, in order, a batch at a time."""
        while instances := arrivals.take(self.batch):
            yield self.predict(instances)

    def predict(self, instances: Sequence[Instance]) -> list[Answer]:
        """The answers to some instances; one that is at fault does not fail the others."""
        found: dict[int, Answer] = {}
        sound: list[Instance] = []
        for instance in instances:
            if problem := json_problem(instance.document):
                found[instance.number] = Answer(number=instance.number, error=problem)
            else:
                sound.append(instance)
        found |= {answer.number: answer for answer in self._sound(sound)} if sound else {}
        return [found[instance.number] for instance in instances]

    def close(self) -> None:
        """Give the model's memory back."""
        self._model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _sound(self, instances: Sequence[Instance]) -> list[Answer]:
        try:
            payload = self._payload(instances)
        except RequestError as error:
            if len(instances) == 1:
                return [Answer(number=instances[0].number, error=_alone(str(error)))]
            return self._divided(instances)
        model = self._model
        outputs, failures = model.predict_images(payload.images) if payload.images else model.predict(payload.tensors)
        errors = {failure.row: failure.message for failure in failures}
        values = orjson.loads(render_predictions(outputs, columns=False))["predictions"] if outputs else []
        return [
            Answer(number=instance.number, error=errors[row])
            if row in errors
            else Answer(number=instance.number, prediction=values[row])
            for row, instance in enumerate(instances)
        ]

    def _divided(self, instances: Sequence[Instance]) -> list[Answer]:
        """Instances that cannot be read together: halves, of which those that can be are predicted at once."""
        middle = len(instances) // 2
        return [*self._sound(instances[:middle]), *self._sound(instances[middle:])]

    def _payload(self, instances: Sequence[Instance]) -> Payload:
        body = b'{"instances":[%b]}' % b",".join(instance.document for instance in instances)
        payload = self._reader.read(body)
        manifest = self._model.manifest
        return payload or parse_predict(body, manifest.signature, manifest.image).payload


def json_problem(document: bytes) -> str:
    """Why a text is not one JSON document; empty where it is."""
    try:
        orjson.loads(document)
    except orjson.JSONDecodeError as error:
        return f"This is not JSON: {error}."
    return ""


def _alone(message: str) -> str:
    """A message about a request of one instance, for one instance."""
    return message.removeprefix("Instance 0: ").replace(", instance 0:", ":", 1)


def _document(instance: Any) -> bytes:
    if isinstance(instance, Path):
        try:
            instance = instance.read_bytes()
        except OSError as error:
            raise UserError(f"Cannot read the image {instance}: {error.strerror}.") from error
    if isinstance(instance, bytes):
        instance = {"image_bytes": {"b64": b64encode(instance).decode("ascii")}}
    try:
        return orjson.dumps(instance, orjson_default, orjson.OPT_SERIALIZE_NUMPY)
    except TypeError as error:
        raise UserError(f"An instance of type {type(instance).__name__} cannot be sent: {error}.") from error
