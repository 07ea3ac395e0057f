from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import grpc
import httpx
import psutil
import pytest
from command_line import CommandLine, write_picture
from typer.testing import CliRunner

from ganglion.artifacts.package import ImageInput, PackageFile, PackageManifest, Signature, TensorSpec
from ganglion.cli import serve as serve_module
from ganglion.cli.main import make_app
from ganglion.cli.service import ServiceOrder, example
from ganglion.core.resources import Resources
from ganglion.serving.options import ServingOptions
from ganglion.serving.sharding import Sharding


def test_a_model_is_served_until_it_is_told_to_end(shop: CommandLine, tmp_path: Path) -> None:
    picture = write_picture(tmp_path / "image.png", 240)
    log = tmp_path / "access.log"
    more = ("--grpc-port", "0", "--access-log", log)
    with shop.start("serve", "lights", "--port", "0", "--replicas", "1", "--cpu", "0.1", *more) as service:
        assert service.stdout is not None
        loading, ready, _empty, first, _empty, page, ask, grpc_line = (service.stdout.readline() for _ in range(8))
        assert loading == "loading lights:2 ...\n"
        assert re.fullmatch(r"lights:2 ready in \d+\.\d s\n", ready)
        found = re.fullmatch(r"Serving lights:2 at (http://127\.0\.0\.1:\d+) until Ctrl-C\n", first)
        assert found is not None, first
        assert page.split() == ["page", f"{found[1]}/"]
        assert "<!doctype html>" in httpx.get(page.split()[1]).text
        curl = ask.partition("ask")[2].strip()
        over_grpc = re.fullmatch(r" +gRPC +(127\.0\.0\.1:\d+)\n", grpc_line)
        assert over_grpc is not None, grpc_line
        with grpc.insecure_channel(over_grpc[1]) as channel:
            live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
            assert live(b"", wait_for_ready=True, timeout=60) == b"\x08\x01"  # true
        there = shop.json("predict", "lights", "--image", picture, "--url", found[1])
        assert there["predictions"] == shop.json("predict", "lights", "--image", picture)["predictions"]
        assert there["version"] == 2
        if shutil.which("curl"):
            answer = subprocess.run(curl, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=30)
            assert answer.stdout.startswith('{"predictions":[['), answer.stderr
        assert "'lights'" in shop.error("predict", "nights", "--image", picture, "--url", found[1])
        assert "alias" in shop.error("predict", "lights:champion", "--image", picture, "--url", found[1])
        processes = psutil.Process(service.pid).children(recursive=True)
        service.send_signal(signal.SIGTERM)
        assert service.wait(timeout=60) == 0
    assert psutil.wait_procs(processes, timeout=10)[1] == []
    assert '"path":"/v1/models/lights:predict","status":200' in log.read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked, and say what they have mapped, on Linux")
def test_an_idle_service_is_four_processes_that_share_what_they_can(shop: CommandLine) -> None:
    """Controller, warden, gateway, replica: forks of one interpreter; none keeps what only its start needed."""
    with shop.start("serve", "lights", "--port", "0", "--replicas", "1", "--cpu", "0.1") as service:
        assert service.stdout is not None
        assert any(line.startswith("Serving lights:2 at ") for line in service.stdout)
        controller = psutil.Process(service.pid)
        [warden] = controller.children()
        members = warden.children()
        assert len(members) == 2
        assert controller.children(recursive=True) == [warden, *members]
        assert {tuple(process.cmdline()) for process in (warden, *members)} == {tuple(controller.cmdline())}

        held = [{Path(one.path).name: one.rss for one in process.memory_maps()} for process in (controller, warden)]
        assert not [name for name in held[0] if re.search("onnxruntime|multiarray|openblas|uvloop", name)]
        [library] = [name for name in held[1] if name.startswith("onnxruntime_pybind11_state")]
        mapped = [one for member in members for one in member.memory_maps() if Path(one.path).name == library]
        assert held[1][library] < 0.2 * Path(mapped[0].path).stat().st_size, "it is there for others"
        assert max(one.rss for one in mapped) < 0.5 * Path(mapped[0].path).stat().st_size

        service.kill()
        assert psutil.wait_procs([warden, *members], timeout=10)[1] == []


def test_what_cannot_be_served_is_refused(shop: CommandLine) -> None:
    assert "Did you mean 'lights'?" in shop.error("serve", "lihgts", "--port", "0")
    assert "half written" in shop.error("serve", "lights:3", "--port", "0")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = shop("serve", "lights", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 2
    assert "another port" in done.stderr


def test_what_is_said_of_replicas_and_limits_is_how_it_is_served(
    shop: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders: list[ServiceOrder] = []
    monkeypatch.setattr(serve_module, "become", orders.append)
    scaling = ["--min-replicas", "0", "--max-replicas", "2", "--scale-metric", "rps", "--scale-target", "10"]
    limits = ["--container-concurrency", "1", "--max-batch", "4", "--max-queue", "7", "--timeout", "5"]
    for arguments, wanted in (
        ([], ServingOptions.fixed(serve_module.REPLICAS)),
        (["--replicas", "3", "--cpu", "0.5"], ServingOptions.fixed(3, resources=Resources(cpu=0.5))),
        (["--shards", "3"], ServingOptions(min_replicas=3, max_replicas=3, sharding=Sharding(shards=3))),
        (
            ["--shards", "4", "--replicas", "2"],
            ServingOptions(min_replicas=2, max_replicas=2, sharding=Sharding(shards=4)),
        ),
        (["--replicas", "1", "--fused"], ServingOptions(min_replicas=1, max_replicas=1, fused=True)),
        (
            [*scaling, *limits, "--memory", "1GiB"],
            ServingOptions(
                min_replicas=0,
                max_replicas=2,
                scale_metric="rps",
                scale_target=10,
                container_concurrency=1,
                max_batch=4,
                max_queue=7,
                timeout=5,
                resources=Resources(cpu=0.25, memory=2**30),
            ),
        ),
    ):
        line = ["serve", "lights", *arguments]
        done = CliRunner().invoke(make_app("serve"), line, env={"GANGLION_HOME": str(shop.home)})
        assert done.exit_code == 0, done.output
        assert orders.pop().options == wanted


def test_few_cores_are_left_to_one_replica() -> None:
    assert [serve_module.replicas_for(cores) for cores in (1, 2, 3, 64)] == [1, 1, 2, 2]
    shown = CliRunner().invoke(make_app("serve"), ["serve", "--help"], env={"COLUMNS": "160"}).output
    words = " ".join(re.sub("[│\\s]+", " ", shown).split())
    assert f"[default: ({serve_module.REPLICAS} on this machine, or shards)]" in words


def test_options_that_contradict_each_other_are_refused(shop: CommandLine) -> None:
    assert "--replicas is a fixed number" in shop.error("serve", "lights", "--replicas", "2", "--max-replicas", "4")
    assert "round-robin and requests are sharded" in shop.error(
        "serve", "lights", "--shards", "2", "--balancing", "round-robin"
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ("--scale-metric", "memor"),
            "--scale-metric is 'memor'. Allowed: concurrency, cpu, memory, rps. Did you",
        ),
        (
            ("--scale-metric", "memory", "--memory", "64MiB"),
            "--scale-metric is memory, which more replicas",
        ),
        (("--scale-metric", "memory", "--memory", "64MiB"), "give --max-replicas."),
        (("--min-replicas", "3", "--max-replicas", "2"), "--max-replicas is 2 and --min-replicas 3;"),
        (("--scale-metric", "cpu", "--min-replicas", "0"), "Give --min-replicas=1, or scale by concurrency or rps."),
        (("--balancing", "random"), "--balancing is 'random'. Allowed: "),
        (("--balancing", "my balancing"), "--balancing is 'my balancing'. Allowed: "),
        (("--timeout", "0"), "--timeout is 0; it has to be more than 0."),
        (("--canary", "120"), "--canary is 120; it has to be more than 0 and less than 100."),
        (("--steps", "0,50"), "--steps is 0; it has to be more than 0 and less than 100."),
        (("--memory", "5"), "--memory 5 is 5 B, and a replica needs at least 16.0 MiB. Did you mean 5GiB?"),
        (("--memory", "512"), "--memory 512 is 512 B, and a replica needs at least 16.0 MiB. Did you mean 512MiB?"),
        (("--memory", "8MiB"), "a replica needs at least 16.0 MiB."),
        (("--memory", "much"), "--memory: 'much' is not a size"),
    ],
)
def test_what_is_wrong_with_options_is_said_in_the_words_of_the_command_line(
    shop: CommandLine, options: tuple[str, ...], words: str
) -> None:
    assert words in shop.error("serve", "lights", *options)


def test_an_alias_that_is_not_there_is_said_with_how_to_set_it(shop: CommandLine) -> None:
    said = shop.error("serve", "lights:champ")
    assert "Did you mean 'champion'? 'ganglion models alias lights:VERSION champ'" in said


def test_a_program_reads_one_line(shop: CommandLine) -> None:
    line = ("serve", "lights:champion", "--port", "0", "--grpc-port", "0", "--cpu", "0.1", "--json")
    with shop.start(*line) as service:
        assert service.stdout is not None
        said = json.loads(service.stdout.readline())
        assert said.keys() == {"url", "grpc", "models", "pid"}
        assert (said["models"], said["pid"]) == ([{"name": "lights", "version": 1}], service.pid)
        assert httpx.get(f"{said['url']}/v1/models/lights").json()["model_version_status"][0]["state"] == "AVAILABLE"
        assert said["grpc"].startswith("127.0.0.1:")
        service.terminate()
        assert service.wait(60) == 0
        assert service.stdout.read() == "", "nothing else, ever"


def test_a_service_that_is_not_there_is_no_traceback(shop: CommandLine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    done = shop("predict", "lights", "--instances", "[1]", "--url", f"http://127.0.0.1:{port}")
    assert done.returncode == 1
    assert "No service answers" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("inputs", "image", "words"),
    [
        (
            [("x", "float32", (-1, 2, 2))],
            None,
            "curl -d '{\"instances\":[[[0,0],[0,0]]]}' http://h:1/v1/models/m:predict",
        ),
        ([("a", "bool", (-1,)), ("b", "int64", (-1, 1))], None, '{"instances":[{"a":false,"b":[0]}]}'),
        ([("x", "float32", (-1, 28, 28))], None, "curl http://h:1/v1/models/m/metadata"),
        ([("x", "uint8", (-1, 28, 28))], ImageInput(28, 28, "L"), "base64 < image.png"),
    ],
)
def test_the_example_fits_the_model(
    inputs: list[tuple[str, str, tuple[int, ...]]], image: ImageInput | None, words: str
) -> None:
    manifest = PackageManifest(
        format=1,
        runtime="onnx",
        signature=Signature(
            inputs=tuple(TensorSpec(*tensor) for tensor in inputs), outputs=(TensorSpec("y", "float32", (-1, 1)),)
        ),
        files={"model.onnx": PackageFile(digest="sha256:" + "0" * 64, size=0)},
        image=image,
    )
    assert words in example("http://h:1", "m", manifest)


def test_the_process_of_a_service_carries_nothing_that_it_does_not_need() -> None:
    """What is imported stays in memory for as long as the service lives, and has to be read before it answers."""
    script = """
import sys
import ganglion.cli.service
import ganglion.backends.local.backend, ganglion.serving.controller, ganglion.serving.service_socket
heavy = {"numpy", "typer", "rich", "pydantic", "structlog", "onnxruntime", "PIL", "uvloop", "asyncio", "sqlalchemy"}
sys.stderr.write(" ".join(heavy & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
