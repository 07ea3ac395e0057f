from __future__ import annotations

import json
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ganglion.artifacts.package import Signature, TensorSpec
from ganglion.serving.gateway import row_reader
from ganglion.serving.gateway import tensorflow_rest as rest
from ganglion.serving.gateway.errors import RequestError
from ganglion.serving.gateway.row_reader import RowReader


def signature(dtype: Any, *shape: int) -> Signature:
    return Signature(inputs=(TensorSpec("x", dtype, (-1, *shape)),), outputs=(TensorSpec("y", "float32", (-1,)),))


SIGNATURES = [
    signature("uint8", 2, 2),
    signature("int16", 3),
    signature("uint64", 1),
    signature("int64", 2),
    signature("float32", 2, 1, 2),
    signature("float16", 2),
    signature("float64"),
]
READERS = [(one, RowReader(one)) for one in SIGNATURES]

numbers = st.one_of(
    st.integers(-3, 300),
    st.sampled_from([2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), 70_000.0, 1e39, 0.1, -0.0, 1.0]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([True, None, "1", []]),
)


def nested(values: list[Any], shape: tuple[int, ...]) -> Any:
    array = np.empty(len(values), object)
    for number, value in enumerate(values):
        array[number] = value
    return array.reshape(shape).tolist()


@st.composite
def bodies(draw: st.DrawFn) -> tuple[int, bytes]:
    which = draw(st.integers(0, len(SIGNATURES) - 1))
    shape = SIGNATURES[which].inputs[0].shape[1:]
    rows = draw(st.integers(1, 4))
    count = rows * int(np.prod(shape))
    plain = st.integers(0, 200) if draw(st.booleans()) else numbers
    values = draw(st.lists(plain, min_size=count, max_size=count))
    document = {"instances": nested(values, (rows, *shape))}
    separators = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t: ")]))
    return which, json.dumps(document, separators=separators).encode()


@example(case=(5, b'{"instances": [[-1e16, 1e16]]}'), large=4)
@example(case=(3, b'{"instances": [[1, 2], [3, 4],]}'), large=4)
@example(case=(3, b'{"instances": [[1, 2], [3], [4, 5]]}'), large=4)
@example(case=(3, b'        {"instances":[]}'), large=4)
@example(case=(2, b'{"instances":[[0],[9223372036854775808]]}'), large=4)
@given(case=bodies(), large=st.sampled_from([4, 40, row_reader.LARGE]))
def test_what_is_read_fast_is_what_the_general_reader_reads(case: tuple[int, bytes], large: int) -> None:
    which, body = case
    described, reader = READERS[which]
    with mock.patch.object(row_reader, "LARGE", large):  # also piece by piece
        fast = reader.read(body)
    try:
        general = rest.parse_predict(body, described, None).payload
    except RequestError:
        assert fast is None, "what is refused must not pass"
        return
    if fast is not None:
        assert (fast.rows, fast.kind, fast.size) == (general.rows, general.kind, general.size)
        np.testing.assert_array_equal(fast.tensors["x"], general.tensors["x"])
        assert fast.tensors["x"].flags.c_contiguous


@pytest.mark.parametrize("which", range(len(SIGNATURES)))
def test_plain_integers_are_read_fast(which: int) -> None:
    described, reader = READERS[which]
    shape = described.inputs[0].shape[1:]
    values = (np.arange(3 * int(np.prod(shape))) % 200).reshape(3, *shape)
    payload = reader.read(json.dumps({"instances": values.tolist()}).encode())
    assert payload is not None
    np.testing.assert_array_equal(payload.tensors["x"], values.astype(described.inputs[0].dtype))


@pytest.mark.parametrize(
    "body",
    [
        b'{"instances": [[1, 2], [3]]}',
        b'{"instances": [[[1, 2], [3]]]}',
        b'{"instances": [[[1, 2], [3, 4]]], "signature_name": ""}',
        b'{"inst-ances": [[[1, 2], [3, 4]]]}',
        b'{"instances": [[[1, 2], [3, 4 5]]]}',
        b'{"instances": [[[1, 2], [3, ]]]}',
        b'{"instances": [[[1, 2], [3, 256]]]}',
        b'{"instances": [[[1, 2], [3, -1]]]}',
        b'{"instances": [[[1, 2], [3, 4]]]} 5',
        b'{"instances": [[[1, 2], [3, 04]]]}',
        b'{"inputs": [[[1, 2], [3, 4]]]}',
        b'{"instances": []}',
        b'{"instances": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        b"",
        b"\xff",
    ],
)
def test_everything_else_is_left_to_the_general_reader(body: bytes) -> None:
    reader = READERS[0][1]
    assert reader.read(body) is None
    again = reader.read(b'{"instances": [[[1, 2], [3, 4]]]}')
    assert again is not None, "a failure leaves the parser usable"
    assert again.tensors["x"].tolist() == [[[1, 2], [3, 4]]]


def test_signatures_that_are_not_one_tensor_of_numbers_are_left_to_the_general_reader() -> None:
    pair = Signature(
        inputs=(TensorSpec("a", "float32", (-1,)), TensorSpec("b", "float32", (-1,))),
        outputs=(TensorSpec("y", "float32", (-1,)),),
    )
    for described in (pair, signature("bool", 2), signature("float32", -1)):
        assert RowReader(described).read(b'{"instances": [[1, 0]]}') is None


def test_a_large_body_is_read_piece_by_piece() -> None:
    _described, reader = READERS[0]
    given_rows = np.random.default_rng(0).integers(0, 256, (4000, 2, 2), dtype=np.uint8)
    body = json.dumps({"instances": given_rows.tolist()}).encode()
    with (
        mock.patch.object(row_reader, "LARGE", len(body) // 4),
        mock.patch.object(reader, "_read_whole", wraps=reader._read_whole) as whole,
    ):
        payload = reader.read(body)
    assert payload is not None
    np.testing.assert_array_equal(payload.tensors["x"], given_rows)
    assert max(len(call.args[0]) for call in whole.call_args_list) < len(body) / 10
