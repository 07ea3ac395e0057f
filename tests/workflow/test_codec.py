from __future__ import annotations

import math
import os
import socket
import threading
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.artifacts.store import Artifact, FolderStore
from ganglion.core.errors import GraphError, IntegrityError
from ganglion.core.resources import Resources
from ganglion.execution.outcome import OutcomeState
from ganglion.workflow.codec import CodecError, decode, encode, named_objects, references, select

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats()
    | st.text(st.characters())
    | st.sampled_from(["$", "\ud800"])
    | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=2) | st.sampled_from(["$"]), inner, max_size=3)
        | st.dictionaries(st.integers() | st.tuples(st.booleans(), st.text(max_size=2)), inner, max_size=3)
        | st.frozensets(st.integers() | st.text(max_size=2))
    ),
    max_leaves=12,
)


def same(left: Any, right: Any) -> bool:
    """Equal in value and type, NaN included."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return left == right or (math.isnan(left) and math.isnan(right))
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    return bool(left == right)


def through_json(data: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(data))


@given(value=plain)
def test_plain_values_come_back_equal_in_value_and_type_through_json(value: Any):
    store = FolderStore(Path("/nonexistent/never/written"))
    assert same(decode(through_json(encode(value, store)), store, Path("/nonexistent")), value)


def test_structs_enumerations_functions_and_classes_travel_by_import_path(store: FolderStore, tmp_path: Path):
    artifact = store.put_bytes(b"weights", "model")
    value = [Resources(cpu=2.0), OutcomeState.FAILED, os.path.join, Fraction, {"model": artifact}]
    data = through_json(encode(value, store))
    assert decode(data, store, tmp_path) == value
    assert "ganglion.core.resources:Resources" in list(named_objects(data))
    assert [found.digest for found in references(data)] == [artifact.digest]


def test_a_returned_file_is_stored_and_comes_back_read_only_under_its_name(store: FolderStore, tmp_path: Path):
    made = tmp_path / "model.bin"
    made.write_bytes(b"123")
    data = encode({"model": made}, store)
    made.unlink()
    path = decode(data, store, tmp_path / "inputs")["model"]
    assert (path.name, path.read_bytes()) == ("model.bin", b"123")
    assert path.stat().st_mode & 0o222 == 0
    again = encode(path, store)
    assert again == data["model"]  # passing it on changes nothing, its name included


def test_a_returned_folder_comes_back_as_a_folder(store: FolderStore, tmp_path: Path):
    (tmp_path / "set" / "deep").mkdir(parents=True)
    (tmp_path / "set" / "deep" / "a.txt").write_text("a")
    data = encode(tmp_path / "set", store)
    for _ in range(2):  # also when it is there already
        path = decode(data, store, tmp_path / "inputs")
        assert (path / "deep" / "a.txt").read_text() == "a"
    assert (path / "deep" / "a.txt").stat().st_mode & 0o222 == 0


def test_a_damaged_file_is_not_handed_on(store: FolderStore, tmp_path: Path):
    (tmp_path / "x").write_text("right")
    data = encode(tmp_path / "x", store)
    place = store.path(data["digest"])
    place.chmod(0o644)
    place.write_text("wrong")
    with pytest.raises(IntegrityError):
        decode(data, store, tmp_path / "inputs")


def test_a_path_to_nothing_is_refused(store: FolderStore, tmp_path: Path):
    with pytest.raises(CodecError, match="neither a file nor a folder"):
        encode([tmp_path / "absent"], store)


def test_an_argument_path_stays_where_it_is(store: FolderStore, tmp_path: Path):
    (tmp_path / "x").write_text("x")
    data = encode(tmp_path / "x", store, keep_paths=True)
    assert decode(data, store, tmp_path) == tmp_path / "x"
    assert references(data) == ()


def test_other_objects_are_pickled_and_name_what_they_need(store: FolderStore, tmp_path: Path):
    data = encode({"value": Fraction(1, 3)}, store)
    assert decode(through_json(data), store, tmp_path) == {"value": Fraction(1, 3)}
    assert "fractions:Fraction" in list(named_objects(data))


def test_what_cannot_travel_is_refused_by_place_and_type(store: FolderStore):
    with socket.socket() as opened, pytest.raises(CodecError, match=r"the value\['open'\]\[0\] is a socket.socket"):
        encode({"open": [opened]}, store)
    with pytest.raises(CodecError, match=r"_thread.lock"):
        encode(threading.Lock(), store)

    class Local(msgspec.Struct):
        x: int

    with pytest.raises(CodecError, match=r"Local has no import path; put it into a module"):
        encode([Local(1)], store)
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(CodecError, match="contains itself"):
        encode(circle, store)


def test_items_are_selected_without_decoding_where_that_is_possible(store: FolderStore, tmp_path: Path):
    data = encode(({"a": [10, 20]}, {1: "one"}, Fraction(1, 2)), store)
    assert select(select(select(data, 0, "x"), "a", "x"), 1, "x") == 20
    assert select(select(data, 1, "x"), 1, "x") == "one"
    assert decode(select(data, -1, "x"), store, tmp_path) == Fraction(1, 2)
    with pytest.raises(GraphError, match="the thing has no item"):
        select(data, 7, "the thing")
    with pytest.raises(GraphError, match="is a int"):
        select(1, 0, "the thing")


def test_an_artifact_is_a_value(store: FolderStore, tmp_path: Path):
    artifact = Artifact(digest="sha256:" + "0" * 64, kind="dataset", size=5)
    assert decode(through_json(encode(artifact, store)), store, tmp_path) == artifact
