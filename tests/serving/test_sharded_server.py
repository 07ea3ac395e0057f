"""Sharded requests and ensembles end to end: real processes, real models, a user's own functions in replicas."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from serving_samples import encoded, pixels, write_brightest, write_classifier, write_mlp
from test_server import PATIENCE, Watched

from ganglion.core.errors import ModelError, UserError
from ganglion.core.resources import Resources
from ganglion.serving.controller import ModelServer
from ganglion.serving.options import ServingOptions
from ganglion.serving.repository import ModelRepository
from ganglion.serving.sharding import HASH, Sharding

CORES = 8
HERE = str(Path(__file__).parent)


@pytest.fixture(scope="module")
def server(supervisor: Watched, models: ModelRepository) -> Iterator[ModelServer]:
    model_server = ModelServer(supervisor, models, gateway=Resources(cpu=0.1))
    yield model_server
    model_server.close()


Serve = Callable[..., None]


@pytest.fixture
def serve(server: ModelServer, models: ModelRepository, tmp_path: Path) -> Iterator[Serve]:
    """Publish and deploy a model that `write` writes; undeployed after the test."""

    def serve(
        name: str, write: Callable[..., Any], sharding: Sharding | None = None, replicas: int = 2, **how: Any
    ) -> None:
        write(tmp_path / name, **how)
        version = models.publish(name, tmp_path / name)
        options = ServingOptions(
            min_replicas=replicas,
            max_replicas=replicas,
            resources=Resources(cpu=0.1),
            sharding=sharding,
            import_path=(HERE,),
        )
        server.deploy(name, version, options=options)

    yield serve
    state = server.status()
    for name in (*state["ensembles"], *state["models"]):
        server.undeploy(name, wait=False)


def infer(server: ModelServer, model: str, array: np.ndarray, allowed: int = 30_000) -> httpx.Response:
    """Ask by the Open Inference Protocol, in binary."""
    name, datatype = {"uint8": ("frames", "UINT8"), "float32": ("x", "FP32")}[str(array.dtype)]
    if array.shape[1:] == (28, 28):
        name = "pixels"
    return raw_infer(server, model, {name: (datatype, array)}, allowed)


def raw_infer(
    server: ModelServer, model: str, inputs: dict[str, tuple[str, np.ndarray]], allowed: int
) -> httpx.Response:
    import json

    described = [
        {
            "name": name,
            "shape": list(array.shape),
            "datatype": datatype,
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, (datatype, array) in inputs.items()
    ]
    head = json.dumps({"inputs": described}).encode()
    headers = {"inference-header-content-length": str(len(head)), "x-request-timeout-ms": str(allowed)}
    body = head + b"".join(array.tobytes() for _datatype, array in inputs.values())
    return httpx.post(f"{server.url}/v2/models/{model}/infer", content=body, headers=headers, timeout=PATIENCE)


def outputs(response: httpx.Response) -> dict[str, np.ndarray]:
    assert response.status_code == 200, response.text
    return {
        output["name"]: np.array(output["data"], np.float64).reshape(output["shape"])
        for output in response.json()["outputs"]
    }


def answered(server: ModelServer, model: str) -> dict[str, float]:
    """Instances that each replica of a model has answered, by the metrics."""
    prefix = f'ganglion_batch_instances_sum{{model="{model}"'
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    found = {
        line.split('replica="')[1].split('"')[0]: float(line.split()[-1]) for line in lines if line.startswith(prefix)
    }
    return {replica.split("/")[-2]: count for replica, count in found.items()}


@pytest.mark.parametrize("by", ["range", HASH])
def test_a_sharded_request_gives_what_one_server_gives(server: ModelServer, serve: Serve, by: str) -> None:
    serve("whole", write_mlp, replicas=1)
    serve("sharded", write_mlp, Sharding(shards=2, by=by, limit=100))
    x = np.random.default_rng(3).normal(size=(3000, 12)).astype(np.float32)
    wanted = outputs(infer(server, "whole", x))["scores"]
    assert wanted.shape == (3000, 10)
    np.testing.assert_allclose(outputs(infer(server, "sharded", x))["scores"], wanted, rtol=1e-5, atol=1e-7)
    once = answered(server, "sharded")
    assert sum(once.values()) == 3000
    assert min(once.values()) > 1300
    infer(server, "sharded", x)
    assert answered(server, "sharded") == {replica: 2 * count for replica, count in once.items()}, "the same shards"


def test_the_reference_network_gives_the_same_sharded(server: ModelServer, serve: Serve) -> None:
    serve("pictures", write_classifier, Sharding(shards=3, limit=0))
    serve("picture", write_classifier, replicas=1)
    given = pixels(200)
    wanted = outputs(infer(server, "picture", given))["probabilities"]
    np.testing.assert_allclose(outputs(infer(server, "pictures", given))["probabilities"], wanted, atol=1e-7)
    images = {"instances": [{"b64": _b64(encoded(one))} for one in given[:20]]}
    answer = httpx.post(f"{server.url}/v1/models/pictures:predict", json=images, timeout=PATIENCE)
    np.testing.assert_allclose(answer.json()["predictions"], wanted[:20], atol=1e-7)


def _b64(data: bytes) -> str:
    from base64 import b64encode

    return b64encode(data).decode()


def test_a_shard_that_is_killed_in_the_middle_costs_nothing(
    server: ModelServer, supervisor: Watched, serve: Serve
) -> None:
    serve("whole", write_mlp, replicas=1, hidden=4096)
    serve("sharded", write_mlp, Sharding(shards=2), hidden=4096)
    x = np.random.default_rng(3).normal(size=(40_000, 12)).astype(np.float32)
    wanted = outputs(infer(server, "whole", x))["scores"]
    supervisor.wait_for(lambda _events: len(supervisor.pids("serve-sharded")) == 2)
    pids = supervisor.pids("serve-sharded")
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(infer, server, "sharded", x)
        while min(answered(server, "sharded").values(), default=0) == 0:
            assert not asked.done()
        os.kill(pids["replica-0"], signal.SIGKILL)
        assert not asked.done()
        np.testing.assert_allclose(outputs(asked.result())["scores"], wanted, rtol=1e-5, atol=1e-7)
    assert supervisor.wait_for_pid("serve-sharded", other_than=pids["replica-0"])


def wait_gone(supervisor: Watched, pid: int) -> None:
    supervisor.wait_for(lambda _events: pid not in supervisor.pids("serve-sharded").values())


@pytest.mark.soak
def test_shards_that_are_killed_one_after_the_other_cost_nothing(
    server: ModelServer, supervisor: Watched, serve: Serve
) -> None:
    """While a process dies its socket may still accept; what it held must not be given to it again."""
    serve("sharded", write_mlp, Sharding(shards=2), hidden=4096)
    x = np.random.default_rng(3).normal(size=(8_000, 12)).astype(np.float32)
    wanted = outputs(infer(server, "sharded", x))["scores"]
    for kill in range(10):
        before = sum(answered(server, "sharded").values())
        supervisor.wait_for(lambda _events: len(supervisor.pids("serve-sharded")) == 2)
        pids = supervisor.pids("serve-sharded")
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(infer, server, "sharded", x)
            while sum(answered(server, "sharded").values()) - before < 600 * kill and not asked.done():
                pass
            victim = pids[f"replica-{kill % 2}"]
            os.kill(victim, signal.SIGKILL)
            np.testing.assert_allclose(outputs(asked.result())["scores"], wanted, rtol=1e-5, atol=1e-7)
        wait_gone(supervisor, victim)


def test_frames_are_split_and_merged_by_the_users_functions(server: ModelServer, serve: Serve) -> None:
    sharding = Sharding(shards=2, by="user_functions:by_frame", merge="user_functions:findings", limit=1)
    serve("video", write_brightest, sharding)
    frames = np.random.default_rng(0).integers(1, 100, (24, 512, 512), dtype=np.uint8)
    for number in (3, 4, 17):
        frames[number, 100, 200] = 240 + number % 10
    found = outputs(infer(server, "video", frames))
    assert found["brightest"].tolist() == [243, 244, 247]
    tiny = {"instances": frames[[3, 5]].tolist()}
    answer = httpx.post(f"{server.url}/v1/models/video:predict", json=tiny, timeout=PATIENCE).json()
    assert answer == {"predictions": [{"brightest": 243.0, "frame": 0}]}, "further outputs are allowed"
    frames[7] = 0
    refused = infer(server, "video", frames)
    assert refused.status_code == 400
    assert "DataError: a frame is black" in refused.json()["error"]


@pytest.mark.parametrize(
    ("function", "status", "message"),
    [
        ("wrong", 500, "a whole number of at least 0 for each of 4 instances is expected"),
        ("broken", 500, "'user_functions:broken' failed: KeyError: 'nothing'"),
        ("endless", 504, ""),
    ],
)
def test_a_function_that_goes_wrong_fails_its_request_alone(
    server: ModelServer, supervisor: Watched, serve: Serve, function: str, status: int, message: str
) -> None:
    serve("video", write_brightest, Sharding(by=f"user_functions:{function}", limit=2), replicas=1)
    supervisor.wait_for(lambda _events: len(supervisor.pids("serve-video")) == 1)
    pids = supervisor.pids("serve-video")
    frames = np.ones((4, 512, 512), np.uint8)
    response = infer(server, "video", frames, allowed=700 if function == "endless" else 30_000)
    assert (response.status_code, message in response.json()["error"]) == (status, True), response.text
    assert outputs(infer(server, "video", frames[:2]))["brightest"].tolist() == [1, 1]
    assert supervisor.pids("serve-video") == pids, "no replica is lost"


def test_what_a_replica_cannot_import_is_not_served(server: ModelServer, serve: Serve) -> None:
    with pytest.raises(ModelError, match="'user_functions:missing' cannot be imported in a replica"):
        serve("video", write_brightest, Sharding(by="user_functions:missing"), replicas=1)
    with pytest.raises(UserError, match=r"cannot be split by the input 'frame'\. .*Did you mean 'frames'"):
        serve("other", write_brightest, Sharding(by=HASH, key="frame"), replicas=1)


def test_members_are_combined_in_every_way(server: ModelServer, serve: Serve) -> None:
    for seed, name in enumerate(("one", "two", "three")):
        serve(name, write_mlp, replicas=1, seed=seed)
    x = np.random.default_rng(5).normal(size=(40, 12)).astype(np.float32)
    each = np.stack([outputs(infer(server, name, x))["scores"] for name in ("one", "two", "three")])

    def combined(how: str, **fields: Any) -> np.ndarray:
        server.combine("all", ["one", "two", "three"], how, **fields)
        return outputs(infer(server, "all", x))["scores"]

    np.testing.assert_allclose(combined("mean"), each.mean(axis=0), atol=1e-6)
    weights = np.array([5, 3, 2])
    wanted = np.tensordot(weights / 10, each, axes=1)
    np.testing.assert_allclose(combined("weighted", weights=[5, 3, 2]), wanted, atol=1e-6)
    labels = each.argmax(axis=-1)
    winners = [
        max(dict.fromkeys(column), key=column.count) for column in labels.T.tolist()
    ]  # the first of those that are named most often
    assert combined("vote").argmax(axis=1).tolist() == winners
    assert len({len(set(column)) for column in labels.T.tolist()}) > 1, "some votes are tied, some are not"


def test_models_of_different_classes_are_united(server: ModelServer, serve: Serve) -> None:
    serve("pets", write_mlp, replicas=1, classes=("cat", "dog"))
    serve("farm", write_mlp, replicas=1, classes=("dog", "cow", "hen"), seed=1)
    with pytest.raises(ModelError, match="take or give different things"):
        server.combine("animals", ["pets", "farm"])
    server.combine("animals", ["pets", "farm"], "union", overlap="max")
    x = np.random.default_rng(5).normal(size=(5, 12)).astype(np.float32)
    pets, farm = (outputs(infer(server, name, x))["scores"] for name in ("pets", "farm"))
    united = outputs(infer(server, "animals", x))["scores"]
    wanted = np.column_stack([pets[:, 0], np.maximum(pets[:, 1], farm[:, 0]), farm[:, 1:]])
    np.testing.assert_allclose(united, wanted, atol=1e-6)
    metadata = httpx.get(f"{server.url}/v1/models/animals/metadata").json()["metadata"]
    assert metadata["classes"] == ["cat", "dog", "cow", "hen"]


def test_the_users_own_combination_runs_in_a_replica(server: ModelServer, serve: Serve) -> None:
    for seed, name in enumerate(("one", "two")):
        serve(name, write_classifier, replicas=1, seed=seed)
    server.combine("best", ["one", "two"], "user_functions:largest", quorum=1)
    given = pixels(10)
    one, two = (outputs(infer(server, name, given))["probabilities"] for name in ("one", "two"))
    best = outputs(infer(server, "best", given))["probabilities"]
    np.testing.assert_allclose(best, np.maximum(one, two), atol=1e-7)
    server.combine("best", ["one", "two"], "user_functions:nothing")
    response = infer(server, "best", given)
    assert response.status_code == 500
    assert "'user_functions:nothing' cannot be imported in a replica" in response.json()["error"]


def test_a_stopped_member_is_missing_at_the_deadline(server: ModelServer, supervisor: Watched, serve: Serve) -> None:
    for seed, name in enumerate(("one", "two", "three")):
        serve(name, write_mlp, replicas=1, seed=seed)
    server.combine("all", ["one", "two", "three"], quorum=2)
    server.combine("strict", ["one", "two", "three"])
    x = np.ones((4, 12), np.float32)
    each = [outputs(infer(server, name, x))["scores"] for name in ("one", "two", "three")]
    supervisor.wait_for(lambda _events: "replica-0" in supervisor.pids("serve-two"))
    stopped = supervisor.pids("serve-two")["replica-0"]
    os.kill(stopped, signal.SIGSTOP)
    try:
        response = infer(server, "all", x, allowed=500)
        np.testing.assert_allclose(outputs(response)["scores"], (each[0] + each[2]) / 2, atol=1e-6)
        assert response.headers["ganglion-degraded"] == "members=2/3; missing=two"
        assert response.json()["parameters"] == {"degraded": "members=2/3; missing=two"}
        assert infer(server, "strict", x, allowed=300).status_code in (503, 504)
    finally:
        os.kill(stopped, signal.SIGCONT)
    whole = infer(server, "all", x)
    assert "ganglion-degraded" not in whole.headers
    np.testing.assert_allclose(outputs(whole)["scores"], np.mean(each, axis=0), atol=1e-6)
