"""The command in the manifests, run as the kubelet and the training operators would run it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ganglion.backends.kubernetes.config import KubernetesConfig
from ganglion.backends.kubernetes.member import encode_report
from ganglion.backends.kubernetes.place import find_place
from ganglion.backends.kubernetes.render import render
from ganglion.core.errors import ControlError
from ganglion.execution.entry import Entry
from ganglion.execution.exits import AgentReport
from ganglion.execution.spec import AnySpec, Gang, OnControlLoss, Role, Service, Task

ENTRIES = "ganglion.testing.entries"
Container = dict[str, Any]
Start = Callable[..., subprocess.Popen[str]]
SLEEPER = """
import pathlib, time

def rest(mark):
    try:
        pathlib.Path(mark).touch()
        time.sleep(600)
    finally:
        pathlib.Path(mark).write_text("cleaned up")
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def containers(spec: AnySpec, **options: Any) -> list[Container]:
    """The containers of every member, in rank order."""
    (made, *_) = render(spec, KubernetesConfig(image="model:1", **options))
    if made["kind"] == "TrainJob":
        return [made["spec"]["trainer"]] * made["spec"]["trainer"]["numNodes"]
    roles = made["spec"].get("pytorchReplicaSpecs") or made["spec"].get("tfReplicaSpecs")
    if roles is None:
        return [made["spec"]["template"]["spec"]["containers"][0]]
    return [role["template"]["spec"]["containers"][0] for role in roles.values() for _ in range(role["replicas"])]


@pytest.fixture
def start() -> Iterator[Start]:
    """Run a container's command with its variables, and those that an operator adds."""
    with contextlib.ExitStack() as running:

        def run(container: Container, **variables: str) -> subprocess.Popen[str]:
            assert container["command"][0] == "python"
            environment = {found["name"]: found["value"] for found in container["env"]}
            command = [sys.executable, *container["command"][1:]]
            variables = {**os.environ, **environment, **variables}
            process = subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True)
            running.enter_context(process)
            running.callback(process.kill)  # of one that a failed test has left
            return process

        yield run


def report(path: Path) -> Any:
    return json.loads(path.read_bytes())


@pytest.mark.parametrize(
    ("entry", "arguments", "status", "expected"),
    [
        ("add", {"a": 2, "b": 3}, 0, {"succeeded": True, "value": 5}),
        ("fail", {"message": "no luck"}, 1, {"succeeded": False, "message": "no luck", "code": 1}),
        ("leave", {"code": 7}, 7, {"succeeded": False, "code": 7}),
        ("leave", {"code": 0}, 0, {"succeeded": True}),
        ("unserialisable", {}, 1, {"succeeded": False}),
        ("nowhere", {}, 1, {"succeeded": False}),
    ],
)
def test_a_task_ends_as_its_entry_does(
    entry: str, arguments: dict[str, Any], status: int, expected: dict[str, Any], start: Start, tmp_path: Path
) -> None:
    (container,) = containers(Task(id="work", entry=Entry(path=f"{ENTRIES}:{entry}"), arguments=arguments))
    process = start(container, GANGLION_REPORT=str(tmp_path / "report"))
    _, errors = process.communicate()
    assert process.returncode == status, errors
    assert expected.items() <= report(tmp_path / "report").items()
    assert ("Traceback" in errors) == (status == 1)


@pytest.mark.parametrize("training", ["pytorchjob", "trainjob"])
def test_the_members_of_a_gang_meet(training: str, start: Start, tmp_path: Path) -> None:
    gang = Gang(id="train", entry=Entry(path=f"{ENTRIES}:meet"), roles=(Role(count=3),))
    port = str(free_port())
    members = []
    for rank, container in enumerate(containers(gang, training=training)):
        names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        if training == "trainjob":
            names = ("PET_NODE_RANK", "PET_NNODES", "PET_MASTER_ADDR", "PET_MASTER_PORT")
        operator = dict(zip(names, (str(rank), "3", "127.0.0.1", port), strict=True))
        members.append(start(container, **operator, GANGLION_REPORT=str(tmp_path / str(rank))))
    assert [member.wait() for member in members] == [0, 0, 0]
    assert report(tmp_path / "0")["value"] == ["rank 1", "rank 2"]


def test_roles_of_tensorflow_are_kept(start: Start, tmp_path: Path) -> None:
    roles = (Role(name="chief"), Role(count=2), Role(name="ps", completes=False))
    gang = Gang(id="train", entry=Entry(path=f"{ENTRIES}:environment"), arguments={"name": "RANK"}, roles=roles)
    addresses = {"ps": ["ps-0:2222"], "worker": ["worker-0:2222", "worker-1:2222"], "chief": ["chief-0:2222"]}
    container = containers(gang, training="tfjob")[2]
    told = json.dumps({"cluster": addresses, "task": {"type": "worker", "index": 1}, "environment": "cloud"})
    process = start(container, TF_CONFIG=told, GANGLION_REPORT=str(tmp_path / "report"))
    process.communicate()
    assert report(tmp_path / "report")["value"] == "2"  # the chief is 0, whatever the operator's order


def test_a_replica_is_ready_when_it_says_so_and_ends_when_asked(start: Start, tmp_path: Path) -> None:
    port = free_port()
    service = Service(
        id="model", entry=Entry(path=f"{ENTRIES}:serve_pid"), replicas=1, on_control_loss=OnControlLoss.CONTINUE
    )
    (container,) = containers(service, port=port)
    assert container["readinessProbe"]["exec"]["command"][-1] in [found["value"] for found in container["env"]]
    ready = tmp_path / "ready"
    process = start(container, GANGLION_READY=str(ready), GANGLION_REPORT=str(tmp_path / "report"))
    while not ready.exists():
        assert process.poll() is None
    with socket.create_connection(("127.0.0.1", port)) as client:
        assert client.recv(64).decode().endswith(str(process.pid))
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == 0, errors


def test_a_task_that_is_asked_to_end_says_so(start: Start, tmp_path: Path) -> None:
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    mark = tmp_path / "mark"
    entry = Entry(path="sleeper:rest")
    spec = Task(id="work", entry=entry, arguments={"mark": str(mark)}, import_path=(str(tmp_path),))
    process = start(containers(spec)[0], GANGLION_REPORT=str(tmp_path / "report"))
    while not mark.exists():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert mark.read_text() == "cleaned up"
    assert report(tmp_path / "report")["message"] == "asked to end"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, "RANK and WORLD_SIZE"),
        ({"RANK": "0"}, "RANK and WORLD_SIZE"),
        ({"RANK": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, "no place in a gang"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "", "MASTER_PORT": "1"}, "no place in a gang"),
        ({"TF_CONFIG": "{"}, "TF_CONFIG does not parse"),
        ({"TF_CONFIG": "{}"}, "TF_CONFIG does not parse"),
    ],
)
def test_an_environment_without_a_place_is_an_error(variables: dict[str, str], message: str) -> None:
    with pytest.raises(ControlError, match=message):
        find_place(variables, {"worker": 2})


def test_a_process_that_no_manifest_started_says_so() -> None:
    command = [sys.executable, "-m", "ganglion.backends.kubernetes.member"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "GANGLION_MEMBER" in done.stderr


def test_ranks_follow_the_roles() -> None:
    told = {"RANK": "3", "WORLD_SIZE": "5", "MASTER_ADDR": "first", "MASTER_PORT": "29500"}
    place = find_place(told, {"chief": 1, "worker": 2})
    assert [peer.member for peer in place.membership.peers] == [
        "chief-0",
        "worker-0",
        "worker-1",
        "worker-2",
        "worker-3",
    ]
    assert place.peer.member == "worker-2"
    assert place.membership.peers[0].address == "first:29500"
    assert place.variables["JAX_COORDINATOR_ADDRESS"] == "first:29500"


def test_an_evaluator_stands_beside_the_cluster() -> None:
    told = json.dumps({"cluster": {"chief": ["c:1"], "worker": ["w:1"]}, "task": {"type": "evaluator", "index": 0}})
    place = find_place({"TF_CONFIG": told}, {"chief": 1, "worker": 1, "evaluator": 1})
    assert (place.rank, place.peer.member, place.variables["TF_CONFIG"]) == (2, "evaluator-0", told)


def test_last_words_fit_into_what_kubernetes_keeps() -> None:
    long = AgentReport(succeeded=False, message="é\x00" * 9000, traceback="\x01" * 9000 + "the end", code=1)
    encoded = encode_report(long)
    assert len(encoded) <= 4096
    assert json.loads(encoded)["traceback"].endswith("the end")
