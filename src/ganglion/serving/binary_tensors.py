"""Tensors of the Open Inference Protocol in binary, as a client writes and reads them; pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from ganglion.core.errors import UserError
from ganglion.serving.gateway.open_inference import DATATYPES, HEADER_LENGTH

_NAMES = {datatype: name for name, datatype in DATATYPES.items()}


def encode(inputs: Mapping[str, Any]) -> tuple[bytes, dict[str, str]]:
    """The body of a request for all outputs in binary, and its header fields.

    Args:
        inputs: arrays, or what NumPy makes arrays of, by name.

    Raises:
        UserError: a type has no name in the protocol.
    """
    described, parts = [], []
    for name, given in inputs.items():
        values = np.ascontiguousarray(given)
        if values.dtype.name not in DATATYPES:
            raise UserError(f"Input {name!r} is {values.dtype}; what can be sent is {', '.join(DATATYPES)}.")
        parts.append(values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes())
        described.append(
            {
                "name": name,
                "datatype": DATATYPES[values.dtype.name],
                "shape": list(values.shape),
                "parameters": {"binary_data_size": values.nbytes},
            }
        )
    head = json.dumps({"inputs": described, "parameters": {"binary_data_output": True}}).encode()
    fields = {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(head))}
    return b"".join([head, *parts]), fields


def decode(body: bytes, headers: Mapping[str, str]) -> dict[str, Any]:
    """Arrays by the name of the output.

    Args:
        body: of the answer.
        headers: of the answer, by names in lower case.

    Raises:
        KeyError: something is missing.
        ValueError: sizes and shapes do not go together, or it is no JSON.
        TypeError: it has another form.
    """
    start = int(headers.get(HEADER_LENGTH.lower(), len(body)))
    outputs: dict[str, Any] = {}
    for output in json.loads(body[:start])["outputs"]:
        dtype = np.dtype(_NAMES[output["datatype"]]).newbyteorder("<")
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            values = np.array(output["data"], dtype)
        else:
            values = np.frombuffer(body[start : start + size], dtype)
            start += size
        outputs[output["name"]] = values.reshape(output["shape"])
    return outputs
