"""The Open Inference Protocol v2 over REST with the extension for binary tensors, as pure functions.

https://github.com/kserve/open-inference-protocol and, for binary tensors,
https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/protocol/extension_binary_data.html
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, NamedTuple
from urllib.parse import unquote

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

from ganglion.artifacts.elements import element_type
from ganglion.artifacts.package import TensorSpec
from ganglion.core.errors import suggest
from ganglion.serving import byte_elements
from ganglion.serving.gateway.endpoint import Endpoint
from ganglion.serving.gateway.errors import RequestError
from ganglion.serving.gateway.exchange import JSON
from ganglion.serving.gateway.head import Head
from ganglion.serving.gateway.instances import array_of
from ganglion.serving.gateway.json_limits import check_values
from ganglion.serving.gateway.question import Question, Reply
from ganglion.serving.gateway.texts import texts_of, texts_of_elements
from ganglion.serving.payload import Payload
from ganglion.serving.runtime import Tensors
from ganglion.serving.wire import raw

PREFIX = "/v2"
HEADER_LENGTH = "Inference-Header-Content-Length"
"""The header field that says where the JSON ends and binary tensors begin."""

BYTES = "BYTES"
"""The type of text (in UTF-8) and of encoded images: in binary each element lies behind its length."""

DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "string": BYTES,
}
"""What the protocol calls element types, by the names that packages give them."""

_BY_TYPE = {element_type(name): datatype for name, datatype in DATATYPES.items()}

_MOST_DIMENSIONS = 32

_LONGEST = 10**12
"""Microseconds that a request may ask for; more is taken as this."""

_PIECE = 2**18
"""Numbers that are looked at together."""


class Target(NamedTuple):
    """What a path asks for.

    Attributes:
        model: name of the model or ensemble; empty for the server.
        version: `None` for the one that is the default.
        verb: `metadata`, `live`, `ready` or `infer`.
    """

    model: str
    version: int | None
    verb: str


def parse_path(path: str) -> Target | None:
    """Read `/v2[/health/live|ready]` and `/v2/models/<name>[/versions/<n>][/ready|/infer]`; `None` for others."""
    if path.rstrip("/") == PREFIX:
        return Target("", None, "metadata")
    if not path.startswith(f"{PREFIX}/"):
        return None
    parts = [unquote(part) for part in path[len(PREFIX) + 1 :].split("/")]
    verb = parts.pop() if len(parts) in (3, 5) and parts[-1] in ("ready", "infer") else "metadata"
    match parts:
        case ["health", "live" | "ready" as check]:
            return Target("", None, check)
        case ["models", name] if name:
            return Target(name, None, verb)
        case ["models", name, "versions", number] if name and number.isascii() and number.isdigit():
            return Target(name, int(number), verb) if len(number) <= 18 else None
    return None


Parameters = dict[str, Any]
Shape = Annotated[tuple[Annotated[int, msgspec.Meta(ge=0, lt=2**31)], ...], msgspec.Meta(max_length=_MOST_DIMENSIONS)]


class _Input(msgspec.Struct, frozen=True):
    name: str
    shape: Shape
    datatype: str
    parameters: Parameters = {}
    data: Any = None


class _Output(msgspec.Struct, frozen=True):
    name: str
    parameters: Parameters = {}


class _Request(msgspec.Struct, frozen=True):
    inputs: tuple[_Input, ...]
    id: str | None = None
    parameters: Parameters = {}
    outputs: tuple[_Output, ...] = ()


_decoder = msgspec.json.Decoder(_Request)


def read(endpoint: Endpoint, head: Head, body: bytes) -> Question:
    """Read an inference request.

    Raises:
        RequestError: it is not one, or does not fit the model.
    """
    given = head.fields.get(HEADER_LENGTH.lower().encode())
    end = len(body) if given is None else _header_length(given, len(body))
    document = body if end == len(body) else body[:end]
    check_values(document)
    try:
        request = _decoder.decode(document)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise RequestError(400, f"The body is no inference request: {error}.") from error
    tensors = _binary_parts(request.inputs, memoryview(body)[end:])
    payload = _payload(endpoint, request.inputs, tensors)
    names = [output.name for output in endpoint.signature.outputs]
    wanted = [output.name for output in request.outputs] or names
    for name in wanted:
        if name not in names:
            raise RequestError(400, f"The model has no output {name!r}. {suggest(name, names)}")
    if len(set(wanted)) < len(wanted):
        raise RequestError(400, f"Of {len(wanted)} outputs that are asked for, some have the same name.")
    everywhere = bool(request.parameters.get("binary_data_output", False))
    binary = {output.name for output in request.outputs if output.parameters.get("binary_data", everywhere)}
    if not request.outputs and everywhere:
        binary = set(names)
    said: dict[str, str] = {}
    render = partial(_render, endpoint, request.id, wanted, frozenset(binary), said)
    return Question(payload, render, _timeout(request.parameters), said)


def _header_length(given: bytes, size: int) -> int:
    if not given.isdigit() or len(given) > 18 or int(given) > size:
        shown = given[:40].decode("latin-1")
        raise RequestError(400, f"{HEADER_LENGTH} is {shown!r}; the body has {size} bytes.")
    return int(given)


def _timeout(parameters: Parameters) -> float | None:
    """Seconds that the request may take: Triton's parameter `timeout`, microseconds."""
    given = parameters.get("timeout")
    if given is None:
        return None
    if isinstance(given, float) and given.is_integer():  # JSON has no other way to tell them apart
        given = int(given)
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise RequestError(400, f"The parameter 'timeout' is {given!r}; a whole number of microseconds is expected.")
    return min(given, _LONGEST) / 1e6


def _binary_parts(inputs: Sequence[_Input], rest: memoryview) -> list[memoryview | None]:
    """The bytes of each input that has them, out of what follows the JSON."""
    parts: list[memoryview | None] = []
    start = 0
    for tensor in inputs:
        size = tensor.parameters.get("binary_data_size")
        if size is None:
            parts.append(None)
            continue
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(rest) - start:
            left = len(rest) - start
            raise RequestError(400, f"Input {tensor.name!r} says {size!r} binary bytes; {left} are left in the body.")
        parts.append(rest[start : start + size])
        start += size
    if start != len(rest):
        raise RequestError(400, f"{len(rest) - start} bytes follow the last tensor.")
    return parts


def _payload(endpoint: Endpoint, inputs: Sequence[_Input], parts: Sequence[memoryview | None]) -> Payload:
    signature = endpoint.signature
    given, expected = [tensor.name for tensor in inputs], [tensor.name for tensor in signature.inputs]
    if sorted(given) != sorted(expected):
        raise RequestError(400, f"The inputs {sorted(given)} were given; the model has {sorted(expected)}.")
    if inputs[0].datatype == BYTES and endpoint.image is not None:
        return Payload(images=_images(inputs[0], parts[0]))
    arrays = {
        tensor.name: _array(tensor, part, signature.inputs[expected.index(tensor.name)])
        for tensor, part in zip(inputs, parts, strict=True)
    }
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) > 1 or not min(counts.values()):
        raise RequestError(400, f"The inputs have {counts} instances; equally many are expected, at least one.")
    return Payload(tensors={name: arrays[name] for name in expected})


def _array(given: _Input, part: memoryview | None, tensor: TensorSpec) -> NDArray[Any]:
    datatype = DATATYPES[tensor.dtype]
    if given.datatype != datatype:
        raise RequestError(400, f"Input {given.name!r} has the type {given.datatype}; the model takes {datatype}.")
    shape = given.shape
    if len(shape) != len(tensor.shape) or any(
        want not in (-1, size) for want, size in zip(tensor.shape, shape, strict=True)
    ):
        raise RequestError(
            400, f"Input {given.name!r} has the shape {list(shape)}; the model takes {list(tensor.shape)}."
        )
    count = math.prod(shape)
    if part is None:
        return _array_of_data(given, tensor, count)
    if given.data is not None:
        raise RequestError(400, f"Input {given.name!r} has both 'data' and binary bytes; give one of them.")
    if datatype == BYTES:
        return texts_of_elements(part, given.name, shape)
    dtype = np.dtype(tensor.dtype)
    if len(part) != count * dtype.itemsize:
        text = f"Input {given.name!r} has {len(part)} binary bytes; its shape needs {count * dtype.itemsize}."
        raise RequestError(400, text)
    array: NDArray[Any] = np.frombuffer(part, dtype).reshape(shape)
    if dtype.kind == "f" and not _is_finite(array):
        raise RequestError(400, f"Input {given.name!r}: NaN or infinity was given; the model takes finite numbers.")
    if dtype.kind == "b" and part.nbytes and np.frombuffer(part, np.uint8).max() > 1:
        raise RequestError(400, f"Input {given.name!r}: bytes other than 0 and 1 were given for true and false.")
    return array


def _is_finite(array: NDArray[Any]) -> bool:
    """Whether there is no NaN and no infinity, piece by piece: what is known of each number stays in the cache."""
    numbers = array.reshape(-1)
    return all(np.isfinite(numbers[start : start + _PIECE]).all() for start in range(0, numbers.size, _PIECE))


def _array_of_data(given: _Input, tensor: TensorSpec, count: int) -> NDArray[Any]:
    """From `data`, which is flat or nested."""
    if not isinstance(given.data, list):
        raise RequestError(400, f"Input {given.name!r} has neither a list of 'data' nor binary bytes.")
    text = tensor.dtype == "string"
    if given.data and isinstance(given.data[0], list):
        array = texts_of(given.data, tensor, encoded=False) if text else array_of(given.data, tensor)
        if array.shape != given.shape:
            raise RequestError(
                400, f"Input {given.name!r} has data of the shape {list(array.shape)} and says {list(given.shape)}."
            )
        return array
    if len(given.data) != count:
        what = "texts" if text else "numbers"
        raise RequestError(
            400, f"Input {given.name!r} has {len(given.data)} {what}; its shape {list(given.shape)} needs {count}."
        )
    flat = TensorSpec(tensor.name, tensor.dtype, (-1,))
    array = texts_of(given.data, flat, encoded=False, what="element") if text else array_of(given.data, flat)
    return array.reshape(given.shape)


def _images(given: _Input, part: memoryview | None) -> list[bytes]:
    """Encoded images; only in binary, for JSON has no bytes."""
    if part is None:
        raise RequestError(400, f"Input {given.name!r}: {BYTES} have to be sent as binary data.")
    try:
        images = byte_elements.unpack(part, math.prod(given.shape))
    except ValueError as error:
        raise RequestError(400, f"Input {given.name!r} {error}.") from error
    if not images or not all(images):
        raise RequestError(400, f"Input {given.name!r} has no images, or an empty one.")
    return images


def _render(
    endpoint: Endpoint,
    id_: str | None,
    wanted: Sequence[str],
    binary: frozenset[str],
    said: dict[str, str],
    outputs: Tensors,
) -> Reply:
    described: list[dict[str, Any]] = []
    parts: list[bytes | memoryview] = []
    for name in wanted:
        values = np.ascontiguousarray(outputs[name])
        datatype = _BY_TYPE.get(values.dtype) or DATATYPES[values.dtype.name]  # NumPy takes its time to name a type
        text = datatype is BYTES
        entry: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(values.shape)}
        if name in binary:
            part = byte_elements.pack(map(str.encode, values.reshape(-1).tolist())) if text else raw(values)
            parts.append(part)
            entry["parameters"] = {"binary_data_size": len(part)}
        else:
            entry["data"] = values.reshape(-1).tolist() if text else values.reshape(-1)
        described.append(entry)
    answer: dict[str, Any] = {"model_name": endpoint.name, "model_version": str(endpoint.version)}
    if id_ is not None:
        answer["id"] = id_
    if said:
        answer["parameters"] = said
    header = orjson.dumps(answer | {"outputs": described}, option=orjson.OPT_SERIALIZE_NUMPY)
    if not parts:
        return Reply(header, JSON)
    return Reply(b"".join([header, *parts]), "application/octet-stream", {HEADER_LENGTH: str(len(header))})
