"""The common request read fast: `{"instances": [...]}` of numbers for one input, with no Python object for any number.

What has another form, or does not fit, is left to the general reader, which also says what is wrong.
"""

from __future__ import annotations

import math
import re
from typing import Any, Literal, cast

import numpy as np
import simdjson
from numpy.typing import NDArray

from ganglion.artifacts.elements import element_type
from ganglion.artifacts.package import Signature, TensorSpec
from ganglion.serving.payload import Payload

_KEY = "instances"
_DROPPED = b"0123456789+-.eE \t\r\n"
"""What numbers and white space are written with: a body without these bytes is its brackets, commas and words."""

LARGE = 2**22
"""Bytes of a body from which it is read piece by piece."""

_BEGIN = re.compile(rb'[ \t\r\n]*\{[ \t\r\n]*"%b"[ \t\r\n]*:[ \t\r\n]*\[' % _KEY.encode())
_END = re.compile(rb"\][ \t\r\n]*\}[ \t\r\n]*\Z")
_TAIL = 1024
"""Bytes in which the end is looked for."""

_WHOLE = b'{"%b":[%%b]}' % _KEY.encode()

_KNOWN_COUNTS = 1024
"""Numbers of instances whose brackets and commas are kept."""

_WIDE: dict[str, tuple[Literal["i", "u", "d"], Any]] = {
    "i": ("i", np.int64),
    "u": ("u", np.uint64),
    "f": ("d", np.float64),
}
"""How simdjson names the type that numbers of a kind are read as, and NumPy's type for it."""


class RowReader:
    """Reads rows for one signature; not for several threads at once.

    Args:
        signature: of the model.
    """

    def __init__(self, signature: Signature) -> None:
        self._parser = simdjson.Parser()
        tensor = signature.inputs[0]
        self._tensor = tensor if len(signature.inputs) == 1 and _is_fixed(tensor) else None
        self._dtype = element_type(tensor.dtype)
        self._shape = tensor.shape[1:]
        self._kind = ((tensor.name, self._dtype.str, self._shape),)
        self._least, self._most = _limits(self._dtype)
        self._row = _skeleton(self._shape)
        self._row_end = re.compile(rb"(?:\][ \t\r\n]*){%d}," % len(self._shape))
        self._structures: dict[int, bytes] = {}

    def read(self, body: bytes) -> Payload | None:
        """The instances of a body; `None` where it takes the general reader to tell what they are."""
        if self._tensor is None:
            return None
        array = self._read_whole(body) if len(body) < LARGE else self._read_piecewise(body)
        if array is None:
            return None
        return Payload.of_kind({self._tensor.name: array}, len(array), self._kind, array.nbytes)

    def _read_piecewise(self, body: bytes) -> NDArray[Any] | None:
        """Some rows at a time: a parsed document is larger than its text, so there is never one of the whole."""
        begin, close = _BEGIN.match(body), _END.search(body, len(body) - _TAIL)
        each = math.prod(self._shape)
        if begin is None or close is None or not each:
            return None
        start, end = begin.end(), close.start()
        rows, rest = divmod(body.count(b",", start, end) + 1, each)
        if rest:
            return None
        array = np.empty((rows, *self._shape), self._dtype)
        row = 0
        cut: re.Match[bytes] | None = None
        while start < end:
            cut = self._row_end.search(body, min(start + LARGE // 4, end), end)
            stop = cut.end() - 1 if cut is not None else end
            piece = self._read_whole(_WHOLE % body[start:stop])
            if piece is None or row + len(piece) > rows:
                return None
            array[row : row + len(piece)] = piece
            row += len(piece)
            start = stop + 1
        return array if row == rows and cut is None else None

    def _read_whole(self, body: bytes) -> NDArray[Any] | None:
        structure = body.translate(None, _DROPPED)
        rows = (len(structure) - len(_OPEN) - len(_CLOSE) + 1) // (len(self._row) + 1)
        if rows < 1 or structure != self._structure(rows):
            return None
        try:
            values = self._values(body)
        except (ValueError, TypeError, KeyError, RuntimeError, AttributeError):  # whatever it is, it is not this form
            return None
        return None if values is None else values.reshape(rows, *self._shape)

    def _numbers(self, body: bytes, name: Literal["i", "u", "d"]) -> bytes:
        """A copy of all numbers; the document is given up here, for the parser takes no other while it is there."""
        document = cast(simdjson.Object, self._parser.parse(body))
        return cast(simdjson.Array, document[_KEY]).as_buffer(of_type=name)

    def _structure(self, rows: int) -> bytes:
        known = self._structures.get(rows)
        if known is None:
            known = _OPEN + (self._row + b",") * (rows - 1) + self._row + _CLOSE  # join needs 80 bytes for each
            if len(self._structures) < _KNOWN_COUNTS and len(known) < 2**16:
                self._structures[rows] = known
        return known

    def _values(self, body: bytes) -> NDArray[Any] | None:
        """All numbers in order as the input's type; `None` where one does not fit it."""
        name, wide = _WIDE[self._dtype.kind]
        values: NDArray[Any] = np.frombuffer(self._numbers(body, name), wide)
        if self._dtype.kind == "f":
            with np.errstate(over="ignore", invalid="ignore"):  # infinities of both signs are no number together
                converted = values.astype(self._dtype, copy=False)
                return converted if math.isfinite(np.add.reduce(converted, dtype=np.float64)) else None
        if self._dtype == values.dtype:
            return values
        if np.minimum.reduce(values) < self._least or np.maximum.reduce(values) > self._most:
            return None
        return values.astype(self._dtype)


def _is_fixed(tensor: TensorSpec) -> bool:
    return -1 not in tensor.shape[1:] and element_type(tensor.dtype).kind in _WIDE


def _limits(dtype: np.dtype[Any]) -> tuple[int, int]:
    if dtype.kind not in "iu":
        return 0, 0
    limits = np.iinfo(dtype)
    return int(limits.min), int(limits.max)


def _skeleton(shape: tuple[int, ...]) -> bytes:
    """The brackets and commas of one instance."""
    row = b""
    for size in reversed(shape):
        row = b"[" + b",".join([row] * size) + b"]"
    return row


_OPEN = b'{"' + _KEY.encode().translate(None, _DROPPED) + b'":['
_CLOSE = b"]}"
