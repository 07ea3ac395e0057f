from __future__ import annotations

import json
import math
from base64 import b64encode
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.artifacts.package import ImageInput, Signature, TensorSpec
from ganglion.serving.gateway import tensorflow_examples as examples
from ganglion.serving.gateway import tensorflow_rest as rest
from ganglion.serving.gateway.errors import RequestError
from ganglion.serving.routes import VersionRoute

SMALL = Signature(inputs=(TensorSpec("x", "uint8", (-1, 2, 2)),), outputs=(TensorSpec("y", "float32", (-1, 3)),))
PAIR = Signature(
    inputs=(TensorSpec("a", "float32", (-1,)), TensorSpec("b", "bool", (-1, -1))),
    outputs=(TensorSpec("y", "float32", (-1,)), TensorSpec("z", "int64", (-1, 2))),
)
IMAGE = ImageInput(2, 2, "L")


def parse(document: Any, signature: Signature = SMALL, image: ImageInput | None = IMAGE) -> rest.PredictRequest:
    return rest.parse_predict(orjson.dumps(document), signature, image)


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/v1/models", ("", None, "list")),
        ("/v1/models/m", ("m", None, "status")),
        ("/v1/models/m/versions/12", ("m", 12, "status")),
        ("/v1/models/m/metadata", ("m", None, "metadata")),
        ("/v1/models/m/versions/3/metadata", ("m", 3, "metadata")),
        ("/v1/models/m:predict", ("m", None, "predict")),
        ("/v1/models/m/versions/3:predict", ("m", 3, "predict")),
        ("/v1/models/a%20b:predict", ("a b", None, "predict")),
        ("/v1/models/metadata", ("metadata", None, "status")),
        ("/v1/models/m:classify", ("m", None, "classify")),
        ("/v1/models/m/versions/3:regress", ("m", 3, "regress")),
        ("/v1/models/m/labels/champion", ("m", "champion", "status")),
        ("/v1/models/m/labels/champion:predict", ("m", "champion", "predict")),
        ("/v1/models/m/labels/3:classify", ("m", "3", "classify")),
        ("/v1/models/m/labels/champion/metadata", ("m", "champion", "metadata")),
        ("/v1/models/m/labels/..:predict", None),
        ("/v1/models/m/labels/:predict", None),
        ("/v1/models/m/labels/a%2fb", None),
        ("/v1/modelsx", None),
        ("/v1/models/m:explain", None),
        ("/v1/models/m/versions/x:predict", None),
        ("/v1/models/m/versions/-1", None),
        ("/v1/models//metadata", None),
        ("/v1/models/m/n/o", None),
        ("/v1/models/:predict", None),
        ("/v2/models/m", None),
    ],
)
def test_paths(path: str, target: tuple[str, int | str | None, str] | None) -> None:
    assert rest.parse_path(path) == target


def test_rows_of_nested_lists() -> None:
    request = parse({"signature_name": "serving_default", "instances": [[[1, 2], [3, 4]], [[5, 6], [7, 255]]]})
    assert not request.columns
    assert request.payload.tensors["x"].dtype == np.uint8
    assert request.payload.tensors["x"].tolist() == [[[1, 2], [3, 4]], [[5, 6], [7, 255]]]


def test_rows_and_columns_by_input_name() -> None:
    rows = parse({"instances": [{"a": 1, "b": [True]}, {"b": [False], "a": 2.5}]}, PAIR, None)
    columns = parse({"inputs": {"a": [1, 2.5], "b": [[True], [False]]}}, PAIR, None)
    assert (rows.columns, columns.columns) == (False, True)
    for request in (rows, columns):
        assert request.payload.tensors["a"].tolist() == [1, 2.5]
        assert request.payload.tensors["b"].tolist() == [[True], [False]]
        assert request.payload.tensors["a"].dtype == np.float32


@pytest.mark.parametrize(
    "document",
    [
        {"instances": [{"image_bytes": {"b64": b64encode(b"one").decode()}}, {"b64": b64encode(b"two").decode()}]},
        {"inputs": [{"b64": b64encode(b"one").decode()}, {"b64": b64encode(b"two").decode()}]},
        {"inputs": {"image_bytes": [{"b64": b64encode(b"one").decode()}, {"b64": b64encode(b"two").decode()}]}},
    ],
)
def test_encoded_images(document: Any) -> None:
    assert list(parse(document).payload.images) == [b"one", b"two"]


REFUSED: list[tuple[Any, Signature, str]] = [
    ([], SMALL, "a JSON list; an object"),
    ({}, SMALL, "Exactly one of 'instances'"),
    ({"instances": [], "inputs": []}, SMALL, "Exactly one of 'instances'"),
    ({"instance": []}, SMALL, "Did you mean 'instances'"),
    ({"instances": [], "signature_name": "other"}, SMALL, "no signature 'other'"),
    ({"instances": []}, SMALL, "an empty list was given"),
    ({"instances": 7}, SMALL, "number was given"),
    ({"instances": [[1, 2, 3, 4]]}, SMALL, "shape [4] were given; the model takes [2, 2]"),
    ({"instances": [[[1, 2], [3]]]}, SMALL, "ragged"),
    ({"instances": [[[1, 2], [3, 256]]]}, SMALL, "from 1 to 256 were given; the model takes uint8, integers from 0"),
    ({"instances": [[[1, -2], [3, 4]]]}, SMALL, "from -2 to 4"),
    ({"instances": [[[1, 2.5], [3, 4]]]}, SMALL, "with a fraction"),
    ({"instances": [[[True, True], [True, True]]]}, SMALL, "true and false were given"),
    ({"instances": [[["1", "2"], ["3", "4"]]]}, SMALL, "something else than numbers"),
    ({"instances": [[[None, 2], [3, 4]]]}, SMALL, "something else than numbers"),
    ({"instances": [[[1, 2], [3, 4]], {"b64": ""}]}, SMALL, "mixed with something else"),
    ({"instances": [{"b64": "!!"}]}, SMALL, "not base64"),
    ({"instances": [{"b64": ""}]}, SMALL, "is empty"),
    ({"instances": [{"b64": "AAAA"}, [[1, 2], [3, 4]]]}, SMALL, "Instance 1 has not the form"),
    ({"instances": [{"image_bytes": "AAAA"}]}, SMALL, "Instance 0 has not the form"),
    ({"instances": [{"y": 1}]}, SMALL, "Instance 0 has ['y']; the model has the inputs ['x']"),
    ({"instances": [{"a": 1, "b": [True]}, {"a": 1}]}, PAIR, "Instance 1 has ['a']"),
    ({"instances": [1, 2]}, PAIR, "has the inputs a, b; each instance has to name them"),
    ({"instances": [{"b64": "AAAA"}]}, PAIR, "takes no encoded images"),
    ({"inputs": {"a": [1, 2], "b": [[True]]}}, PAIR, "different numbers of instances: {'a': 2, 'b': 1}"),
    ({"inputs": {"a": [1e39], "b": [[True]]}}, PAIR, "too large"),
    ({"inputs": {"a": [1], "b": [[0]]}}, PAIR, "integers were given; the model takes true and false"),
]


@pytest.mark.parametrize(("document", "signature", "message"), REFUSED)
def test_what_does_not_fit_is_refused_with_what_was_given_and_expected(
    document: Any, signature: Signature, message: str
) -> None:
    with pytest.raises(RequestError) as caught:
        parse(document, signature, IMAGE if signature is SMALL else None)
    assert caught.value.status == 400
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\xfe", b'{"instances": [NaN]}', b'{"instances": [1e999]}', b"[" * 100_000, b'{"instances": [[1]'],
)
def test_what_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(RequestError, match="not JSON") as caught:
        rest.parse_predict(body, SMALL, IMAGE)
    assert caught.value.status == 400


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["a", "b", "x", "b64", "image_bytes"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(key=st.sampled_from(["instances", "inputs"]), value=json_values, signature=st.sampled_from([SMALL, PAIR]))
def test_any_json_gives_a_payload_or_a_refusal(key: str, value: Any, signature: Signature) -> None:
    try:
        payload = rest.parse_predict(json.dumps({key: value}).encode(), signature, IMAGE).payload
    except RequestError:
        return
    for tensor in signature.inputs if not payload.images else ():
        array = payload.tensors[tensor.name]
        assert array.dtype == np.dtype(tensor.dtype)
        assert len(array) == payload.rows
        assert all(want in (-1, size) for want, size in zip(tensor.shape, array.shape, strict=True))


def test_answers_by_rows_and_columns() -> None:
    one = {"y": np.array([[0.1, 0.2, 0.7]], np.float32)}
    two = {"y": np.array([1, 2], np.float32), "z": np.array([[1, 2], [3, 4]])}
    assert orjson.loads(rest.render_predictions(one, columns=False)) == {"predictions": [[0.1, 0.2, 0.7]]}
    assert orjson.loads(rest.render_predictions(one, columns=True)) == {"outputs": [[0.1, 0.2, 0.7]]}
    assert orjson.loads(rest.render_predictions(two, columns=False)) == {
        "predictions": [{"y": 1, "z": [1, 2]}, {"y": 2, "z": [3, 4]}]
    }
    assert orjson.loads(rest.render_predictions(two, columns=True)) == {"outputs": {"y": [1, 2], "z": [[1, 2], [3, 4]]}}


def test_arrays_in_any_memory_order_and_without_numbers_are_written() -> None:
    values = np.array([[1.0, math.nan], [3.0, math.inf]], np.float32).T
    assert orjson.loads(rest.render_predictions({"y": values}, columns=False)) == {
        "predictions": [[1, 3], [None, None]]
    }


def test_status_and_metadata_have_the_form_of_tensorflow_serving() -> None:
    versions = [
        VersionRoute(version=1, state="UNLOADING", signature=SMALL),
        VersionRoute(version=2, state="AVAILABLE", signature=SMALL, image=IMAGE, classes=("p", "q", "r")),
        VersionRoute(version=3, state="END", signature=SMALL, error="it broke"),
    ]
    status = orjson.loads(rest.render_status(versions))["model_version_status"]
    assert [(entry["version"], entry["state"]) for entry in status] == [
        ("3", "END"), ("2", "AVAILABLE"), ("1", "UNLOADING"),
    ]  # fmt: skip
    assert status[0]["status"] == {"error_code": "UNKNOWN", "error_message": "it broke"}
    assert status[1]["status"] == {"error_code": "OK", "error_message": ""}
    metadata = orjson.loads(rest.render_metadata("m", versions[1]))
    assert metadata["model_spec"] == {"name": "m", "signature_name": "", "version": "2"}
    signature = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["x"]["dtype"] == "DT_UINT8"
    assert [dim["size"] for dim in signature["inputs"]["x"]["tensor_shape"]["dim"]] == ["-1", "2", "2"]
    assert metadata["metadata"]["classes"] == ["p", "q", "r"]


def test_examples_are_flat_features_by_name() -> None:
    body = {"examples": [{"x": [1, 2, 3, 4]}, {"x": [5, 6, 7, 255]}], "signature_name": "serving_default"}
    payload = examples.parse_examples(orjson.dumps(body), SMALL, IMAGE)
    assert payload.tensors["x"].tolist() == [[[1, 2], [3, 4]], [[5, 6], [7, 255]]]
    pair = {"context": {"b": [True, False]}, "examples": [{"a": 1}, {"a": 2.5}]}
    payload = examples.parse_examples(orjson.dumps(pair), PAIR, None)
    assert payload.tensors["a"].tolist() == [1, 2.5]
    assert payload.tensors["b"].tolist() == [[True, False], [True, False]]
    picture = {"b64": b64encode(b"file").decode()}
    for feature in (picture, {"image_bytes": picture}, {"x": picture}):
        body = {"examples": [feature]}
        assert list(examples.parse_examples(orjson.dumps(body), SMALL, IMAGE).images) == [b"file"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], "an object with 'examples'"),
        ({}, "list of at least one"),
        ({"examples": []}, "list of at least one"),
        ({"examples": [1]}, "objects of features"),
        ({"examples": [{}], "context": None}, "objects of features"),
        ({"examples": [{"x": [1, 2, 3, 4]}], "context": {"x": [1, 2, 3, 4]}}, "in 'context' as well"),
        ({"examples": [{"y": 1}]}, "Example 0 has the features ['y']; the model has ['x']"),
        ({"examples": [{"x": [1, 2, 3]}]}, "instances of the shape [3]"),
        ({"examples": [{"x": [[1, 2], [3, 4]]}]}, "instances of the shape [2, 2]"),
        ({"examples": [{"x": ["1", "2", "3", "4"]}]}, "something else than numbers"),
        ({"examples": [{"x": [1, 2, 3, 4]}], "signature_name": "other"}, "no signature 'other'"),
        ({"examples": [{"x": [1, 2, 3, 4]}], "instances": []}, "Unknown key 'instances'"),
    ],
)
def test_examples_that_do_not_fit_are_refused(body: Any, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        examples.parse_examples(orjson.dumps(body), SMALL, None)
    assert (caught.value.status, message in str(caught.value)) == (400, True), str(caught.value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from(["examples", "context", "x", "a", "b", "b64"]), inner, max_size=3)
        ),
        max_leaves=12,
    ),
    st.sampled_from([(SMALL, IMAGE), (SMALL, None), (PAIR, None)]),
)
def test_any_examples_are_read_or_refused(document: Any, model: tuple[Signature, ImageInput | None]) -> None:
    for body in (document, {"examples": document}, {"examples": [document]}):
        try:
            payload = examples.parse_examples(json.dumps(body).encode(), *model)
        except RequestError:
            continue  # and nothing else is raised
        assert payload.rows > 0


def test_labels_and_scores_are_pairs_in_the_order_of_the_model() -> None:
    scores = np.array([[0.25, 0.75], [1.0, np.nan]], np.float32)
    assert json.loads(examples.render_classes(scores, ("a", "b"))) == {
        "results": [[["a", 0.25], ["b", 0.75]], [["a", 1.0], ["b", None]]]
    }
    assert json.loads(examples.render_classes(scores, ()))["results"][0] == [["", 0.25], ["", 0.75]]


@pytest.mark.parametrize(
    ("shape", "dtype", "allowed"),
    [
        ((-1, 3), "float32", ["classify"]),
        ((-1, 1), "float32", ["classify", "regress"]),
        ((-1,), "float64", ["regress"]),
        ((-1, 3), "int64", []),
        ((-1, 2, 2), "float32", []),
    ],
)
def test_what_a_model_gives_says_what_can_be_asked(shape: tuple[int, ...], dtype: Any, allowed: list[str]) -> None:
    signature = Signature(SMALL.inputs, (TensorSpec("y", dtype, shape),))
    version = VersionRoute(version=1, state="AVAILABLE", signature=signature)
    for verb in ("classify", "regress"):
        if verb in allowed:
            assert callable(examples.reader(verb, "m", version))
        else:
            with pytest.raises(RequestError, match="Ask it by :predict"):
                examples.reader(verb, "m", version)
