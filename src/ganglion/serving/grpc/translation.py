"""From messages of gRPC to requests of the Open Inference Protocol over HTTP and back, as pure functions.

Tensors travel as binary on both sides; numbers of typed contents become binary here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec
import numpy as np
import orjson

from ganglion.serving import byte_elements
from ganglion.serving.gateway.errors import RequestError
from ganglion.serving.gateway.open_inference import BYTES, HEADER_LENGTH, PREFIX
from ganglion.serving.grpc import messages

CONTENTS = {
    "BOOL": ("bool_contents", "bool"),
    "INT8": ("int_contents", "int8"),
    "INT16": ("int_contents", "int16"),
    "INT32": ("int_contents", "int32"),
    "INT64": ("int64_contents", "int64"),
    "UINT8": ("uint_contents", "uint8"),
    "UINT16": ("uint_contents", "uint16"),
    "UINT32": ("uint_contents", "uint32"),
    "UINT64": ("uint64_contents", "uint64"),
    "FP32": ("fp32_contents", "float32"),
    "FP64": ("fp64_contents", "float64"),
}
"""Where numbers of each type are, if they are not raw, and what NumPy calls them; FP16 is always raw."""

_CHOICES = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
"""Where a parameter of the answer is, by the type of its value."""

PASSED_ON = ("authorization", "x-api-key", "ganglion-route-key")
"""Metadata that goes to the gateway as it is: the key of the caller, and what it chooses a version by."""


class GatewayRequest(NamedTuple):
    """What the gateway is asked.

    Attributes:
        method: of HTTP.
        path: percent-encoded.
        body: in parts.
        fields: of the header.
    """

    method: str
    path: str
    body: tuple[bytes, ...] = ()
    fields: Mapping[str, str] = {}


class GatewayAnswer(NamedTuple):
    """What the gateway answered.

    Attributes:
        status: of HTTP.
        fields: of the header, by lower-case name.
        body: complete.
    """

    status: int
    fields: Mapping[str, str]
    body: bytes


def model_path(name: str, version: str, verb: str = "") -> str:
    """Where the gateway has a model.

    Raises:
        RequestError: there is no name, or the version is no number.
    """
    if not name:
        raise RequestError(400, "The name of the model is empty.")
    path = f"{PREFIX}/models/{quote(name, safe='')}"
    if version:
        if not (version.isascii() and version.isdigit() and len(version) <= 18):
            raise RequestError(400, f"The version {version[:40]!r} is no version; a number is expected.")
        path += f"/versions/{int(version)}"
    return path + (f"/{verb}" if verb else "")


def infer_request(message: Any, fields: Mapping[str, str]) -> GatewayRequest:
    """Say a `ModelInferRequest` over HTTP.

    Args:
        message: what a client sent.
        fields: further header fields.

    Raises:
        RequestError: its tensors are incomplete, given twice, or do not fit their type.
    """
    path = model_path(message.model_name, message.model_version, "infer")
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise RequestError(400, f"{len(message.inputs)} inputs have {len(raw)} raw contents; each needs its own.")
    parts = [_part(tensor, raw[number] if raw else None) for number, tensor in enumerate(message.inputs)]
    document: dict[str, Any] = {
        "inputs": [
            {
                "name": tensor.name,
                "datatype": tensor.datatype,
                "shape": list(tensor.shape),
                "parameters": {"binary_data_size": len(part)},
            }
            for tensor, part in zip(message.inputs, parts, strict=True)
        ],
        "outputs": [{"name": output.name} for output in message.outputs],
        "parameters": _parameters(message.parameters) | {"binary_data_output": True},
    }
    if message.id:
        document["id"] = message.id
    try:
        header = orjson.dumps(document)
    except orjson.JSONEncodeError as error:
        raise RequestError(400, f"A number of the request is too large: {error}.") from error
    return GatewayRequest("POST", path, (header, *parts), {HEADER_LENGTH: str(len(header)), **fields})


def _parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    chosen = {key: value.WhichOneof("parameter_choice") for key, value in given.items()}
    return {key: getattr(given[key], choice) for key, choice in chosen.items() if choice is not None}


def _part(tensor: Any, raw: bytes | None) -> bytes:
    """The binary form of an input, given raw or as typed contents."""
    typed = tensor.contents.ListFields() if tensor.HasField("contents") else []
    if raw is not None:
        if typed:
            raise RequestError(400, f"Input {tensor.name!r} has raw and typed contents; give one of them.")
        return raw
    allowed = "bytes_contents" if tensor.datatype == BYTES else CONTENTS.get(tensor.datatype, ("", ""))[0]
    if not allowed:
        raise RequestError(400, f"Input {tensor.name!r}: contents of the type {tensor.datatype!r} have to be raw.")
    names = [field.name for field, _value in typed]
    if names != [allowed]:
        given = ", ".join(names) or "none"
        text = f"Input {tensor.name!r} of the type {tensor.datatype} has the contents {given}; {allowed} are expected."
        raise RequestError(400, text)
    values = typed[0][1]
    if tensor.datatype == BYTES:
        return byte_elements.pack(values)
    try:
        return np.fromiter(values, CONTENTS[tensor.datatype][1], len(values)).tobytes()
    except OverflowError as error:
        raise RequestError(400, f"Input {tensor.name!r}: a number is too large for {tensor.datatype}.") from error


class _Output(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, int]


class _Answer(msgspec.Struct):
    model_name: str
    model_version: str
    outputs: list[_Output]
    id: str = ""
    parameters: dict[str, bool | int | str | float] = {}


_decoder = msgspec.json.Decoder(_Answer)


def infer_response(answer: GatewayAnswer) -> Any:
    """The `ModelInferResponse` for what the gateway answered; tensors are raw.

    Raises:
        RequestError: the answer is an error.
    """
    refuse(answer)
    end = int(answer.fields[HEADER_LENGTH.lower()])
    body = memoryview(answer.body)
    document = _decoder.decode(body[:end])
    message = messages.ModelInferResponse(
        model_name=document.model_name, model_version=document.model_version, id=document.id
    )
    for key, value in document.parameters.items():
        setattr(message.parameters[key], _CHOICES[type(value)], value)
    for output in document.outputs:
        message.outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
        start, end = end, end + output.parameters["binary_data_size"]
        message.raw_output_contents.append(bytes(body[start:end]))
    return message


def model_metadata(answer: GatewayAnswer) -> Any:
    """The `ModelMetadataResponse` for what the gateway answered.

    Raises:
        RequestError: the answer is an error.
    """
    refuse(answer)
    document = orjson.loads(answer.body)
    message = messages.ModelMetadataResponse(
        name=document["name"], versions=document["versions"], platform=document["platform"]
    )
    for side in ("inputs", "outputs"):
        for tensor in document[side]:
            getattr(message, side).add(name=tensor["name"], datatype=tensor["datatype"], shape=tensor["shape"])
    return message


def is_ready(answer: GatewayAnswer) -> bool:
    """Whether the gateway says that something is ready.

    Raises:
        RequestError: there is no such thing.
    """
    if answer.status not in (200, 503):
        refuse(answer)
    return answer.status == 200


def refuse(answer: GatewayAnswer) -> None:
    """Raise the error that the gateway answered with, if it did.

    Raises:
        RequestError: the answer is an error.
    """
    if answer.status == 200:
        return
    pause = answer.fields.get("retry-after")
    text = orjson.loads(answer.body).get("error", "")
    raise RequestError(answer.status, text, retry_after=int(pause) if pause is not None else None)
