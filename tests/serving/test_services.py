"""How another process finds a model server and has it do something."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import psutil
import pytest

from ganglion.core.errors import ControlError, ModelError, NotFoundError, UserError
from ganglion.serving.rollout import Canary
from ganglion.serving.service_client import ServiceClient, ask
from ganglion.serving.service_directory import FOLDER, ServiceDirectory, ServiceEntry
from ganglion.serving.service_messages import Describe, Failed, RollBack, RollOut, Scale, Stop
from ganglion.serving.service_socket import ServiceSocket


class NotedServer:
    """Stands where a model server stands, and notes what it is asked."""

    def __init__(self, *models: str, url: str = "http://127.0.0.1:1") -> None:
        self.url = url
        self.models = list(models)
        self.asked: list[Any] = []

    def status(self) -> dict[str, Any]:
        return {"url": self.url, "models": {name: {"versions": {1: {}}} for name in self.models}, "ensembles": {}}

    def scale(self, model: str, replicas: int, *, timeout: float) -> None:
        self.asked.append((model, replicas, timeout))

    def update(self, model: str, version: Any, *, canary: Any, timeout: float) -> int:
        self.asked.append((model, version, canary))
        return 7

    def roll_back(self, model: str, *, timeout: float) -> int:
        raise ModelError(f"{model} cannot go back.")

    def undeploy(self, model: str, *, timeout: float) -> None:
        self.models.remove(model)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with TemporaryDirectory(prefix="g-") as runtime:  # paths of sockets have to be short
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        yield tmp_path / "g"


class Running:
    """A socket of a noted server."""

    def __init__(self, project: Path, *models: str, **fields: Any) -> None:
        self.server: Any = NotedServer(*models, **fields)
        self.stopped = threading.Event()
        self.socket = ServiceSocket(self.server, project, self.stopped.set)


@pytest.fixture
def running(project: Path) -> Iterator[Running]:
    running = Running(project, "fashion", "digits")
    yield running
    running.socket.close()


def test_commands_reach_the_server_and_its_answers_come_back(project: Path, running: Running) -> None:
    entry = ServiceClient(project).find("fashion")
    assert ask(entry, Describe()) == running.server.status()
    assert ask(entry, Scale(model="fashion", replicas=3, timeout=5)) is None
    canary = Canary(percent=5, steps=(50,))
    assert ask(entry, RollOut(model="fashion", version="champion", canary=canary, timeout=5)) == 7
    assert ask(entry, RollOut(model="fashion", version=2, timeout=5)) == 7
    assert running.server.asked == [("fashion", 3, 5.0), ("fashion", "champion", canary), ("fashion", 2, None)]


def test_an_error_is_raised_here_as_it_was_there(project: Path, running: Running) -> None:
    entry = ServiceClient(project).find("fashion")
    with pytest.raises(ModelError, match="fashion cannot go back"):
        ask(entry, RollBack(model="fashion", timeout=1))
    with pytest.raises(ControlError, match="ValueError"):
        ask(entry, Stop(model="nothing", timeout=1))
    assert isinstance(Failed(error="SystemExit", message="").to_error(), ControlError), "only errors of ours are made"
    assert isinstance(Failed(error="annotations", message="").to_error(), ControlError)


def test_the_owner_is_told_when_nothing_is_served_any_more(project: Path, running: Running) -> None:
    client = ServiceClient(project)
    assert ask(client.find("fashion"), Stop(model="fashion", timeout=1)) == ["digits"]
    assert not running.stopped.is_set()
    assert ask(client.find("digits"), Stop(model="digits", timeout=1)) == []
    assert running.stopped.wait(20)


def test_nobody_else_can_open_the_socket_or_read_the_file(project: Path, running: Running) -> None:
    (entry,) = ServiceDirectory(project).entries()
    assert stat.S_IMODE(os.stat(entry.socket).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(Path(entry.socket).parent).st_mode) == 0o700
    (file,) = (project / FOLDER).iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("data", [b"", b"\0" * 12, b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\1" + b"\0" * 8 + b"\x01"])
def test_what_is_no_command_is_dropped_and_others_are_answered(project: Path, running: Running, data: bytes) -> None:
    (entry,) = ServiceDirectory(project).entries()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(20)
        connection.connect(entry.socket)
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(100) == b""
    assert ask(entry, Describe())["url"] == running.server.url


def test_nothing_is_left_at_the_end(project: Path) -> None:
    running = Running(project, "fashion")
    (entry,) = ServiceDirectory(project).entries()
    running.socket.close()
    assert list((project / FOLDER).iterdir()) == []
    assert not Path(entry.socket).exists()
    with pytest.raises(NotFoundError, match="Start one with 'ganglion serve MODEL'"):
        ServiceClient(project).find("fashion")
    with pytest.raises(ControlError, match="does not answer"):
        ask(entry, Describe())


def test_a_file_whose_process_is_gone_is_removed(project: Path, running: Running) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    directory = ServiceDirectory(project)
    entry = ServiceEntry(
        id="gone",
        url="http://x",
        socket=str(project / "gone.sock"),
        pid=process.pid,
        started=psutil.Process(process.pid).create_time(),
    )
    (project / "gone.sock").touch()
    directory.add(entry)
    directory.add(msgspec.structs.replace(entry, id="reused", started=entry.started - 100))
    assert [found.id for found in directory.entries() if found.pid == process.pid] == ["gone"], "its number was reused"
    process.kill()
    process.communicate()
    assert [found.pid for found in directory.entries()] == [os.getpid()]
    assert not (project / "gone.sock").exists()
    assert len(list((project / FOLDER).iterdir())) == 1


def test_a_model_is_found_among_several_services(project: Path, running: Running) -> None:
    other = Running(project, "digits", url="http://127.0.0.1:2")
    client = ServiceClient(project)
    try:
        assert len(client.states()) == 2
        assert client.find("fashion").url == running.server.url
        with pytest.raises(
            UserError, match=r"served at http://127.0.0.1:\d and http://127.0.0.1:\d; say which by --url"
        ):
            client.find("digits")
        assert client.find("digits", "http://127.0.0.1:2/").url == other.server.url
        with pytest.raises(NotFoundError, match="Did you mean 'fashion'"):
            client.find("fashoin")
        with pytest.raises(NotFoundError, match=r"No service is running at http://127\.0\.0\.1:3"):
            client.find("digits", "http://127.0.0.1:3")
    finally:
        other.socket.close()
