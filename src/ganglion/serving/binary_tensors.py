"""Tensors of the Open Inference Protocol in binary, as a client writes and reads them; pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ganglion.core.errors import UserError
from ganglion.serving import byte_elements
from ganglion.serving.gateway.open_inference import BYTES, DATATYPES, HEADER_LENGTH
from ganglion.serving.strings import array_of_lists, array_of_texts, problem

_NAMES = {datatype: name for name, datatype in DATATYPES.items() if datatype != BYTES}


def encode(inputs: Mapping[str, Any]) -> tuple[bytes, dict[str, str]]:
    """The body of a request for all outputs in binary, and its header fields.

    Args:
        inputs: arrays, or what NumPy makes arrays of, by name; text as `str`.

    Raises:
        UserError: a type has no name in the protocol, or something is no text.
    """
    described, parts = [], []
    for name, given in inputs.items():
        values = np.ascontiguousarray(array_of_lists(given))
        text = values.dtype.kind in "UO"
        if not text and values.dtype.name not in DATATYPES:
            raise UserError(f"Input {name!r} is {values.dtype}; what can be sent is {', '.join(DATATYPES)}.")
        part = _elements(name, values) if text else values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
        parts.append(part)
        described.append(
            {
                "name": name,
                "datatype": BYTES if text else DATATYPES[values.dtype.name],
                "shape": list(values.shape),
                "parameters": {"binary_data_size": len(part)},
            }
        )
    head = json.dumps({"inputs": described, "parameters": {"binary_data_output": True}}).encode()
    fields = {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(head))}
    return b"".join([head, *parts]), fields


def decode(body: bytes, headers: Mapping[str, str]) -> dict[str, Any]:
    """Arrays by the name of the output.

    Args:
        body: of the answer; its text becomes arrays of `str`.
        headers: of the answer, by names in lower case.

    Raises:
        KeyError: something is missing.
        ValueError: sizes and shapes do not go together, or it is no JSON.
        TypeError: it has another form.
    """
    start = int(headers.get(HEADER_LENGTH.lower(), len(body)))
    outputs: dict[str, Any] = {}
    for output in json.loads(body[:start])["outputs"]:
        text = output["datatype"] == BYTES
        dtype = np.dtype(object if text else _NAMES[output["datatype"]]).newbyteorder("<")
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            values = np.array(output["data"], dtype)
        else:
            part = body[start : start + size]
            values = _texts(part, math.prod(output["shape"])) if text else np.frombuffer(part, dtype)
            start += size
        outputs[output["name"]] = values.reshape(output["shape"])
    return outputs


def _elements(name: str, values: NDArray[Any]) -> bytes:
    texts = values.astype(object)
    if wrong := problem(texts):
        raise UserError(f"Input {name!r}: {wrong}.")
    return byte_elements.pack(map(str.encode, texts.reshape(-1).tolist()))


def _texts(part: bytes, count: int) -> NDArray[Any]:
    return array_of_texts([element.decode() for element in byte_elements.unpack(memoryview(part), count)], (count,))
