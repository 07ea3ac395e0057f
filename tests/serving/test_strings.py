"""Tensors of text on their way: between processes, as elements in binary, in JSON, in checks and in quarantine."""

from __future__ import annotations

import json
import math
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text_contract import SIGNATURE, texts
from text_samples import LABEL, write_labels

from ganglion.artifacts.checks import CHECKS, read_checks, write_checks
from ganglion.artifacts.package import PackageManifest, Signature, TensorSpec
from ganglion.core.errors import ControlError, ModelError, UserError
from ganglion.serving import binary_tensors, byte_elements, frames, strings, wire
from ganglion.serving.ensembles import check_ensemble
from ganglion.serving.functions import Functions
from ganglion.serving.gateway.ensemble import combine
from ganglion.serving.gateway.errors import RequestError
from ganglion.serving.gateway.instances import array_of
from ganglion.serving.gateway.prediction import Prediction
from ganglion.serving.gateway.quarantine import Quarantine
from ganglion.serving.gateway.row_reader import RowReader
from ganglion.serving.gateway.shard_plan import plan_shards
from ganglion.serving.gateway.tensorflow_rest import parse_predict, render_predictions
from ganglion.serving.gateway.texts import MOST_TEXTS, texts_of, texts_of_elements
from ganglion.serving.model import LoadedModel
from ganglion.serving.payload import Payload
from ganglion.serving.routes import EnsembleRoute, VersionRoute
from ganglion.serving.sharding import Sharding

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
ARRAYS = st.tuples(st.integers(0, 6), st.integers(0, 3)).flatmap(
    lambda shape: st.lists(TEXT, min_size=math.prod(shape), max_size=math.prod(shape)).map(
        lambda values: strings.array_of_texts(values, shape)
    )
)
ROWS = st.lists(TEXT, min_size=1, max_size=8)


@given(values=ARRAYS, before=st.binary(max_size=9))
def test_text_is_the_same_after_its_way_between_processes(values: np.ndarray, before: bytes) -> None:
    data = strings.encode(values)
    assert len(data) == strings.size_of(values), "limits count what travels"
    found, end = strings.decode(values.shape, memoryview(before + data), len(before))
    assert (found.tolist(), found.shape, end) == (values.tolist(), values.shape, len(before) + len(data))


@given(parts=st.lists(ROWS, min_size=1, max_size=4), most=st.integers(1, 4))
def test_payloads_are_cut_joined_and_read_like_numbers(parts: list[list[str]], most: int) -> None:
    payloads = [
        Payload(tensors={"text": texts(*rows), "times": np.arange(len(rows)), "more": texts(*map(str.upper, rows))})
        for rows in parts
    ]
    slices = [piece for payload in payloads for piece in payload.split(most)]
    assert max(piece.rows for piece in slices) <= most
    assert sum(piece.size for piece in slices) == sum(payload.size for payload in payloads)
    stream = b"".join(map(bytes, slices[0].encode(3, slices[1:])))
    ((header, body),) = frames.FrameReader().feed(stream)
    batch = wire.decode_batch(header)
    found = wire.tensors_of(batch.tensors, body)
    rows = [row for part in parts for row in part]
    assert found["text"].tolist() == rows
    assert found["more"].tolist() == [row.upper() for row in rows]
    assert found["times"].tolist() == [number for part in parts for number in range(len(part))]


@pytest.mark.parametrize(
    ("shape", "body"),
    [
        ((2,), strings.encode(texts("a"))),
        ((1,), strings.encode(texts("a", "b"))),
        ((1,), np.array([5]).tobytes() + b"abcd"),
        ((3,), np.array([2, 1, 2]).tobytes() + b"ab"),
        ((1,), np.array([-1]).tobytes() + b"ab"),
        ((4,), np.array([2**63 - 1, 4 - 2**63, -1, 10]).tobytes() + b"abcdefghij"),
        ((1,), np.array([2]).tobytes() + b"\xff\xfe"),
        ((2,), np.array([1, 2]).tobytes() + "é".encode()),
        ((-1,), strings.encode(texts("a"))),
    ],
    ids=["short", "long", "end beyond", "back", "negative", "around", "no UTF-8", "half a character", "no shape"],
)
def test_a_frame_with_other_text_than_it_says_is_refused(shape: tuple[int, ...], body: bytes) -> None:
    with pytest.raises(ControlError):
        wire.tensors_of([wire.TensorHeader("x", strings.TEXT, shape)], memoryview(body))


@given(elements=st.lists(st.binary(max_size=9), max_size=6), data=st.binary(max_size=40), count=st.integers(0, 6))
def test_elements_in_binary_are_read_as_they_were_written_or_refused(
    elements: list[bytes], data: bytes, count: int
) -> None:
    assert byte_elements.unpack(memoryview(byte_elements.pack(elements)), len(elements)) == elements
    try:
        found = byte_elements.unpack(memoryview(data), count)
    except ValueError:
        return
    assert byte_elements.pack(found) == data, "nothing is skipped or made up"


@given(rows=ROWS, escaped=st.booleans())
def test_rows_of_json_become_text_and_predictions_become_json(rows: list[str], escaped: bool) -> None:
    body = json.dumps({"instances": rows}, ensure_ascii=escaped).encode()
    assert RowReader(LABEL).read(body) is None
    payload = parse_predict(body, LABEL, None).payload
    assert payload.tensors["text"].tolist() == rows
    assert orjson.loads(render_predictions({"label": payload.tensors["text"]}, columns=False))["predictions"] == rows


B64 = {"b64": "w7w="}
TWO = Signature((TensorSpec("text", "string", (-1, 2)),), LABEL.outputs)
ODD = Signature((TensorSpec("b64", "string", (-1,)),), LABEL.outputs)
FORMS: list[tuple[Signature, Any, list[Any]]] = [
    (LABEL, {"instances": ["a", B64]}, ["a", "ü"]),
    (LABEL, {"instances": [B64, "a"]}, ["ü", "a"]),
    (LABEL, {"instances": [{"text": "a"}, {"text": B64}]}, ["a", "ü"]),
    (LABEL, {"inputs": ["a", B64]}, ["a", "ü"]),
    (LABEL, {"inputs": [B64]}, ["ü"]),
    (LABEL, {"inputs": {"text": ["a", B64]}}, ["a", "ü"]),
    (TWO, {"instances": [["a", "b"], ["c", B64]]}, [["a", "b"], ["c", "ü"]]),
    (ODD, {"instances": [{"b64": "w7w="}]}, ["w7w="]),
    (ODD, {"instances": [{"b64": B64}]}, ["ü"]),
]


@pytest.mark.parametrize(("signature", "body", "expected"), FORMS, ids=range(len(FORMS)))
def test_every_form_of_text_is_read(signature: Signature, body: Any, expected: list[Any]) -> None:
    payload = parse_predict(orjson.dumps(body), signature, None).payload
    assert payload.tensors[signature.inputs[0].name].tolist() == expected


REFUSED: list[tuple[Signature, Any, str]] = [
    (LABEL, {"instances": ["a", 1]}, "'text', instance 1: a number was given; the model takes text or"),
    (LABEL, {"instances": ["a", None]}, "instance 1: null was given"),
    (LABEL, {"instances": ["a", ["b"]]}, "instance 1: a list was given"),
    (LABEL, {"instances": ["a", {"b64": 1}]}, "instance 1: an object was given"),
    (LABEL, {"instances": ["a", {"b64": "!"}]}, "instance 1: the text under 'b64' is not base64"),
    (LABEL, {"instances": ["a", {"b64": "/w=="}]}, "instance 1: the bytes are not UTF-8 (invalid start byte at 0)"),
    (LABEL, {"instances": [{"image_bytes": B64}]}, "['image_bytes']; the model has the inputs ['text']"),
    (LABEL, {"inputs": {"image_bytes": [B64]}}, "['image_bytes']; the model has the inputs ['text']"),
    (TWO, {"instances": ["a"]}, "each instance has to have the shape [2]"),
    (TWO, {"instances": [["a", "b"], ["c"]]}, "each instance has to have the shape [2]"),
    (TWO, {"instances": [["a", "b"], ["c", True]]}, "'text', instance 1: true or false was given"),
    (TWO, {"instances": [[["a"], ["b"]]]}, "'text', instance 0: a list was given"),
    (SIGNATURE, {"instances": [B64]}, "['b64']; the model has the inputs ['text', 'times']"),
    (SIGNATURE, {"instances": [{"text": "a", "times": "b"}]}, "'times': something else than numbers"),
]


@pytest.mark.parametrize(("signature", "body", "message"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_no_text_is_refused_where_it_is(signature: Signature, body: Any, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_predict(orjson.dumps(body), signature, None)
    assert caught.value.status == 400
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "body", [b'{"instances":["\\ud800"]}', b'{"instances":["\xff"]}', b'{"instances":["\xed\xa0\x80"]}']
)
def test_half_characters_are_no_text(body: bytes) -> None:
    with pytest.raises(RequestError, match="not JSON"):
        parse_predict(body, LABEL, None)
    with pytest.raises(RequestError, match="half of a surrogate pair"):
        texts_of(["\ud800"], LABEL.inputs[0], encoded=False)  # whatever a parser lets through


def test_base64_is_text_only_where_the_protocol_says_so() -> None:
    assert array_of([B64], LABEL.inputs[0]).tolist() == ["ü"]
    with pytest.raises(RequestError, match=r"instance 0: an object was given; the model takes text\.$"):
        texts_of([B64], LABEL.inputs[0], encoded=False)


@given(values=ARRAYS, wrong=st.integers(1, 3))
def test_a_length_that_lies_is_refused(values: np.ndarray, wrong: int) -> None:
    data = byte_elements.pack(map(str.encode, values.reshape(-1).tolist()))
    assert texts_of_elements(memoryview(data), "x", values.shape).tolist() == values.tolist()
    for other in (data + bytes(wrong), data[:-wrong] if len(data) >= wrong else b"\1"):
        with pytest.raises(RequestError, match="Input 'x' has"):
            texts_of_elements(memoryview(other), "x", values.shape)
    with pytest.raises(RequestError, match="too few for"):
        texts_of_elements(memoryview(data), "x", (2**31 - 1, 2**31 - 1))


def test_more_texts_than_are_read_are_refused_before_each_becomes_an_object() -> None:
    empty = byte_elements.pack([b""]) * (MOST_TEXTS + 1)
    with pytest.raises(RequestError, match="at most 1048576 are read") as caught:
        texts_of_elements(memoryview(empty), "x", (MOST_TEXTS + 1,))
    assert caught.value.status == 413
    with pytest.raises(RequestError, match="at most 1048576 are read"):
        parse_predict(b'{"instances":["a"' + b',""' * MOST_TEXTS + b"]}", LABEL, None)


@given(rows=st.lists(TEXT, min_size=2, max_size=12))
def test_equal_texts_meet_the_same_shard_and_come_back_in_place(rows: list[str]) -> None:
    payload = Payload(tensors={"text": texts(*rows, *rows)})
    plan = plan_shards(payload, Sharding(shards=3, by="hash"), most=2)
    homes: dict[str, set[int | None]] = {}
    answers: list[Any] = []
    prediction = Prediction(answers.append, 0.0, 1.0)
    for part in prediction.add_cuts(plan.cuts):
        ((header, body),) = frames.FrameReader().feed(b"".join(map(bytes, part.payload.encode(1, []))))
        found = wire.tensors_of(wire.decode_batch(header).tensors, body)["text"]
        for text in found:
            homes.setdefault(text, set()).add(part.shard)
        prediction.complete(part, {"loud": texts(*(f"{text}!" for text in found))})
    assert all(len(shards) == 1 for shards in homes.values())
    assert answers[0]["loud"].tolist() == [f"{text}!" for text in (*rows, *rows)]


def test_texts_are_hashed_and_not_where_they_lie() -> None:
    words = [f"word {number}" for number in range(200)]
    first, second = (
        [cut.shard for cut in plan_shards(Payload(tensors={"text": values}), Sharding(shards=2, by="hash"), 1).cuts]
        for values in (texts(*words), texts(*("".join(list(word)) for word in words)))
    )
    assert first == second
    assert 60 < sum(shard == 0 for shard in first) < 140


def test_members_vote_on_labels() -> None:
    route = EnsembleRoute(name="e", members=("a", "b", "c"), how="vote")
    answers = [{"label": texts(*row)} for row in (("x", "y"), ("z", "y"), ("z", "w"))]
    assert combine(answers, route, [(), (), ()])["label"].tolist() == ["z", "y"]
    member = VersionRoute(version=1, state="AVAILABLE", signature=LABEL)
    check_ensemble(route, [member] * 3)
    for how in ("mean", "weighted"):
        weights = (1.0, 1.0, 1.0) if how == "weighted" else ()
        with pytest.raises(ModelError, match=rf"gives text \[-1\], of which there is no {how}"):
            check_ensemble(EnsembleRoute(name="e", members=("a", "b", "c"), how=how, weights=weights), [member] * 3)


def test_functions_of_the_user_take_and_give_text() -> None:
    call = wire.Call("merge", "text_functions:joined", ("0", "1"))
    tensors = {"0/label": texts("a", "ü"), "1/label": texts("b", "c")}
    outputs, failures = Functions().call(call, tensors, [])
    assert (failures, outputs["label"].tolist()) == ([], ["ab", "üc"])
    _, (failure,) = Functions().call(wire.Call("merge", "text_functions:objects", ("0",)), {"0/label": texts("a")}, [])
    assert "an array of numbers or text is expected" in failure.message


def test_checks_of_a_package_compare_text(tmp_path: Path) -> None:
    given = {"text": texts("good", "ü"), "times": np.array([1, 2])}
    outputs = {"loud": texts("good!", "ü!"), "score": np.array([1.5, 2.5], np.float32)}
    write_checks(tmp_path / CHECKS, given, outputs)
    checks = read_checks(tmp_path, SIGNATURE)
    assert checks is not None
    assert checks.inputs["text"].tolist() == ["good", "ü"]
    checks.compare(outputs)
    with pytest.raises(ModelError, match="ends with NUL"):
        write_checks(tmp_path / "more.npz", {"text": texts("a\0")}, outputs)
    with pytest.raises(ModelError, match="output 'loud' of sample 1 is another text"):
        checks.compare(outputs | {"loud": texts("good!", "u!")})


def test_what_is_kept_of_a_request_holds_its_text_without_a_pickle(tmp_path: Path) -> None:
    payload = Payload(tensors={"text": texts("good", "ü"), "times": np.array([1, 2])})
    path = Quarantine(tmp_path).keep(payload, model="m", version=1, reason="two replicas died")
    assert path is not None
    with np.load(path, allow_pickle=False) as kept:
        assert orjson.loads(kept["text"].tobytes()) == ["good", "ü"]
        assert kept["times"].tolist() == [1, 2]


@pytest.mark.parametrize("values", [np.array(["a", "ü"]), texts("a", "ü"), ["a", "ü"]])
def test_the_client_sends_text_of_any_form(values: Any) -> None:
    body, headers = binary_tensors.encode({"text": values})
    head = orjson.loads(body[: int(headers["Inference-Header-Content-Length"])])
    assert head["inputs"][0]["datatype"] == "BYTES"
    assert body.endswith(b"\1\0\0\0a\2\0\0\0\xc3\xbc")


def test_texts_of_lists_stay_what_they_are_and_need_no_room_for_the_longest() -> None:
    given = ["a\0", *["b"] * 2000, "c" * 100_000]
    before = tracemalloc_peak(lambda: binary_tensors.encode({"text": given}))
    assert before < 5e6
    body, _headers = binary_tensors.encode({"text": [["a\0"], ["b"]]})
    assert body.endswith(b"\2\0\0\0a\0\1\0\0\0b")
    outputs, _ = Functions().call(wire.Call("merge", "text_functions:ended", ("0",)), {"0/label": texts("a")}, [])
    assert outputs["label"].tolist() == ["a\0"]


def tracemalloc_peak(call: Callable[[], object]) -> int:
    """Bytes that a call had at once."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_brackets_within_texts_are_no_lists() -> None:
    text = '[{,"' * 400_000 + "\\"
    body = orjson.dumps({"instances": [text]})
    parsed = parse_predict(body, LABEL, None)
    assert parsed.payload.tensors["text"].tolist() == [text]
    with pytest.raises(RequestError, match="lists and objects"):
        parse_predict(b'{"instances":["a"' + b",[]" * 2**20 + b"]}", LABEL, None)


@pytest.mark.parametrize("values", [["a", None], ["a", 1.5], ["a", b"b"], np.array([b"a"], object), ["\ud800"]])
def test_the_client_sends_nothing_that_is_no_text(values: Any) -> None:
    with pytest.raises(UserError, match=r"Input 'text': .* text"):
        binary_tensors.encode({"text": values})


@settings(max_examples=60)
@given(rows=ROWS)
def test_onnx_gives_back_every_text(rows: list[str], labels: LoadedModel) -> None:
    outputs, failures = labels.predict({"text": texts(*rows, "good")})
    assert failures == []
    assert outputs["label"].tolist()[-1] == "ü\0🦆"


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = tmp_path_factory.mktemp("labels") / "package"
    manifest: PackageManifest = write_labels(folder, {"good": "ü\0🦆"})
    assert manifest.signature == LABEL
    return LoadedModel(folder)
