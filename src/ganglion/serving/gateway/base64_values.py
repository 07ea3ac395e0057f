"""Bytes in JSON, as TensorFlow Serving writes them: `{"b64": "..."}`."""

from __future__ import annotations

import binascii
from base64 import b64decode
from typing import Any

from ganglion.serving.gateway.errors import RequestError

KEY = "b64"


def is_encoded(value: Any) -> bool:
    """Whether a value has that form."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get(KEY), str)


def bytes_of(value: dict[str, str], where: str) -> bytes:
    """The bytes of a value of that form.

    Args:
        value: it.
        where: it is, for the error.

    Raises:
        RequestError: its text is not base64.
    """
    try:
        return b64decode(value[KEY], validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(400, f"{where}: the text under {KEY!r} is not base64 ({error}).") from error
