from __future__ import annotations

from itertools import chain, groupby

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ganglion.core.errors import DataError
from ganglion.data.records.schema import Field
from ganglion.data.records.unit import RECORDS
from ganglion.data.transforms import BucketByLength, Pack, Pad, Truncate

TOKENS = st.lists(st.lists(st.integers(1, 2**30), max_size=12), min_size=1, max_size=30)
RUNS = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


def sequences(values: list[list[int]]) -> pa.Array:
    return pa.array(values, pa.list_(pa.int32()))


def documents(outcome) -> list[list[int]]:
    """Packed records taken apart again, by their documents."""
    found = []
    for tokens, numbers, places in zip(outcome["tokens"], outcome["document"], outcome["position"], strict=True):
        for number, group in groupby(zip(numbers, places, tokens, strict=True), key=lambda item: item[0]):
            members = list(group)
            if number:
                assert [place for _, place, _ in members] == list(range(len(members)))
                found.append([token for _, _, token in members])
            else:
                assert {token for _, _, token in members} == {0}
        used = [number for number in numbers if number]
        assert sorted(set(used)) == list(range(1, max(used) + 1))
        assert used == sorted(used)
        assert numbers == used + [0] * (len(numbers) - len(used)) or 0 not in numbers[: len(used)]
    return found


@RUNS
@given(tokens=TOKENS, length=st.integers(1, 9), border=st.integers(0, 30))
def test_packing_loses_nothing_whatever_the_batches(run, tokens: list[list[int]], length: int, border: int) -> None:
    border = min(border, len(tokens))
    outcome = run({"tokens": sequences(tokens)}, Pack("tokens", length), borders=(border,))
    assert list(chain.from_iterable(documents(outcome))) == list(chain.from_iterable(tokens))
    for unit, part in enumerate((tokens[:border], tokens[border:])):
        records = -(-sum(map(len, part)) // length)  # as few as possible
        ids = [record for record in outcome.ids if record // RECORDS == unit]
        assert ids == list(range(unit * RECORDS, unit * RECORDS + records))
    assert outcome.bad == []


@RUNS
@given(tokens=TOKENS, length=st.integers(4, 12))
def test_packing_whole_sequences_sets_aside_those_that_are_too_long(run, tokens: list[list[int]], length: int) -> None:
    outcome = run({"tokens": sequences(tokens)}, Pack("tokens", length, split=False))
    assert documents(outcome) == [sequence for sequence in tokens if 0 < len(sequence) <= length]
    assert [bad.id for bad in outcome.bad] == [n for n, sequence in enumerate(tokens) if len(sequence) > length]


def test_packed_fields_stay_side_by_side(run) -> None:
    tokens, weights = [[1, 2, 3], [4], [5, 6], [7, 8]], [[0.1, 0.2, 0.3], [0.4], [0.5], [0.7, 0.8]]
    outcome = run(
        {"tokens": sequences(tokens), "weight": pa.array(weights, pa.list_(pa.float32())), "label": np.arange(4)},
        Pack(("tokens", "weight"), 4),
    )
    assert outcome["tokens"] == [[1, 2, 3, 4], [7, 8, 0, 0]]
    assert outcome.array("weight").ravel()[:6] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.7, 0.8])
    assert outcome["document"] == [[1, 1, 1, 2], [1, 1, 0, 0]]
    assert outcome["position"] == [[0, 1, 2, 0], [0, 1, 0, 0]]
    assert "'weight' has 1 values and 'tokens' 2" in outcome.bad[0].reason


@RUNS
@given(tokens=TOKENS, length=st.integers(1, 12))
def test_padded_sequences_can_be_told_from_padding(run, tokens: list[list[int]], length: int) -> None:
    outcome = run({"tokens": sequences(tokens)}, Pad("tokens", length, value=-1, mask="there"))
    kept = [sequence for sequence in tokens if len(sequence) <= length]
    if kept:
        found = outcome.array("tokens")
        assert found.shape == (len(kept), length)
        assert [row[mask].tolist() for row, mask in zip(found, outcome.array("there"), strict=True)] == kept
        assert (found[~outcome.array("there")] == -1).all()
    assert len(outcome.bad) == len(tokens) - len(kept)


@RUNS
@given(tokens=TOKENS, length=st.integers(1, 12))
def test_truncated_sequences_keep_one_end(run, tokens: list[list[int]], length: int) -> None:
    assert run({"tokens": sequences(tokens)}, Truncate("tokens", length))["tokens"] == [s[:length] for s in tokens]
    outcome = run({"tokens": sequences(tokens)}, Truncate("tokens", length, "end"))
    assert outcome["tokens"] == [s[-length:] for s in tokens]


def test_buckets_by_length_hold_sequences_up_to_their_boundary(run) -> None:
    lengths = [0, 1, 4, 5, 8, 9, 100]
    outcome = run({"tokens": sequences([[1] * length for length in lengths])}, BucketByLength("tokens", (4, 8)))
    assert outcome["bucket"] == [0, 0, 0, 1, 1, 2, 2]


def test_a_missing_sequence_is_bad(run) -> None:
    tokens = sequences([[1], None, [2]])
    for transform in (Pack("tokens", 2), Pad("tokens", 2), Truncate("tokens", 1), BucketByLength("tokens", (1,))):
        assert [bad.reason for bad in run({"tokens": tokens}, transform).bad] == ["'tokens' has no value"]


GIVEN = (Field("tokens", "int32", sequence=True), Field("label", "int64"))


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: Pack((), 4), "of 0 fields"),
        (lambda: Pack("tokens", 0), "0 values"),
        (lambda: Pack("label", 4).schema(GIVEN), "pack was given the field label int64; sequences"),
        (lambda: Pack("tokens", 4, padding=0.5).schema(GIVEN), "0.5 is no int32"),
        (lambda: Pad("tokens", 4, value=0.5).schema(GIVEN), "0.5 is no int32"),
        (lambda: Pad("tokens", 0), "length 0"),
        (lambda: Truncate("label", 4).schema(GIVEN), "sequences is needed"),
        (lambda: BucketByLength("tokens", (4, 4)), "4, 4"),
    ],
)
def test_what_is_not_possible_is_refused(make, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        make()
