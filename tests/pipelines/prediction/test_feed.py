"""Which columns become the inputs of a model, and what of them does not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ganglion.artifacts.package import FORMAT, ImageInput, PackageManifest, Signature, TensorSpec
from ganglion.core.errors import DataError
from ganglion.data.records.schema import Field
from ganglion.pipelines.prediction.feed import choose_feeds, feed


def manifest(*inputs: TensorSpec, image: ImageInput | None = None) -> PackageManifest:
    signature = Signature(inputs=inputs, outputs=(TensorSpec("y", "float32", (-1,)),))
    return PackageManifest(format=FORMAT, runtime="onnx", signature=signature, files={}, image=image)


PIXELS = manifest(TensorSpec("pixels", "uint8", (-1, 28, 28)), image=ImageInput(28, 28, "L"))
VECTOR = manifest(TensorSpec("x", "float32", (-1, 3)))
TEXT = manifest(TensorSpec("words", "string", (-1, 1)))
NUMBERS = (Field("a", "float64"), Field("b", "int32"), Field("c", "uint8"), Field("label", "int64"), Field("t", "text"))


@pytest.mark.parametrize(
    ("model", "schema", "columns"),
    [
        (PIXELS, (Field("image", "uint8", (28, 28)), Field("label", "int64")), ("image",)),
        (PIXELS, (Field("image", "uint8", (784,)), Field("pixels", "uint8", (28, 28))), ("pixels",)),
        (PIXELS, (Field("photo", "bytes"), Field("label", "int64")), ("photo",)),
        (VECTOR, (Field("v", "float64", sequence=True), Field("t", "text")), ("v",)),
        (VECTOR, (Field("v", "float64", (3,)), Field("w", "float64", (4,))), ("v",)),
        (manifest(TensorSpec("n", "int64", (-1,))), (Field("k", "int32"), Field("f", "float32")), ("k",)),
        (TEXT, (Field("k", "int32"), Field("review", "text"), Field("photo", "bytes")), ("review",)),
    ],
)
def test_the_only_column_that_fits_is_the_input(
    model: PackageManifest, schema: tuple[Field, ...], columns: tuple[str, ...]
) -> None:
    assert choose_feeds(model, schema)[0].columns == columns


@pytest.mark.parametrize(
    ("model", "schema", "chosen", "message"),
    [
        (VECTOR, NUMBERS, {}, r"no column can be the input x float32 \[-1, 3\].*--feed x=COLUMN"),
        (VECTOR, (Field("v", "float64", (3,)), Field("w", "float64", (3,))), {}, "v, w all could be"),
        (VECTOR, NUMBERS, {"y": ["a"]}, "no input 'y'"),
        (VECTOR, NUMBERS, {"x": ["a", "d"]}, "no column 'd'"),
        (VECTOR, NUMBERS, {"x": ["a", "b"]}, "does not fit"),
        (VECTOR, NUMBERS, {"x": ["a", "b", "t"]}, "does not fit"),
        (PIXELS, (Field("pixels", "float32", (28, 28)),), {}, "does not fit"),
        (PIXELS, (Field("pixels", "uint8", (28, 27)),), {}, "does not fit"),
        (TEXT, NUMBERS, {"words": ["a"]}, "does not fit"),
        (TEXT, (Field("t", "text"), Field("u", "text")), {"words": ["t", "u"]}, "does not fit"),
        (manifest(TensorSpec("words", "string", (-1, 2))), NUMBERS, {"words": ["t"]}, "does not fit"),
    ],
)
def test_what_does_not_fit_is_refused(
    model: PackageManifest, schema: tuple[Field, ...], chosen: dict[str, list[str]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        choose_feeds(model, schema, chosen)


def test_columns_are_joined_to_a_vector() -> None:
    feeds = choose_feeds(VECTOR, NUMBERS, {"x": ["c", "a", "b"]})
    columns = {"a": np.array([1.5, 2.5]), "b": np.array([-3, 4], np.int32), "c": np.array([7, 8], np.uint8)}
    inputs, flaws = feed(feeds, {**columns, "label": np.array([0, 1])})
    assert flaws == {}
    assert inputs["x"].dtype == np.float32
    assert inputs["x"].tolist() == [[7, 1.5, -3], [8, 2.5, 4]]


def test_sequences_of_another_length_are_at_fault_alone() -> None:
    feeds = choose_feeds(VECTOR, (Field("v", "float64", sequence=True),))
    inputs, flaws = feed(feeds, {"v": pa.array([[1.0, 2, 3], [1.0], [], [4.0, 5, 6]])})
    assert flaws == {
        1: "'v' has 1 values; the model takes 3",
        2: "'v' has 0 values; the model takes 3",
    }
    assert inputs["x"][[0, 3]].tolist() == [[1, 2, 3], [4, 5, 6]]


@given(arrays.arrays(np.int64, st.tuples(st.integers(1, 20), st.just(2)), elements=st.integers(-400, 400)))
def test_whole_numbers_arrive_as_they_are_or_are_at_fault(values: npt.NDArray[Any]) -> None:
    feeds = choose_feeds(manifest(TensorSpec("x", "uint8", (-1, 2))), (Field("v", "int64", (2,)),))
    inputs, flaws = feed(feeds, {"v": values})
    fitting = ((values >= 0) & (values <= 255)).all(axis=1)
    assert sorted(flaws) == np.flatnonzero(~fitting).tolist()
    np.testing.assert_array_equal(inputs["x"][fitting], values[fitting])


def test_real_numbers_beyond_the_type_are_at_fault_and_missing_ones_are_not() -> None:
    feeds = choose_feeds(manifest(TensorSpec("x", "float32", (-1,))), (Field("v", "float64"),))
    inputs, flaws = feed(feeds, {"v": np.array([1.0, 1e300, np.nan, np.inf])})
    assert flaws == {1: "'v' has a value that float32 cannot hold"}
    assert inputs["x"][[0, 3]].tolist() == [1, np.inf]
    assert np.isnan(inputs["x"][2])


def test_a_column_of_text_is_an_input_of_text() -> None:
    feeds = choose_feeds(TEXT, NUMBERS)
    inputs, flaws = feed(feeds, {"t": pa.array(["good", None, "ü\0🦆"])})
    assert inputs["words"].tolist() == [["good"], [""], ["ü\0🦆"]]
    assert flaws == {1: "'t' has no text"}
