"""What the gateway predicts itself with a model that it holds, and what it leaves to the replicas."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop
from serving_samples import pixels, write_classifier, write_lookup, write_slow, write_sum
from text_contract import texts
from text_samples import write_labels

from ganglion.serving.gateway.gateway_model import GatewayModel
from ganglion.serving.gateway.prediction import Cut, Part, Prediction
from ganglion.serving.payload import CallPayload, Payload
from ganglion.serving.wire import Call

Use = Callable[[GatewayModel], Any]


def use(folder: Path, function: Use) -> Any:
    """Call a function with the loaded model of a package."""

    async def run() -> Any:
        model = GatewayModel(asyncio.get_running_loop(), folder)
        model.attach("a test")
        await model.loading
        return function(model)

    return uvloop.run(run())


def part(payload: Payload, shard: int | None = None) -> Part:
    everything = slice(0, payload.rows)
    prediction = Prediction(lambda _result: None, 0.0, float("inf"))
    return prediction.add_cuts([Cut(payload, everything, everything, shard)])[0]


def numbers(rows: int) -> Payload:
    return Payload(tensors={"x": np.arange(2 * rows, dtype=np.float32).reshape(rows, 2)})


@pytest.fixture
def summing(tmp_path: Path) -> Callable[[Use], Any]:
    write_sum(tmp_path / "sum")
    return lambda function: use(tmp_path / "sum", function)


def test_a_short_request_is_predicted(summing: Callable[[Use], Any]) -> None:
    outputs = summing(lambda model: model.predict([part(numbers(3))]))
    assert outputs["y"].tolist() == [1.0, 5.0, 9.0]


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(lambda: part(numbers(17)), id="many instances"),
        pytest.param(lambda: part(Payload(images=[b"of any size"])), id="an image"),
        pytest.param(lambda: part(numbers(1), shard=0), id="one of a shard"),
        pytest.param(lambda: part(CallPayload(Call("split", "m:f"), {"x": np.zeros((1, 2), np.float32)})), id="a call"),
        pytest.param(lambda: part(numbers(4).select(np.array([2, 0]))), id="chosen instances"),
    ],
)
def test_what_may_take_long_or_do_anything_is_left(summing: Callable[[Use], Any], given: Callable[[], Part]) -> None:
    assert summing(lambda model: model.predict([given()])) is None


def test_text_is_left_for_it_may_be_of_any_length(tmp_path: Path) -> None:
    write_labels(tmp_path / "labels", {"good": "positive"})
    payload = Payload(tensors={"text": texts("good")})
    assert use(tmp_path / "labels", lambda model: model.predict([part(payload)])) is None


def test_requests_that_came_together_are_predicted_together(summing: Callable[[Use], Any]) -> None:
    outputs = summing(lambda model: model.predict([part(numbers(3)), part(numbers(1)), part(numbers(2))]))
    assert outputs["y"].tolist() == [1.0, 5.0, 9.0, 1.0, 1.0, 5.0]
    assert summing(lambda model: model.predict([part(numbers(9)), part(numbers(8))])) is None, "more than at once"


def test_what_a_replica_died_of_is_left(summing: Callable[[Use], Any]) -> None:
    suspect = part(numbers(1))
    suspect.blame("replica-1", alone=False)
    assert summing(lambda model: model.predict([suspect])) is None


def test_a_model_that_takes_long_is_left(tmp_path: Path) -> None:
    write_slow(tmp_path / "slow", rounds=4)
    payload = Payload(tensors={"x": np.zeros((1, 1), np.float32)})
    assert use(tmp_path / "slow", lambda model: model.predict([part(payload)])) is None


def test_a_request_on_which_the_model_fails_is_left_and_the_next_one_is_not(tmp_path: Path) -> None:
    write_lookup(tmp_path / "lookup")

    def ask(model: GatewayModel) -> list[Any]:
        return [model.predict([part(Payload(tensors={"index": np.array([index])}))]) for index in (7, 2)]

    failed, answered = use(tmp_path / "lookup", ask)
    assert failed is None
    assert answered["value"].tolist() == [2.5]


def test_a_package_that_cannot_be_loaded_is_left(tmp_path: Path) -> None:
    write_sum(tmp_path / "sum")
    (tmp_path / "sum" / "model.onnx").write_bytes(b"damaged")
    assert use(tmp_path / "sum", lambda model: model.predict([part(numbers(1))])) is None


def test_the_model_is_kept_for_its_last_user(tmp_path: Path) -> None:
    write_classifier(tmp_path / "classifier")
    asked = part(Payload(tensors={"pixels": pixels(1)}))

    def leave(model: GatewayModel) -> list[bool]:
        model.attach("another")
        answered = []
        for user in ("a test", "a test", "another"):
            model.detach(user)
            answered.append(model.predict([asked]) is not None)
        return [*answered, model.closed]

    assert use(tmp_path / "classifier", leave) == [True, True, False, True]


def test_a_model_whose_users_left_while_it_was_loaded_is_not_kept(tmp_path: Path) -> None:
    write_sum(tmp_path / "sum")

    async def run() -> bool:
        model = GatewayModel(asyncio.get_running_loop(), tmp_path / "sum")
        model.attach("a test")
        model.detach("a test")
        await model.loading
        return model.closed and model.predict([part(numbers(1))]) is None

    assert uvloop.run(run())
