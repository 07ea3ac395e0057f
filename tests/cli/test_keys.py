"""Keys of callers: managed by the command line, kept as digests, followed by a running service."""

from __future__ import annotations

import json
import os
import queue
import stat
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from command_line import CommandLine, served_at
from typer.testing import CliRunner

from ganglion.cli.main import make_app
from ganglion.core.errors import UserError
from ganglion.serving import key_file
from ganglion.serving.callers import CallerLimit, Callers, digest_of
from ganglion.serving.key_file import KeyFile, KeyFileWatch

PATIENCE = 30.0


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "keys.json")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    monkeypatch.setenv("GANGLION_HOME", str(tmp_path))
    return CommandLine(tmp_path)


def run(*arguments: str) -> str:
    done = CliRunner().invoke(make_app(), ["keys", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_key_is_shown_once_and_kept_as_a_digest_that_only_its_owner_can_read(project: CommandLine) -> None:
    key = run("add", "ann", "--rate", "5").splitlines()[0]
    file = project.home / "keys.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert key not in file.read_text()
    assert digest_of(key) in file.read_text()
    listed = json.loads(run("list", "--json"))
    assert [(one["name"], one["limit"]["rate"]) for one in listed["keys"]] == [("ann", 5.0)]
    assert key not in run("list")
    assert not [path for path in project.home.rglob("*") if path.is_file() and key.encode() in path.read_bytes()]


def test_limits_are_changed_and_cleared_and_keys_revoked(project: CommandLine) -> None:
    run("add", "ann")
    run("limit", "ann", "--concurrency", "3")
    run("limit", "ann", "--rate", "7")
    callers = KeyFile(project.home / "keys.json").read()
    assert (callers.keys[0].limit, callers.authenticated) == (CallerLimit(concurrency=3, rate=7.0), CallerLimit())
    run("limit", "ann", "--rate", "0")
    assert KeyFile(project.home / "keys.json").read().keys[0].limit == CallerLimit(concurrency=3)
    run("limit", "ann", "--clear")
    run("limit", "--class", "anonymous", "--refuse")
    run("limit", "--class", "authenticated", "--concurrency", "9")
    callers = KeyFile(project.home / "keys.json").read()
    assert (callers.keys[0].limit, callers.anonymous, callers.authenticated.concurrency) == (None, None, 9)
    assert "refused" in run("list")
    assert "Did you mean 'ann'?" in project.error("keys", "revoke", "anne")
    run("revoke", "ann")
    assert KeyFile(project.home / "keys.json").read().keys == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("limit", "ann"), "Give what is to change"),
        (("limit", "ann", "--clear", "--rate", "3"), "Give what is to change"),
        (("limit", "ann", "--refuse"), "revoke it"),
        (("limit", "--class", "ann", "--rate", "3"), "Allowed: anonymous, authenticated"),
        (("limit", "--class", "anonymous", "--clear"), "nothing above it"),
        (("add", "ann"), "has a key"),
    ],
)
def test_what_makes_no_sense_is_explained(project: CommandLine, arguments: tuple[str, ...], message: str) -> None:
    run("add", "ann")
    assert message in project.error("keys", *arguments)


def test_several_at_once_lose_no_key(keys: KeyFile) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(keys.add, [f"caller {number}" for number in range(24)]))
    assert {key.digest for key in keys.read().keys} == {digest_of(key) for key in made}


def test_a_file_that_others_can_write_is_refused(keys: KeyFile) -> None:
    keys.add("ann")
    os.chmod(keys.path, 0o620)
    with pytest.raises(UserError, match="chmod 600"):
        keys.read()


class Told:
    def __init__(self) -> None:
        self.callers: list[Callers] = []
        self._new = threading.Condition()

    def __call__(self, callers: Callers) -> None:
        with self._new:
            self.callers.append(callers)
            self._new.notify_all()

    def wait(self, count: int) -> Callers:
        with self._new:
            assert self._new.wait_for(lambda: len(self.callers) >= count, PATIENCE)
            return self.callers[count - 1]


class Log:
    """What is logged as an error."""

    def __init__(self) -> None:
        self.said: queue.SimpleQueue[tuple[str, dict[str, Any]]] = queue.SimpleQueue()

    def error(self, event: str, **fields: Any) -> None:
        self.said.put((event, fields))


def test_a_damaged_file_leaves_the_callers_as_they_are_and_a_deleted_one_leaves_none(
    keys: KeyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log()
    monkeypatch.setattr(key_file, "_log", log)
    keys.add("ann")
    told = Told()
    watch = KeyFileWatch(keys, told)
    watch.start()
    try:
        assert [key.name for key in told.wait(1).keys] == ["ann"]
        keys.path.write_text("{")
        event, fields = log.said.get(timeout=PATIENCE)
        assert event == "keys_unreadable"
        assert fields["path"] == str(keys.path)
        assert len(told.callers) == 1
        keys.path.unlink()
        assert told.wait(2).keys == ()
    finally:
        watch.close()


class Service:
    """A running `ganglion serve`."""

    def __init__(self, url: str, keys: KeyFile) -> None:
        self.url = url
        self.keys = keys

    def ask(self, key: str | None = None) -> int:
        request = urllib.request.Request(f"{self.url}/v1/models/lights:predict", self._body(), method="POST")
        if key is not None:
            request.add_header("x-api-key", key)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code

    def wait_for(self, status: int, key: str | None) -> float:
        """Seconds until a request is answered so."""
        began = time.monotonic()
        while self.ask(key) != status:
            assert time.monotonic() < began + PATIENCE
        return time.monotonic() - began

    @staticmethod
    def _body() -> bytes:
        return b'{"instances":[[[0,0],[0,0]]]}'


@pytest.fixture
def service(shop: CommandLine, keys: KeyFile) -> Iterator[Service]:
    keys.limit_anonymous(lambda before: None)
    arguments = ("--port", "0", "--replicas", "1", "--cpu", "0.1", "--keys", keys.path)
    with shop.start("serve", "lights", *arguments) as process:
        yield Service(served_at(process), keys)
        process.terminate()
        assert process.wait(60) == 0


def test_a_running_service_learns_of_a_key_and_of_its_end_within_a_second(service: Service) -> None:
    keys = service.keys
    assert service.ask() == 401
    key = keys.add("ann")
    learnt = service.wait_for(200, key)
    assert service.ask("gk_another") == 401
    keys.limit("ann", lambda before: CallerLimit(rate=0.001, burst=1))
    limited = service.wait_for(429, key)
    keys.limit("ann", lambda before: None)
    free = service.wait_for(200, key)
    keys.revoke("ann")
    revoked = service.wait_for(401, key)
    assert max(learnt, limited, free, revoked) < 5.0, "a second, and what a busy machine adds"
