from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.core.resources import Resources
from ganglion.fingerprints import NoDigestError
from ganglion.fingerprints.canonical import digest

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=2), inner, max_size=3)
        | st.frozensets(st.integers() | st.text(max_size=2), max_size=3)
    ),
    max_leaves=8,
)


def of(value: Any) -> str:
    return digest(value, lambda found: getattr(found, "__qualname__", str(found)))


def copied(value: Any) -> Any:
    """An equal value of other identity, its sets filled in another order."""
    if isinstance(value, (list, tuple)):
        return type(value)(copied(item) for item in value)
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, frozenset):
        return frozenset(reversed(list(value)))
    return value


def shape(value: Any) -> Any:
    """Equal exactly for values that a function cannot tell apart."""
    if isinstance(value, (list, tuple)):
        return (type(value), tuple(shape(item) for item in value))
    if isinstance(value, dict):
        return (dict, tuple((shape(key), shape(item)) for key, item in value.items()))
    if isinstance(value, frozenset):
        return (frozenset, frozenset(shape(item) for item in value))
    return (type(value), repr(value))


@given(value=plain)
def test_equal_values_have_equal_digests(value: Any):
    assert of(value) == of(copied(value))


@given(left=plain, right=plain)
def test_different_values_have_different_digests(left: Any, right: Any):
    assert (of(left) == of(right)) == (shape(left) == shape(right))


def test_type_order_and_nesting_count():
    alike = [1, True, 1.0, "1", b"1", None, 0, False, 0.0, -0.0, "", b"", [], (), {}, frozenset(), set()]
    nested = [[1, [2]], [[1], 2], [1, 2], [[1, 2]], ["ab", "c"], ["a", "bc"], {"a": 1, "b": 2}, {"b": 2, "a": 1}]
    assert len({of(value) for value in (*alike, *nested)}) == len(alike) + len(nested)


def test_objects_are_compared_by_class_and_state():
    assert of(Resources(cpu=1.0)) == of(Resources(cpu=1.0)) != of(Resources(cpu=2.0))
    assert of(np.arange(4)) == of(np.arange(4)) != of(np.arange(4.0))
    assert of(Path("nowhere")) != of(Path("elsewhere"))


def test_a_path_is_compared_by_its_content(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("1")
    before = of(tmp_path / "a")
    (tmp_path / "a" / "x").write_text("2")
    changed = of(tmp_path / "a")
    (tmp_path / "a" / "x").write_text("1")
    assert of(tmp_path / "a") == before != changed


def test_a_source_answers_for_itself():
    class Source:
        def __init__(self, version: str) -> None:
            self.version, self.connection = version, socket

        def fingerprint(self) -> str:
            return self.version

    class Broken(Source):
        def fingerprint(self) -> str:
            raise OSError("away")

    assert of(Source("1")) == of(Source("1")) != of(Source("2"))
    with pytest.raises(NoDigestError, match=r"fingerprint\(\) raised OSError: away"):
        of(Broken("1"))


def test_arrays_are_compared_by_type_shape_and_values():
    numbers = np.arange(6)
    different = [
        numbers,
        numbers + 1,
        numbers.astype(np.int32),
        numbers.reshape(2, 3),
        numbers.astype([("x", np.int64)]),
        numbers.astype([("y", np.int64)]),
        numbers.astype(object),
        list(numbers),
    ]
    assert len({of(value) for value in different}) == len(different)
    assert of(numbers[::2]) == of(numbers[::2].copy())


def test_values_that_contain_themselves_have_digests():
    def ring(text: str) -> tuple[list[Any], dict[str, Any]]:
        first: list[Any] = [text]
        second = {"back": first}
        first.append(second)
        return first, second

    (first, second), (other_first, other_second) = ring("a"), ring("a")
    assert of(first) == of(other_first) != of(ring("b")[0])
    assert of([first, second]) == of([first, other_second]), "where a ring is entered counts, not what was met before"


def test_what_is_met_again_and_again_is_read_once():
    def folded(times: int) -> Any:
        value: Any = ["x"]
        for _ in range(times):
            value = [value, value]
        return value

    assert of(folded(80)) == of(folded(80)) != of(folded(81))
    assert of(folded(3)) == of([[[["x"], ["x"]], [["x"], ["x"]]], [[["x"], ["x"]], [["x"], ["x"]]]])
