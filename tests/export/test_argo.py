"""Exported pipelines, run step by step as Argo would run them, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec import structs

from ganglion.artifacts.store import FolderStore
from ganglion.backends.kubernetes.config import Claim, KubernetesConfig
from ganglion.core.errors import SpecError, UserError
from ganglion.export.argo import ArgoExport, workflow
from ganglion.export.results import Results
from ganglion.workflow import as_completed, codec, pipeline, step

RECIPE = Path(__file__).parents[2] / "recipes" / "fashion_mnist.py"
SMALL = """
import os
from pathlib import Path

from ganglion.workflow import as_completed, current_step, pipeline, step


@step(retries=2, timeout=60, environment={"MODE": "fast"})
def numbers(count: int) -> list[int]:
    assert os.environ["MODE"] == "fast"
    return list(range(1, count + 1))


@step(max_age="7d")
def power(values: list[int], exponent: int) -> dict[str, int]:
    with (Path(os.environ["MARKS"]) / f"power-{exponent}").open("a") as marks:
        marks.write("x")
    return {"sum": sum(value**exponent for value in values), "seed": current_step().seed}


@step(cache=False)
def total(parts: list[dict[str, int]], text: str) -> str:
    return f"{text} {[part['sum'] for part in parts]}"


@step(effect=True)
def keep(line: str, value: int) -> Path:
    place = current_step().folder / "line.txt"
    place.write_text(f"{line} {value}")
    return place


@pipeline
def small(count: int = 3, text: str = "all of") -> str:
    values = numbers(count)
    parts = [power(values, exponent, name=f"power_{exponent}") for exponent in (1, 2, 3)]
    line = total(as_completed(parts), text)
    keep(line, parts[0]["sum"])
    return line
"""

ASKING = """
import msgspec

from ganglion.workflow import pipeline, step


class Running(msgspec.Struct):
    url: str


@step
def start() -> Running:
    return Running("http://0.0.0.0:8080")


@step
def ask(service: Running) -> str:
    return service.url + "/v1"


@step
def tell(answer: str) -> str:
    return answer


@pipeline
def whole() -> str:
    return tell(ask(start()))
"""

Make = Callable[[Path], Any]


def export(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ganglion.cli.main", "export", "argo", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def exported(*arguments: str) -> Any:
    done = export(*arguments, "--output", "-")
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "small_pipeline.py").write_text(SMALL)
    return folder


def value(volume: Path, run: str, step_name: str) -> Any:
    store = FolderStore(volume / "store")
    return codec.decode(Results(volume).read(run, step_name), store, volume / "decoded")


def test_steps_pass_results_through_the_volume(
    project: Path, workflows: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MARKS", str(tmp_path))
    text = "costs $(HOME), $$ and 'quotes'"
    made = exported(str(project / "small_pipeline.py"), "--set", "count=4", "--set", f"text={text}", "--seed", "7")
    argo = workflows(project)
    outputs = argo.run(made, "small-aaaaa")
    assert {output["run"] for output in outputs.values()} == {"small-aaaaa"}
    # Here nothing expands $(HOME), as Kubernetes would: the argument arrives with the dollar that protects it.
    line = value(argo.volume, "small-aaaaa", "total")
    assert line == "costs $$(HOME), $$$ and 'quotes' [10, 30, 100]"
    assert value(argo.volume, "small-aaaaa", "keep").read_text() == f"{line} 10"
    assert len({value(argo.volume, "small-aaaaa", f"power_{exponent}")["seed"] for exponent in (1, 2, 3)}) == 3

    # Argo remembers what can be used again, and then hands on where the earlier result lies.
    again = argo.run(made, "small-bbbbb")
    assert len(argo.remembered) == 4
    assert again["numbers"] == {"run": "small-aaaaa"}
    assert again["total"] == {"run": "small-bbbbb"}
    assert value(argo.volume, "small-bbbbb", "total") == line

    # Where Argo has forgotten, the container finds what has not changed.
    argo.memory.clear()
    argo.run(made, "small-ccccc")
    assert [(tmp_path / f"power-{exponent}").read_text() for exponent in (1, 2, 3)] == ["x", "x", "x"]
    assert value(argo.volume, "small-ccccc", "power_2") == value(argo.volume, "small-aaaaa", "power_2")


@pytest.mark.timeout(300)
def test_the_reference_pipeline(workflows: Make, free_port: int) -> None:
    sample = ("--limit", "1500", "--set", "epochs=1", "--set", "minimum=0")
    made = exported(str(RECIPE), *sample, "--set", f"kubernetes.port={free_port}")
    argo = workflows(RECIPE.parent)
    outputs = argo.run(made, "reference-aaaaa")
    answers = value(argo.volume, "reference-aaaaa", "ask")
    assert [answer.truth for answer in answers][:3] == ["Ankle boot", "Pullover", "Trouser"]
    assert outputs["serve"]["url"].endswith(str(free_port))
    assert (argo.volume / "models" / "fashion" / "1").is_dir()
    models = value(argo.volume, "reference-aaaaa", "select")
    assert len(models) == 2
    assert all(0 < model.metrics["accuracy"] <= 1 for model in models)


def test_memory_needs_steps_that_can_be_used_again(project: Path) -> None:
    made = exported(str(project / "small_pipeline.py"), "--max-age", "90m")
    templates = {template["name"]: template for template in made["spec"]["templates"]}
    ages = {name: template["memoize"]["maxAge"] for name, template in templates.items() if "memoize" in template}
    assert ages.pop("numbers") == "5400s"
    assert set(ages.values()) == {"604800s"}
    assert len(ages) == 3  # not `total`, nor `keep`, which could be but for its input
    assert templates["numbers"]["retryStrategy"]["limit"] == "2"
    assert templates["numbers"]["activeDeadlineSeconds"] == 60
    assert made["spec"]["podGC"] == {"strategy": "OnPodSuccess"}
    assert "total waits for all of power_1, power_2, power_3" in made["metadata"]["annotations"].values()

    never = exported(str(project / "small_pipeline.py"), "--max-age", "0")
    names = [template["name"] for template in never["spec"]["templates"] if "memoize" in template]
    assert "numbers" not in names
    assert len(names) == 3


def test_keys_of_the_memory_follow_code_image_and_parameters(project: Path) -> None:
    file = project / "small_pipeline.py"

    def keys(*arguments: str) -> set[str]:
        made = exported(str(file), *arguments)
        return {template["memoize"]["key"] for template in made["spec"]["templates"] if "memoize" in template}

    first = keys("--image", "a:1")
    assert keys("--image", "a:1") == first
    for arguments in (["--image", "a:2"], ["--image", "a:1", "--set", "count=9"]):
        assert not keys(*arguments) & first
    file.write_text(SMALL.replace("value**exponent", "value**exponent + 1"))
    assert not keys("--image", "a:1") & first


def test_files_for_the_image_are_written(project: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    done = export(str(project / "small_pipeline.py"), "--image", "registry.example/small:1", "--output", str(folder))
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["Dockerfile", "requirements.txt", "workflow.yaml"]
    made = yaml.safe_load((folder / "workflow.yaml").read_text())
    images = {template["container"]["image"] for template in made["spec"]["templates"] if "container" in template}
    assert images == {"registry.example/small:1"}
    assert "registry.example/small:1" in done.stdout
    pins = dict(line.split("==") for line in (folder / "requirements.txt").read_text().splitlines() if "==" in line)
    for name in ("msgspec", "numpy", "torch", "onnxruntime", "sqlalchemy"):
        assert pins[name]
    assert not {"pytest", "ruff", "mypy", "hypothesis"} & pins.keys()
    lines = (folder / "Dockerfile").read_text().splitlines()
    assert f"FROM python:{sys.version_info[0]}.{sys.version_info[1]}-slim" in lines
    assert any("GANGLION_HOME=/ganglion" in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "cuont=1"], "Did you mean 'count'"),
        (["--set", "count=many"], "count"),
        (["--set", "kubernetes.imgae=a"], "Did you mean 'image'"),
        (["--set", "kubernetes.claims=[]"], "declare a claim"),
        (["--set", 'kubernetes.claims=[{"name":"a","path":"/a","read_only":true}]'], "read-only"),
        (["--set", "text={{workflow.uid}}"], "Argo would replace"),
        (["--image", "a b"], "name the container image"),
        (["--max-age", "soon"], "not a duration"),
    ],
)
def test_bad_input_writes_nothing(arguments: list[str], message: str, project: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    done = export(str(project / "small_pipeline.py"), *arguments, "--output", str(folder))
    assert done.returncode == 2
    assert message in done.stderr
    assert not folder.exists()


def run_step(project: Path, volume: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ganglion.export.step", *arguments]
    environment = {"GANGLION_HOME": str(volume), "PYTHONPATH": str(project), "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=volume.parent)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["small_pipeline:large", "--step", "numbers"], 2, "has no 'large'"),
        (["small_pipeline:numbers", "--step", "numbers"], 2, "not a pipeline"),
        (["small_pipeline:small", "--step", "nubmers"], 2, "Did you mean 'numbers'"),
        (["small_pipeline:small", "--step", "power_1"], 2, "say which run holds it"),
        (["small_pipeline:small", "--step", "power_1", "--input", "numbers=run-0"], 2, "no result of step 'numbers'"),
        (["small_pipeline:small", "--step", "power_1", "--input", "numbers=../a"], 2, "cannot name"),
        (["small_pipeline:small", "--step", "numbers", "--input", "numbers"], 2, "not of the form STEP=VALUE"),
        (["small_pipeline:small", "--step", "numbers"], 1, "AssertionError"),
    ],
)
def test_a_step_that_cannot_be_run_says_why(
    arguments: list[str], status: int, message: str, project: Path, tmp_path: Path
) -> None:
    if status == 1:
        (project / "small_pipeline.py").write_text(SMALL.replace('== "fast"', '== "slow"'))
    receipt = tmp_path / "receipt"
    volume = tmp_path / "volume"
    done = run_step(project, volume, *arguments, "--run", "run-1", "--receipt", str(receipt))
    assert done.returncode == status, done.stderr
    assert message in done.stderr
    assert not receipt.exists()
    assert not list(volume.rglob("events.jsonl"))


def test_a_service_is_asked_where_the_cluster_says(tmp_path: Path) -> None:
    (tmp_path / "asking.py").write_text(ASKING)
    volume = tmp_path / "volume"
    for arguments in (
        ["--step", "start"],
        ["--step", "ask", "--input", "start=run-1", "--url", "start=http://model.team.svc"],
    ):
        done = run_step(tmp_path, volume, "asking:whole", "--run", "run-1", *arguments)
        assert done.returncode == 0, done.stderr
    assert value(volume, "run-1", "ask") == "http://model.team.svc/v1"
    done = run_step(
        tmp_path,
        volume,
        "asking:whole",
        "--run",
        "run-1",
        "--step",
        "tell",
        "--input",
        "ask=run-1",
        "--url",
        "ask=http://x",
    )
    assert done.returncode == 2
    assert "nothing that has a `url`" in done.stderr


CONFIG = KubernetesConfig(image="a:1", training="pytorchjob", claims=(Claim(name="ganglion", path="/ganglion"),))


@step
def workers() -> int:
    return 2


@step(effect=True)
def pipeline_step(value: int, name: str = "") -> int:
    return value


def test_steps_may_have_any_name() -> None:
    @pipeline
    def named() -> None:
        pipeline_step(workers(name="A.b"), name="dag")
        pipeline_step(as_completed(workers(name="a_b")), name="pipeline-with-a-rather-long-name")

    made = workflow(named.trace(), ArgoExport(), CONFIG)
    names = [template["name"] for template in made["spec"]["templates"]]
    assert len(set(names)) == len(names) == 5
    assert json.loads(json.dumps(made)) == made


def test_what_has_to_be_known_before_is_refused() -> None:
    from ganglion.pipelines import TrainingData, train
    from ganglion.workflow.graph import Graph

    graph = Graph("module:made")
    number = graph.add(workers.operation, {}, name="count")
    data: Any = TrainingData
    graph.add(train.operation, {"data": data, "model": dict, "workers": number}, name="model")
    with pytest.raises(SpecError, match="workers is <output of count>"):
        workflow(graph, ArgoExport(), CONFIG)
    graph.nodes["model"].arguments["workers"] = 2
    config = KubernetesConfig(image="a:1", training="tfjob", claims=CONFIG.claims)
    with pytest.raises(SpecError, match="pytorchjob, trainjob"):
        workflow(graph, ArgoExport(), config)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"replicas": 2, "max_replicas": 4}, "give one or the other"),
        ({"max_replicas": 4, "scale_metric": "load"}, "scale_metric is 'load'"),
        ({"max_replicas": 4, "scale_target": 0.5}, "whole number"),
    ],
)
def test_what_is_said_of_replicas_has_to_make_sense_before_anything_runs(given: dict[str, Any], message: str) -> None:
    from ganglion.pipelines import serve
    from ganglion.workflow.graph import Graph

    graph = Graph("module:made")
    graph.add(serve.operation, {"candidates": (), "name": "fashion", **given}, name="served")
    with pytest.raises(UserError, match=message):
        workflow(graph, ArgoExport(), CONFIG)


def test_what_the_exporter_says_of_replicas_goes_first() -> None:
    from ganglion.pipelines import serve
    from ganglion.workflow.graph import Graph

    graph = Graph("module:made")
    graph.add(serve.operation, {"candidates": (), "name": "fashion", "min_replicas": 1, "max_replicas": 4}, name="s")
    config = structs.replace(CONFIG, serving="inferenceservice", max_replicas=9, scale_metric="cpu", scale_target=60)
    made = workflow(graph, ArgoExport(), config)
    (text,) = (template["resource"]["manifest"] for template in made["spec"]["templates"] if "resource" in template)
    predictor = yaml.safe_load(text.replace("{{", "<").replace("}}", ">"))["spec"]["predictor"]
    assert (predictor["minReplicas"], predictor["maxReplicas"]) == (1, 9)
    assert (predictor["scaleMetric"], predictor["scaleTarget"]) == ("cpu", 60)


def test_local_runs_load_no_manifest_libraries() -> None:
    code = (
        "import sys, ganglion, ganglion.platform, ganglion.pipelines, ganglion.cli.main;"
        "print([name for name in ('yaml', 'hera', 'kubernetes', 'ganglion.export', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr
