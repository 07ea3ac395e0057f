"""The REST protocol of TensorFlow Serving, as pure functions from bytes to values and back.

https://www.tensorflow.org/tfx/serving/api_rest
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np
import orjson

from ganglion.artifacts.package import ImageInput, Signature, TensorSpec
from ganglion.core.errors import suggest
from ganglion.serving.gateway.base64_values import is_encoded
from ganglion.serving.gateway.endpoint import Endpoint
from ganglion.serving.gateway.errors import RequestError
from ganglion.serving.gateway.head import Head
from ganglion.serving.gateway.instances import IMAGE_KEY, array_of, image_of, is_image
from ganglion.serving.gateway.json_limits import check_values
from ganglion.serving.gateway.question import Question, Reply
from ganglion.serving.gateway.texts import takes_text
from ganglion.serving.payload import Payload
from ganglion.serving.routes import VersionRoute
from ganglion.serving.runtime import Tensors

PREFIX = "/v1/models"
SIGNATURE_NAME = "serving_default"
PREDICTIONS = ("predict", "classify", "regress")
"""Verbs that ask for predictions."""

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_TYPES = {
    "bool": "DT_BOOL",
    "uint8": "DT_UINT8",
    "uint16": "DT_UINT16",
    "uint32": "DT_UINT32",
    "uint64": "DT_UINT64",
    "int8": "DT_INT8",
    "int16": "DT_INT16",
    "int32": "DT_INT32",
    "int64": "DT_INT64",
    "float16": "DT_HALF",
    "float32": "DT_FLOAT",
    "float64": "DT_DOUBLE",
    "string": "DT_STRING",
}


class Target(NamedTuple):
    """What a path asks for.

    Attributes:
        model: name of the model or ensemble; empty for the list of all.
        version: its number, or the label that is an alias of it; `None` for the one that is the default.
        verb: `list`, `status`, `metadata`, or one of `PREDICTIONS`.
    """

    model: str
    version: int | str | None
    verb: str


def parse_path(path: str) -> Target | None:
    """Read `/v1/models[/<name>[/versions/<n> | /labels/<label>][:<verb> | /metadata]]`; `None` for any other path."""
    if not path.startswith(PREFIX):
        return None
    rest = path[len(PREFIX) :]
    if rest in ("", "/"):
        return Target("", None, "list")
    rest, separator, verb = rest.partition(":")
    parts = [unquote(part) for part in rest.split("/")]
    if parts[0] or (separator and verb not in PREDICTIONS):
        return None
    if not separator and parts[-1] == "metadata" and len(parts) in (3, 5):
        verb = parts.pop()
    match parts[1:]:
        case [name] if name:
            return Target(name, None, verb or "status")
        case [name, "versions", number] if name and number.isascii() and number.isdigit() and len(number) <= 18:
            return Target(name, int(number), verb or "status")
        case [name, "labels", label] if name and _LABEL.fullmatch(label):
            return Target(name, label, verb or "status")
    return None


def read(endpoint: Endpoint, _head: Head, body: bytes) -> Question:
    """Read a predict request, the common form of it by the endpoint's reader.

    Raises:
        RequestError: it cannot be read.
    """
    payload = endpoint.reader.read(body)
    if payload is not None:
        return Question(payload, _render_rows)
    request = parse_predict(body, endpoint.signature, endpoint.image)
    return Question(request.payload, _render_columns if request.columns else _render_rows)


def _render_rows(outputs: Tensors) -> Reply:
    return Reply(render_predictions(outputs, columns=False))


def _render_columns(outputs: Tensors) -> Reply:
    return Reply(render_predictions(outputs, columns=True))


class PredictRequest(NamedTuple):
    """A predict request.

    Attributes:
        payload: its instances.
        columns: the answer is wanted column by column (`inputs` was given, not `instances`).
    """

    payload: Payload
    columns: bool


def parse_predict(body: bytes, signature: Signature, image: ImageInput | None) -> PredictRequest:
    """Read the body of a predict request.

    Args:
        body: JSON: `{"instances": [...]}` (rows) or `{"inputs": ...}` (columns), optionally `signature_name`.
        signature: of the model.
        image: how an encoded image becomes its input, if it takes images.

    Raises:
        RequestError: the body is not JSON, has another form, or does not fit the signature.
    """
    document = load_object(body, ("instances", "inputs", "signature_name"), "instances")
    check_signature_name(document)
    if ("instances" in document) == ("inputs" in document):
        raise RequestError(400, "Exactly one of 'instances' (rows) and 'inputs' (columns) has to be given.")
    if "instances" in document:
        return PredictRequest(_rows(document["instances"], signature, image), columns=False)
    return PredictRequest(_columns(document["inputs"], signature, image), columns=True)


def load_object(body: bytes, allowed: Sequence[str], main: str) -> dict[str, Any]:
    """Parse a body that has to be an object with some keys.

    Args:
        body: JSON.
        allowed: its keys.
        main: the one that is always there, for the error.

    Raises:
        RequestError: it is not JSON, no object, has another key or too many values.
    """
    check_values(body)
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(400, f"The body is not JSON: {error}.") from error
    if not isinstance(document, dict):
        raise RequestError(400, f"The body is a JSON {_kind(document)}; an object with {main!r} is expected.")
    for key in document:
        if key not in allowed:
            raise RequestError(400, f"Unknown key {key!r} in the body. {suggest(key, allowed)}")
    return document


def check_signature_name(document: Mapping[str, Any]) -> None:
    """Refuse a signature that the model does not have.

    Raises:
        RequestError: `signature_name` is another than the only one that there is.
    """
    if document.get("signature_name", SIGNATURE_NAME) not in (SIGNATURE_NAME, ""):
        raise RequestError(400, f"There is no signature {document['signature_name']!r}; there is {SIGNATURE_NAME!r}.")


def _rows(instances: Any, signature: Signature, image: ImageInput | None) -> Payload:
    values = _filled_list(instances, "'instances'")
    if is_image(values[0]) and not _is_input(values[0], signature) and not takes_text(signature):
        return _images(values, image)
    if isinstance(values[0], dict) and not _is_only_text(values[0], signature):
        for number, value in enumerate(values):
            _check_names(value, signature, f"Instance {number}")
        return Payload(
            tensors={
                tensor.name: array_of([value[tensor.name] for value in values], tensor) for tensor in signature.inputs
            }
        )
    return Payload(tensors={tensor.name: array_of(values, tensor) for tensor in [_only_input(signature, "instance")]})


def _columns(inputs: Any, signature: Signature, image: ImageInput | None) -> Payload:
    pictures = not takes_text(signature)
    if pictures and isinstance(inputs, dict) and inputs.keys() == {IMAGE_KEY} and not _is_input(inputs, signature):
        inputs = inputs[IMAGE_KEY]
    if isinstance(inputs, dict):
        _check_names(inputs, signature, "'inputs'")
        columns = {name: _filled_list(values, f"Input {name!r}") for name, values in inputs.items()}
        counts = {name: len(values) for name, values in columns.items()}
        if len(set(counts.values())) > 1:
            raise RequestError(400, f"The inputs have different numbers of instances: {counts}.")
        return Payload(tensors={tensor.name: array_of(columns[tensor.name], tensor) for tensor in signature.inputs})
    values = _filled_list(inputs, "'inputs'")
    if pictures and is_image(values[0]):
        return _images(values, image)
    return Payload(tensors={tensor.name: array_of(values, tensor) for tensor in [_only_input(signature, "column")]})


def _images(values: list[Any], image: ImageInput | None) -> Payload:
    if image is None:
        raise RequestError(400, "This model takes no encoded images; give its inputs as numbers.")
    return Payload(images=[image_of(value, number) for number, value in enumerate(values)])


def _filled_list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        given = "an empty list" if value == [] else _kind(value)
        raise RequestError(400, f"{what}: {given} was given; a list of at least one instance is expected.")
    return value


def _only_input(signature: Signature, what: str) -> TensorSpec:
    if len(signature.inputs) > 1:
        names = ", ".join(tensor.name for tensor in signature.inputs)
        raise RequestError(400, f"The model has the inputs {names}; each {what} has to name them.")
    return signature.inputs[0]


def _is_input(value: Mapping[str, Any], signature: Signature) -> bool:
    """Whether the keys are the names of the model's inputs, whatever else they may mean."""
    return value.keys() == {tensor.name for tensor in signature.inputs}


def _is_only_text(value: Mapping[str, Any], signature: Signature) -> bool:
    """Whether it is the text of the only input in base64, and not an object of inputs."""
    only = len(signature.inputs) == 1 and signature.inputs[0].dtype == "string"
    return only and is_encoded(value) and not _is_input(value, signature)


def _check_names(value: Any, signature: Signature, what: str) -> None:
    if not isinstance(value, dict) or not _is_input(value, signature):
        given = sorted(value) if isinstance(value, dict) else _kind(value)
        names = sorted(tensor.name for tensor in signature.inputs)
        raise RequestError(400, f"{what} has {given}; the model has the inputs {names}.")


def _kind(value: Any) -> str:
    kinds = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return kinds.get(type(value), "null")


def render_predictions(outputs: Tensors, *, columns: bool) -> bytes:
    """The body of the answer: `predictions` for rows, `outputs` for columns.

    A number that JSON cannot hold (NaN, infinity) is `null`.
    """
    values: Any
    if len(outputs) == 1:
        values = next(iter(outputs.values()))
    elif columns:
        values = outputs
    else:
        values = [dict(zip(outputs, row, strict=True)) for row in zip(*outputs.values(), strict=True)]
    return orjson.dumps({"outputs" if columns else "predictions": values}, orjson_default, orjson.OPT_SERIALIZE_NUMPY)


def orjson_default(value: Any) -> Any:
    """What orjson does not write by itself: arrays that are not in C order, or text."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def render_status(versions: Iterable[VersionRoute]) -> bytes:
    """The status of versions, newest first, as TensorFlow Serving does."""
    return orjson.dumps(
        {
            "model_version_status": [
                {
                    "version": str(version.version),
                    "state": version.state,
                    "status": {
                        "error_code": "UNKNOWN" if version.error else "OK",
                        "error_message": version.error,
                    },
                }
                for version in sorted(versions, key=lambda version: -version.version)
            ]
        }
    )


def render_metadata(model: str, version: VersionRoute) -> bytes:
    """The signature of a version as TensorFlow Serving gives it; beside it the classes and the image input."""
    definition = {
        "inputs": {tensor.name: _tensor_info(tensor) for tensor in version.signature.inputs},
        "outputs": {tensor.name: _tensor_info(tensor) for tensor in version.signature.outputs},
        "method_name": "tensorflow/serving/predict",
    }
    image = version.image
    return orjson.dumps(
        {
            "model_spec": {"name": model, "signature_name": "", "version": str(version.version)},
            "metadata": {
                "signature_def": {"signature_def": {SIGNATURE_NAME: definition}},
                "classes": version.classes,
                "image": {"width": image.width, "height": image.height, "mode": image.mode} if image else None,
            },
        }
    )


def _tensor_info(tensor: TensorSpec) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "dtype": _TYPES[tensor.dtype],
        "tensor_shape": {"dim": [{"size": str(size), "name": ""} for size in tensor.shape], "unknown_rank": False},
    }
