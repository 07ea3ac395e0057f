"""`ganglion services` against `ganglion serve`, each a process."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from command_line import CommandLine, write_lights
from typer.testing import CliRunner

from ganglion.cli.canary import canary_of
from ganglion.cli.main import make_app
from ganglion.core.errors import UserError
from ganglion.serving.repository import ModelRepository
from ganglion.serving.rollout import Canary
from ganglion.serving.service_directory import ServiceDirectory


class Shop(CommandLine):
    """A project with two models that are served by a process."""

    service: subprocess.Popen[str]
    url: str

    def say(self, *arguments: str) -> str:
        """What `ganglion services` says; from this process, which takes less time than another one."""
        done = CliRunner().invoke(
            make_app(), ["services", *arguments], env={"GANGLION_HOME": str(self.home), "COLUMNS": "200"}
        )
        assert done.exit_code == 0, done.exception
        return done.stdout

    def model(self, name: str) -> Any:
        """What is shown of a model."""
        return json.loads(self.say("show", name, "--json"))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("served")
    shop = Shop(folder / "home")
    repository = ModelRepository(shop.home / "models")
    package = write_lights(folder / "package")
    for _ in range(2):
        repository.publish("lights", package)
    repository.publish("lamps", package)
    start = ("serve", "lights:1", "lamps", "--port", "0", "--replicas", "1", "--cpu", "0.1")
    with shop.start(*start) as shop.service:
        assert shop.service.stdout is not None
        lines = [shop.service.stdout.readline() for _ in range(9)]
        found = re.search(r"Serving lights:1, lamps:1 at (http://127\.0\.0\.1:\d+) ", lines[5])
        assert found is not None, lines
        assert [line.split()[-1].partition("/v1/")[2] for line in lines[8:]] == ["models/lights:predict"]
        shop.url = found[1]
        yield shop
        shop.service.terminate()
        assert shop.service.wait(60) == 0
    assert list((shop.home / "services").iterdir()) == []


def test_services_are_listed_and_changed_from_another_process(served: Shop) -> None:
    listed = served("services", "list").stdout
    assert re.search(rf"lights +1 +version 1 +AVAILABLE +1/1 +{served.url}", listed), listed
    assert re.search(rf"lamps +1 +latest +AVAILABLE +1/1 +{served.url}", listed), listed
    assert served.json("services", "list")[0]["models"].keys() == {"lights", "lamps"}

    assert served.say("scale", "lights", "2") == "lights is served by 2 replicas.\n"
    assert served.model("lights")["versions"]["1"]["ready"] == 2

    tried = served("services", "rollout", "lights:2", "--canary", "10", "--steps", "50,100")
    assert tried.stdout == "Version 2 of lights gets 10 percent of the requests.\n", tried.stderr
    canary = served.model("lights")["canary"]
    assert (canary["version"], canary["percent"], canary["steps"]) == (2, 10.0, [50.0, 100.0])
    assert "canary: version 2 at 10 %" in served.say("show", "lights")
    logs = [Path(version["logs"]) for version in served.model("lights")["versions"].values()]
    assert len(logs) == 2
    assert all(list(folder.glob("*/*/log")) for folder in logs), "what its processes wrote is where it says"
    assert served.say("rollback", "lights") == "Version 1 of lights answers.\n"
    assert served.model("lights")["last_rollout"] == "Version 2 was rolled back: on request"

    assert served.say("rollout", "lights") == "Version 2 of lights answers.\n"
    assert served.model("lights")["policy"] == "latest"
    body = {"instances": [[[255, 255], [255, 255]]]}
    assert httpx.post(f"{served.url}/v1/models/lights:predict", json=body).status_code == 200
    assert served.say("rollback", "lights") == "Version 1 of lights answers.\n"

    stopped = served.say("stop", "lights")
    assert stopped == "lights is served no longer; lamps still served.\n"
    assert "serves 'lights'. Allowed: lamps." in served.error("services", "show", "lights")
    assert httpx.post(f"{served.url}/v1/models/lights:predict", json=body).status_code == 404
    last = served("services", "stop", "lamps")
    assert last.stdout == "lamps is served no longer; nothing is served there any more.\n"
    assert served.service.wait(60) == 0, "it ends by itself"


class Trouble(CommandLine):
    """A project whose model can be kept from loading."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "home")
        self.damage = folder / "damage"
        (folder / "shop.py").write_text(PREDICTOR)
        signature = ("--input", "x=float32:1", "--output", "y=float32:1")
        assert self("models", "publish", "prices", folder / "shop.py:Prices", *signature).returncode == 0
        self.environment["DAMAGE"] = str(self.damage)


PREDICTOR = """
import os


class Prices:
    def load(self, folder):
        print("prices are read")
        print("a bar\\rthat goes on", flush=True)
        if os.path.exists(os.environ.get("DAMAGE", "")):
            raise LookupError("no prices")

    def predict(self, batch):
        print("asked", flush=True)
        return {"y": batch["x"]}
"""


@pytest.fixture(scope="module")
def trouble(tmp_path_factory: pytest.TempPathFactory) -> Trouble:
    return Trouble(tmp_path_factory.mktemp("trouble"))


def test_a_model_that_cannot_load_is_told_by_name_and_its_log_is_at_hand(trouble: Trouble) -> None:
    trouble.damage.touch()
    try:
        failed = trouble("serve", "prices", "--port", "0", "--replicas", "2", "--cpu", "0.1")
    finally:
        trouble.damage.unlink()
    assert failed.returncode == 2
    assert failed.stderr == (
        "ModelError: prices:1 was not served: 'shop:Prices' could not load: LookupError: no prices. "
        "'ganglion services logs prices:1' shows what its replicas wrote.\n"
    )
    logs = trouble("services", "logs", "prices:1").stdout
    assert "version 1 replica 0 | prices are read\n" in logs
    assert "version 1 replica 0 | that goes on\n" in logs
    assert re.search(r"replica 0 \| Traceback", logs)
    assert 'raise LookupError("no prices")' in logs
    assert trouble("services", "logs", "prices", "-n", "1").stdout.count("\n") < logs.count("\n") / 4
    assert "Did you mean 'prices'?" in trouble.error("services", "logs", "price")
    assert "no log of replica 7 of prices" in trouble.error("services", "logs", "prices", "--replica", "7")
    assert "versions are numbers" in trouble.error("services", "logs", "prices:champion")


def test_a_newer_version_that_cannot_load_is_said_where_the_service_runs(tmp_path: Path) -> None:
    trouble = Trouble(tmp_path)
    line = [*trouble.line, "serve", "prices", "--port", "0", "--cpu", "0.1", "--json"]
    pipe = subprocess.PIPE
    with subprocess.Popen(line, env=trouble.environment, text=True, stdout=pipe, stderr=pipe) as service:
        assert service.stdout is not None
        assert service.stderr is not None
        assert json.loads(service.stdout.readline())["models"] == [{"name": "prices", "version": 1}]
        trouble.damage.touch()
        repository = ModelRepository(trouble.home / "models")
        repository.publish("prices", repository.path("prices", 1))
        said = service.stderr.readline()
        assert "model=prices" in said
        assert "version=2" in said
        assert "LookupError: no prices" in said
        assert "log='ganglion services logs prices:2'" in said
        shown = trouble("services", "show", "prices").stdout
        assert re.search(r"1 +AVAILABLE +1/1", shown), shown
        assert re.search(r"2 +END +0/1 .* 'shop:Prices' could not load: LookupError: no prices", shown), shown
        service.terminate()


def test_logs_are_followed_while_the_service_runs(tmp_path: Path) -> None:
    trouble = Trouble(tmp_path)
    with trouble.start("serve", "prices", "--port", "0", "--replicas", "2", "--cpu", "0.1", "--json") as service:
        assert service.stdout is not None
        url = json.loads(service.stdout.readline())["url"]

        def ask() -> None:
            assert httpx.post(f"{url}/v1/models/prices:predict", json={"instances": [[1]]}).status_code == 200

        for _ in range(3):
            ask()
        shown, answers = [], 0
        with trouble.start("services", "logs", "prices", "--follow", "--tail", "0") as all_of_it:
            assert all_of_it.stdout is not None
            [entry] = ServiceDirectory(trouble.home).entries()

            def read_until(wanted: str) -> None:
                assert all_of_it.stdout is not None
                for line in all_of_it.stdout:
                    shown.append(line)
                    if re.fullmatch(wanted, line):
                        return

            with ThreadPoolExecutor(1) as pool:
                for version in (1, 2):
                    found = pool.submit(read_until, rf"version {version} replica [01] \| asked\n")
                    while not found.done():  # from where on it follows is its own affair
                        ask()
                        answers += 1
                    if version == 1:
                        repository = ModelRepository(trouble.home / "models")
                        repository.publish("prices", repository.path("prices", 1))
            service.terminate()
            assert service.wait(60) == 0
            shown += all_of_it.stdout
            assert all_of_it.wait(30) == 0, "it ends with the service"
            assert not entry.is_running
        assert {line for line in shown if "are read" in line} >= {
            f"version 2 replica {number} | prices are read\n" for number in (0, 1)
        }, "what a newer version writes is shown from its beginning"
        assert not any(re.match("version 1 .* are read", line) for line in shown)
        asked = [line for line in shown if re.fullmatch(r"version 1 replica [01] \| asked\n", line)]
        assert len(asked) <= answers, "those from before are not shown"
    alone = trouble("services", "logs", "prices", "--replica", "1").stdout
    assert "replica 1 | prices are read\n" in alone
    assert "replica 0" not in alone


def test_logs_of_the_last_service_are_shown_whatever_else_lies_there(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "home")
    for replica, text in (("0", b"one\ntwo\n"), ("1", b"three\n" * 200_000 + b"and a part"), ("x", b"of nobody\n")):
        folder = shop.home / "jobs" / "serve-old-1-20260102-030405-ab" / f"replica-{replica}" / "1"
        folder.mkdir(parents=True)
        (folder / "log").write_bytes(text)
    assert shop.say("logs", "old", "--tail", "2") == (
        "version 1 replica 0 | one\nversion 1 replica 0 | two\n"
        "version 1 replica 1 | three\nversion 1 replica 1 | and a part\n"
    )
    assert shop.say("logs", "old", "--replica", "1").count("version 1 replica 1 | three\n") == 200_000


def test_only_the_service_that_is_meant_counts(trouble: Trouble) -> None:
    with trouble.start("serve", "prices", "--port", "0", "--replicas", "1", "--cpu", "0.1", "--json") as service:
        assert service.stdout is not None
        url = json.loads(service.stdout.readline())["url"]
        assert "prices are read" in trouble("services", "logs", "prices", "--url", url).stdout
        nothing = trouble("services", "logs", "prices", "--tail", "0")
        assert (nothing.stdout, nothing.stderr) == ("", ""), "something was written"
        other = "http://127.0.0.1:1"
        assert f"No service is running at {other}" in trouble.error("services", "logs", "prices", "--url", other)
        service.terminate()
        assert service.wait(60) == 0


def test_without_a_service_it_says_what_to_do(tmp_path: Path) -> None:
    ganglion = Shop(tmp_path / "home")
    assert ganglion.say() == "Nothing is served. Start a service with 'ganglion serve MODEL'.\n"
    assert ganglion.say("list", "--json") == "[]\n"
    for arguments in (("show", "m"), ("scale", "m", "2"), ("rollout", "m:2"), ("rollback", "m"), ("stop", "m")):
        assert "Start one with 'ganglion serve MODEL'" in ganglion.error("services", *arguments)


@pytest.mark.parametrize(
    ("percent", "steps", "wanted"),
    [
        (None, None, None),
        (10.0, None, Canary(percent=10)),
        (5.0, "25, 50,100", Canary(percent=5, steps=(25, 50, 100))),
        (None, "5,50", Canary(percent=5, steps=(50,))),
    ],
)
def test_percentages_are_read(percent: float | None, steps: str | None, wanted: Canary | None) -> None:
    assert canary_of(percent, steps) == wanted


@pytest.mark.parametrize("steps", ["", "ten", "50,25", "50,,100"])
def test_percentages_that_make_no_sense_are_refused(steps: str) -> None:
    with pytest.raises(UserError):
        canary_of(10, steps)
