from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.core.errors import DataError
from ganglion.data.parts.selection import Selection

MASKS = st.one_of(
    st.lists(st.booleans(), max_size=1200).map(lambda bits: np.array(bits, bool)),
    st.tuples(st.integers(0, 20_000), st.floats(0, 1), st.integers(0, 9)).map(
        lambda drawn: np.random.default_rng(drawn[2]).random(drawn[0]) < drawn[1]
    ),
)


@given(mask=MASKS, pieces=st.lists(st.integers(0, 20_000), max_size=5))
def test_a_selection_is_what_its_mask_says(mask: np.ndarray, pieces: list[int]) -> None:
    selection = Selection.join(np.split(mask, sorted(min(place, len(mask)) for place in pieces)))
    records = np.flatnonzero(mask)
    assert (selection.of, selection.count) == (len(mask), len(records))
    assert (selection.has(np.arange(len(mask))) == mask).all()
    assert (selection.select(np.arange(len(records))) == records).all()
    assert (selection.rank(records) == np.arange(len(records))).all()
    assert (selection.rank(np.arange(len(mask) + 1)) == np.concatenate([[0], np.cumsum(mask)])).all()
    rest = selection.complement()
    assert (rest.select(np.arange(rest.count)) == np.flatnonzero(~mask)).all()
    assert len(selection.bits) == -(-len(mask) // 8)
    assert msgspec.json.decode(msgspec.json.encode(selection), type=Selection) == selection


def test_answers_have_the_shape_of_the_questions() -> None:
    selection = Selection.join([np.arange(100) % 3 == 0])
    assert selection.select(np.array([[0, 33], [2, 1]])).tolist() == [[0, 99], [6, 3]]
    assert selection.rank(np.array([[0, 99], [100, 1]])).tolist() == [[0, 33], [34, 1]]
    assert selection.select(np.array(5)) == 15


@pytest.mark.parametrize(
    "ask",
    [
        lambda s: s.select(np.array([4])),
        lambda s: s.select(np.array([-1])),
        lambda s: s.rank(np.array([11])),
        lambda s: s.has(np.array([10])),
        lambda s: Selection(11, s.bits + b"\0"),
        lambda s: Selection(10, b"\xff\xff"),
    ],
)
def test_what_is_out_of_range_is_refused(ask) -> None:
    with pytest.raises(DataError):
        ask(Selection.join([np.arange(10) % 3 == 0]))
