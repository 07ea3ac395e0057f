"""Streams of instances: answers in order, without delay, and none lost because of another."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving_samples import encoded, expected, pixels, write_lookup

from ganglion.artifacts.package import Signature, TensorSpec, write_package
from ganglion.backends.local.backend import LocalBackend, LocalConfig
from ganglion.core.errors import ControlError, UserError
from ganglion.core.resources import Resources
from ganglion.execution.supervisor import Supervisor
from ganglion.serving.client import Client, ServiceError
from ganglion.serving.controller import ModelServer
from ganglion.serving.options import ServingOptions
from ganglion.serving.repository import ModelRepository
from ganglion.serving.service_stream import ServedModel
from ganglion.serving.stream import Answer, EmbeddedModel, Instance, predict_documents, predict_stream

SMALL = Resources(cpu=0.1)
HALVES = """
import os
import numpy as np
from ganglion.core.errors import DataError

class Predictor:
    def load(self, folder):
        pass

    def predict(self, batch):
        if (batch["x"] < 0).any():
            raise DataError("a negative number")
        if (batch["x"] == 13).any():
            raise RuntimeError("unlucky")
        return {"y": batch["x"] / 2, "process": np.full(len(batch["x"]), os.getpid())}
"""


def write_halves(folder: Path) -> None:
    (folder.parent / "halves.py").write_text(HALVES)
    signature = Signature(
        inputs=(TensorSpec("x", "float64", (-1,)),),
        outputs=(TensorSpec("y", "float64", (-1,)), TensorSpec("process", "int64", (-1,))),
    )
    files = {"halves.py": folder.parent / "halves.py"}
    write_package(folder, runtime="python", signature=signature, files=files, entry="halves:Predictor")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real service with the model `halves`."""
    folder = tmp_path_factory.mktemp("served")
    write_halves(folder / "package")
    repository = ModelRepository(folder / "models")
    repository.publish("halves", folder / "package")
    supervisor = Supervisor(LocalBackend(folder / "g", LocalConfig(cpu=4)), folder / "g")
    server = ModelServer(supervisor, repository, gateway=SMALL)
    server.deploy("halves", options=ServingOptions.fixed(1, resources=SMALL))
    yield server.url
    server.close()
    supervisor.close()


@pytest.fixture
def halves(tmp_path: Path) -> Iterator[EmbeddedModel]:
    write_halves(tmp_path / "package")
    with EmbeddedModel(tmp_path / "package", batch=8) as model:
        yield model


def test_a_model_in_this_process_answers_in_order(classifier: Path) -> None:
    given = pixels(50)
    with EmbeddedModel(classifier) as model:
        answers = list(predict_stream(model, iter(given)))
    assert [answer.number for answer in answers] == list(range(50))
    found = np.array([answer.prediction for answer in answers])
    np.testing.assert_allclose(found, expected(given, 0), atol=1e-6)


def test_images_are_given_as_bytes_or_files(classifier: Path, tmp_path: Path) -> None:
    given = pixels(3)
    (tmp_path / "one.png").write_bytes(encoded(given[1]))
    with EmbeddedModel(classifier) as model:
        mixed = [encoded(given[0]), tmp_path / "one.png", given[2], b"no image"]
        *answers, bad = predict_stream(model, mixed)
        np.testing.assert_allclose([answer.prediction for answer in answers], expected(given, 0), atol=1e-6)
        assert "not a complete PNG or JPEG" in bad.error
        with pytest.raises(UserError, match="nowhere"):
            list(predict_stream(model, [tmp_path / "nowhere.png"]))


def check_that_an_answer_is_not_held_back(model: Any) -> None:
    """The next instance exists only once the last one is answered: waiting for a full batch would wait for ever."""
    answered = threading.Semaphore(1)

    def instances() -> Iterator[float]:
        for number in range(5):
            assert answered.acquire(timeout=30)
            yield float(number)

    for answer in predict_stream(model, instances()):
        assert answer.prediction["y"] == answer.number / 2
        answered.release()


def check_that_bad_instances_fail_alone(model: Any) -> None:
    lines = [b"4", b"nonsense", b'"text"', b"-1", b"1, 2", b"6", b"[8]", b"13", b"10"]
    answers = list(predict_documents(model, (Instance(number, line) for number, line in enumerate(lines, 1))))
    assert [answer.number for answer in answers] == list(range(1, 10))
    assert {answer.number: answer.prediction["y"] for answer in answers if not answer.error} == {1: 2, 6: 3, 9: 5}
    errors = {answer.number: answer.error for answer in answers if answer.error}
    for number, reason in {
        2: "not JSON",
        3: "something else than numbers",
        4: "a negative number",
        5: "not JSON",
        7: "shape",
        8: "unlucky",
    }.items():
        assert reason in errors[number]


def test_an_answer_is_not_held_back(halves: EmbeddedModel, served: str) -> None:
    check_that_an_answer_is_not_held_back(halves)
    with ServedModel(served, "halves") as model:
        check_that_an_answer_is_not_held_back(model)


def test_bad_instances_fail_alone(halves: EmbeddedModel, served: str) -> None:
    check_that_bad_instances_fail_alone(halves)
    with ServedModel(served, "halves") as model:
        check_that_bad_instances_fail_alone(model)


def test_a_service_answers_in_order(served: str) -> None:
    with ServedModel(served, "halves", batch=4, concurrency=3) as model:
        answers = list(predict_stream(model, ({"x": float(number)} for number in range(100, 400))))
    assert [answer.prediction["y"] for answer in answers] == [number / 2 for number in range(100, 400)]


def test_a_predictor_that_fails_is_a_message_and_the_replica_lives(served: str) -> None:
    with Client(served) as client:
        before = client.predict("halves", [1.0])[0]["process"]
        with pytest.raises(ServiceError, match="RuntimeError: unlucky") as caught:
            client.predict("halves", [13.0])
        assert caught.value.status == 500
        with pytest.raises(ServiceError, match="a negative number") as caught:
            client.predict("halves", [-1.0])
        assert caught.value.status == 400
        assert client.predict("halves", [4.0]) == [{"y": 2.0, "process": before}]


def test_who_stops_listening_ends_the_stream(halves: EmbeddedModel, served: str) -> None:
    with ServedModel(served, "halves", batch=1) as model:
        for one in (halves, model):
            endless = (float(number) for number in iter(int, 1))
            stream = predict_stream(one, endless)
            assert next(stream).prediction["y"] == 0
            stream.close()  # type: ignore[attr-defined]  # a generator


Script = Callable[[int, list[Any]], tuple[int, dict[str, Any]]]


@contextmanager
def scripted(answer: Script) -> Iterator[str]:
    """A service that answers request `n` (from 1) with what the script says."""
    numbers = iter(range(1, 1000))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._send(200, {"model_spec": {"version": "1"}, "metadata": {}})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            self._send(*answer(next(numbers), body["instances"]))

        def _send(self, status: int, document: dict[str, Any]) -> None:
            data = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_batches_are_on_their_way_at_once_and_answers_stay_in_order() -> None:
    second = threading.Event()

    def answer(number: int, instances: list[Any]) -> tuple[int, dict[str, Any]]:
        if 0 in instances:
            assert second.wait(30), "the second batch is sent although the first is not answered"
        else:
            second.set()
        return 200, {"predictions": instances}

    with scripted(answer) as url, ServedModel(url, "any", batch=1, concurrency=2) as model:
        assert [found.prediction for found in predict_stream(model, range(6))] == list(range(6))


def test_a_busy_service_is_asked_again_and_one_that_stays_busy_is_an_error() -> None:
    def busy(number: int, instances: list[Any]) -> tuple[int, dict[str, Any]]:
        return (429, {"error": "slow down"}) if number < 3 else (200, {"predictions": instances})

    with scripted(busy) as url, ServedModel(url, "any") as model:
        assert list(predict_stream(model, [5])) == [Answer(number=0, prediction=5)]
    with scripted(lambda *_: (503, {"error": "full"})) as url, ServedModel(url, "any", patience=0.2) as model:
        stream = predict_stream(model, [5])
        with pytest.raises(ServiceError, match="full"):
            next(stream)


def test_a_service_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ControlError, match="No service answers"):
        ServedModel("http://127.0.0.1:9", "any")


def test_an_index_that_the_model_fails_on_fails_alone(tmp_path: Path) -> None:
    write_lookup(tmp_path / "lookup")
    with EmbeddedModel(tmp_path / "lookup") as model:
        answers = list(predict_stream(model, [3, 9, 0]))
    assert [answer.prediction for answer in answers] == [3.5, None, 0.5]
    assert "The model failed" in answers[1].error
