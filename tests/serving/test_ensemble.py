"""How answers are combined; pure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.artifacts.package import Signature, TensorSpec
from ganglion.core.errors import GanglionError
from ganglion.serving.ensembles import check_ensemble, ensemble_version
from ganglion.serving.gateway.ensemble import combine
from ganglion.serving.gateway.errors import RequestError
from ganglion.serving.routes import EnsembleRoute, VersionRoute


def route(how: str, count: int = 3, **fields: Any) -> EnsembleRoute:
    return EnsembleRoute(name="e", members=tuple("abcdefgh"[:count]), how=how, **fields)


def answers(*rows: Any, dtype: Any = np.float32) -> list[dict[str, np.ndarray] | None]:
    return [None if row is None else {"y": np.array(row, dtype)} for row in rows]


NO_CLASSES: list[tuple[str, ...]] = [(), (), ()]


def test_mean_and_weighted_mean() -> None:
    given_answers = answers([[1, 0]], [[0, 1]], [[0.5, 0.5]])
    np.testing.assert_allclose(combine(given_answers, route("mean"), NO_CLASSES)["y"], [[0.5, 0.5]])
    heavy = route("weighted", weights=(6.0, 1.0, 1.0))
    np.testing.assert_allclose(combine(given_answers, heavy, NO_CLASSES)["y"], [[6.5 / 8, 1.5 / 8]])
    assert combine(given_answers, heavy, NO_CLASSES)["y"].dtype == np.float32


@given(
    members=st.integers(1, 6).flatmap(
        lambda count: st.lists(
            st.lists(st.floats(-1e6, 1e6, width=32), min_size=3, max_size=3), min_size=count, max_size=count
        )
    ),
    dtype=st.sampled_from([np.float32, np.float64, np.int64, np.uint8]),
)
def test_a_mean_is_that_of_numpy_to_the_last_bit(members: list[list[float]], dtype: Any) -> None:
    values = [np.array([row, row], np.float32).clip(0, 255).astype(dtype) for row in members]
    before = [value.copy() for value in values]
    combined = combine([{"y": value} for value in values], route("mean", len(values)), NO_CLASSES)["y"]
    wanted = np.mean(values, axis=0, dtype=np.float64)
    np.testing.assert_array_equal(combined, wanted.astype(dtype) if np.dtype(dtype).kind == "f" else wanted)
    assert all(np.array_equal(value, old) for value, old in zip(values, before, strict=True)), "members keep theirs"


def test_members_that_answer_differently_are_told() -> None:
    for other in ({"z": np.zeros((1, 2))}, {"y": np.zeros((1, 3))}, {"y": np.zeros((1, 2)), "z": np.zeros(1)}):
        with pytest.raises(RequestError, match="answer differently"):
            combine([{"y": np.zeros((1, 2))}, other], route("mean", 2), NO_CLASSES)


def test_the_weights_of_a_missing_member_are_the_others() -> None:
    heavy = route("weighted", weights=(6.0, 3.0, 1.0))
    combined = combine(answers(None, [[0, 1]], [[1, 0]]), heavy, NO_CLASSES)["y"]
    np.testing.assert_allclose(combined, [[0.25, 0.75]])


def test_the_majority_wins_and_a_tie_is_the_first_members() -> None:
    scores = answers([[0.1, 0.2, 0.7], [0.9, 0.1, 0]], [[0.6, 0.4, 0], [0, 1, 0]], [[0.5, 0.4, 0.1], [0, 0, 1]])
    voted = combine(scores, route("vote"), NO_CLASSES)["y"]
    assert voted.tolist() == [[1, 0, 0], [1, 0, 0]]
    assert combine(scores[::-1], route("vote"), NO_CLASSES)["y"].tolist() == [[1, 0, 0], [0, 0, 1]]
    labels = answers([7, 1, 5], [8, 2, 6], [8, 1, 4], dtype=np.int64)
    assert combine(labels, route("vote"), NO_CLASSES)["y"].tolist() == [8, 1, 5]
    with pytest.raises(RequestError, match="Nothing can be voted on"):
        combine(answers([1.5], [1.5]), route("vote", 2), NO_CLASSES[:2])


@given(votes=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=5))
def test_a_vote_is_what_counting_by_hand_gives(votes: list[list[int]]) -> None:
    """One row; each member votes for the last of its draws."""
    labels = [draw[-1] for draw in votes]
    scores = answers(*[[np.eye(4)[label]] for label in labels])
    counts = [labels.count(label) for label in labels]
    wanted = labels[counts.index(max(counts))]
    voted = combine(scores, route("vote", len(labels)), [()] * len(labels))["y"]
    assert voted[0].tolist() == np.eye(4)[wanted].tolist()


@pytest.mark.parametrize(("overlap", "shared"), [("mean", 0.4), ("max", 0.5)])
def test_a_union_has_every_class_that_anybody_knows(overlap: Any, shared: float) -> None:
    classes = [("cat", "dog"), ("dog", "cow"), ("owl",)]
    given_answers = answers([[0.7, 0.3]], [[0.5, 0.5]], [[0.9]])
    united = combine(given_answers, route("union", overlap=overlap), classes)["y"]
    np.testing.assert_allclose(united, [[0.7, shared, 0.5, 0.9]], rtol=1e-6)
    assert united.dtype == np.float32
    united = combine(answers([[0.7, 0.3]], [[0.5, 0.5]], None), route("union", overlap=overlap), classes)["y"]
    assert np.isnan(united[0, 3]), "nobody who is there knows it"
    np.testing.assert_allclose(united[0, :3], [0.7, shared, 0.5], rtol=1e-6)


def version(outputs: int = 2, classes: tuple[str, ...] = (), shape: tuple[int, ...] | None = None) -> VersionRoute:
    signature = Signature(
        inputs=(TensorSpec("x", "float32", (-1, 2)),), outputs=(TensorSpec("y", "float32", shape or (-1, outputs)),)
    )
    return VersionRoute(version=4, state="AVAILABLE", signature=signature, classes=classes)


def test_a_union_says_what_it_gives() -> None:
    members = [version(2, ("cat", "dog")), version(3, ("dog", "cow", "owl"))]
    union = route("union", 2)
    check_ensemble(union, members)
    shown = ensemble_version(union, members, "AVAILABLE")
    assert (shown.version, shown.classes) == (1, ("cat", "dog", "cow", "owl"))
    assert shown.signature.outputs[0].shape == (-1, 4)


@pytest.mark.parametrize(
    ("how", "members", "message"),
    [
        (route("average", 2), [version()] * 2, "no way to combine called 'average'"),
        (route("mean", 2), [version(2), version(3)], "take or give different things"),
        (route("weighted", 2), [version()] * 2, "Weights go with 'weighted'"),
        (route("mean", 2, weights=(1.0, 2.0)), [version()] * 2, "Weights go with 'weighted'"),
        (route("weighted", 2, weights=(1.0,)), [version()] * 2, "2 members need as many weights above 0"),
        (route("weighted", 2, weights=(1.0, 0.0)), [version()] * 2, "weights above 0"),
        (route("mean", 2, quorum=3), [version()] * 2, "A quorum of 3 of 2 members"),
        (route("mean", 0), [], "needs different members; given: none"),
        (route("union", 2), [version(2, ("a", "b")), version(2)], "'b' cannot take part in a union"),
        (route("vote", 2), [version(shape=(-1,))] * 2, "nothing can be voted on"),
    ],
)
def test_an_ensemble_that_could_never_answer_is_refused(
    how: EnsembleRoute, members: list[VersionRoute], message: str
) -> None:
    with pytest.raises(GanglionError, match=message):
        check_ensemble(how, members)
