"""Every kind that is rendered, as it is checked in beside this file.

After a wanted change, `python tests/golden/kubernetes/test_manifests.py` writes the files anew; review the difference.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ganglion.backends.kubernetes.config import Claim, KubernetesConfig, Secret
from ganglion.backends.kubernetes.render import render
from ganglion.core.registry import load_file
from ganglion.core.resources import Resources
from ganglion.execution.entry import Entry
from ganglion.execution.spec import Gang, Numerics, OnControlLoss, Restart, Role, Service, Task
from ganglion.export.argo import ArgoExport, workflow
from ganglion.export.documents import to_yaml
from ganglion.pipelines import serve
from ganglion.workflow.graph import Graph

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
VALIDATOR = ROOT.parent / "shared" / "kubernetes" / "validate.py"

VOLUME = Claim(name="ganglion", path="/ganglion")
CLUSTER: dict[str, Any] = {
    "image": "registry.example/team/model:1",
    "namespace": "team",
    "queue": "team-queue",
    "priority": "high",
    "service_account": "trainer",
    "claims": (VOLUME, Claim(name="datasets", path="/data", read_only=True)),
    "secrets": (Secret(name="database", variable="DATABASE_URL", key="url"),),
    "node_selector": {"disk": "fast"},
}
ENTRY = Entry(path="project.work:main")
WORK: dict[str, Any] = {
    "entry": ENTRY,
    "arguments": {"rate": 0.5, "price": "$(HOME) and $$", "names": ["a", "b"]},
    "resources": Resources(cpu=0.5, memory=512 * 2**20, gpu=1),
    "environment": {"MODE": "fast"},
    "numerics": Numerics(threads=2, instructions="avx2"),
    "labels": {"run": "run-1", "step": "plain"},
}
FOREVER: dict[str, Any] = {**WORK, "replicas": 3, "on_control_loss": OnControlLoss.CONTINUE}


def job() -> Any:
    return render(Task(id="Run 1/ingest", timeout=90.5, **WORK), KubernetesConfig(**CLUSTER))


def trainjob() -> Any:
    gang = Gang(id="plain", roles=(Role(count=4),), timeout=3600, **WORK)
    return render(gang, KubernetesConfig(training="trainjob", **CLUSTER))


def pytorchjob() -> Any:
    whole = (*CLUSTER["secrets"], Secret(name="bucket"))
    roles = (Role(name="chief", resources=Resources(cpu=2)), Role(count=3))
    gang = Gang(id="plain", roles=roles, timeout=3600, **WORK)
    return render(gang, KubernetesConfig(training="pytorchjob", **{**CLUSTER, "secrets": whole}))


def pytorchjob_elastic() -> Any:
    gang = Gang(id="plain", roles=(Role(count=4, minimum=2),), restart=Restart(budget=10), **WORK)
    return render(gang, KubernetesConfig(training="pytorchjob", **CLUSTER))


def tfjob() -> Any:
    roles = (Role(name="chief"), Role(count=2), Role(name="ps", count=2, completes=False), Role(name="evaluator"))
    return render(Gang(id="wide", roles=roles, **WORK), KubernetesConfig(training="tfjob", **CLUSTER))


def tfjob_workers() -> Any:
    return render(Gang(id="wide", roles=(Role(count=2),), **WORK), KubernetesConfig(training="tfjob", **CLUSTER))


def deployment() -> Any:
    return render(Service(id="fashion", **FOREVER), KubernetesConfig(**CLUSTER))


def inferenceservice() -> Any:
    scaling: dict[str, Any] = {
        "min_replicas": 0,
        "max_replicas": 6,
        "scale_metric": "concurrency",
        "scale_target": 8,
        "concurrency": 16,
        "storage": "pvc://ganglion/models/fashion/1",
    }
    return render(Service(id="fashion", **FOREVER), KubernetesConfig(serving="inferenceservice", **scaling, **CLUSTER))


def inferenceservice_url() -> Any:
    config = KubernetesConfig(
        image="model:1", serving="inferenceservice", storage="s3://bucket/models/fashion", readiness_path="/readyz"
    )
    return render(Service(id="fashion", entry=ENTRY, on_control_loss=OnControlLoss.CONTINUE), config)


def fashion_mnist(training: str = "pytorchjob") -> Any:
    graph = load_file(ROOT / "recipes" / "fashion_mnist.py").reference.trace(["epochs=3"])
    export = ArgoExport(parameters=("epochs=3",), code="0" * 64)
    config = KubernetesConfig(image="registry.example/team/fashion:1", training=training, claims=(VOLUME,))
    return (workflow(graph, export, config),)


def fashion_mnist_trainjob() -> Any:
    return fashion_mnist("trainjob")


def elastic_service() -> Any:
    """A serving step whose replicas follow the load, as the workflow creates it."""
    graph = Graph("module:made")
    scaling = {"min_replicas": 0, "max_replicas": 6, "scale_metric": "rps", "scale_target": 50}
    graph.add(serve.operation, {"candidates": (), "name": "fashion", "container_concurrency": 4, **scaling}, name="s")
    config = KubernetesConfig(image="registry.example/team/fashion:1", training="pytorchjob", claims=(VOLUME,))
    return tuple(resources_of(workflow(graph, ArgoExport(code="0" * 64), config)))


CASES: dict[str, Callable[[], Any]] = {
    case.__name__.replace("_", "-"): case
    for case in (
        job,
        trainjob,
        pytorchjob,
        pytorchjob_elastic,
        tfjob,
        tfjob_workers,
        deployment,
        inferenceservice,
        inferenceservice_url,
        fashion_mnist,
        fashion_mnist_trainjob,
        elastic_service,
    )
}


def validate(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(VALIDATOR), "--crds", str(VALIDATOR.with_name("schemas.json")), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def resources_of(manifest: Any) -> Iterator[Any]:
    """What the resource templates of a workflow create, with what Argo fills in."""
    for template in manifest["spec"]["templates"]:
        if "resource" in template:
            text = re.sub(r"\{\{[a-z_.-]+\}\}", "reference-x7k2p", template["resource"]["manifest"])
            yield yaml.safe_load(text)


@pytest.mark.parametrize("name", CASES)
def test_the_manifest_is_the_one_checked_in(name: str) -> None:
    assert to_yaml(*CASES[name]()) == (HERE / f"{name}.yaml").read_text()


@pytest.mark.skipif(not VALIDATOR.exists(), reason="the schemas of the cluster's controllers are not there")
def test_the_api_server_would_accept_every_one(tmp_path: Path) -> None:
    for name in CASES:
        text = (HERE / f"{name}.yaml").read_text()
        (tmp_path / f"{name}.yaml").write_text(text)
        for number, manifest in enumerate(yaml.safe_load_all(text)):
            for inner, resource in enumerate(resources_of(manifest) if manifest["kind"] == "Workflow" else ()):
                (tmp_path / f"{name}-{number}-{inner}.yaml").write_text(yaml.safe_dump(resource))
    done = validate(tmp_path)
    assert done.returncode == 0, done.stdout
    assert done.stdout.split() == ["{'ok':", f"{len(list(tmp_path.iterdir())) + 1}}}"]  # a Deployment has its Service

    broken = yaml.safe_load((HERE / "pytorchjob.yaml").read_text())
    broken["spec"]["elasticPolicie"] = {}
    (tmp_path / "broken.yaml").write_text(yaml.safe_dump(broken))
    assert validate(tmp_path).returncode == 1  # it can tell


@pytest.mark.parametrize("name", ["fashion-mnist", "fashion-mnist-trainjob"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the library that reads them
def test_another_reader_of_argo_understands_the_workflow(name: str) -> None:
    from hera.workflows.models import Workflow

    text = (HERE / f"{name}.yaml").read_text()
    read = Workflow.parse_obj(yaml.safe_load(text))
    templates = {template.name: template for template in read.spec.templates}
    assert read.spec.entrypoint in templates
    assert {task.template for task in templates[read.spec.entrypoint].dag.tasks} < templates.keys()
    assert json.loads(read.json(exclude_none=True, by_alias=True)) == yaml.safe_load(text)


def test_names_that_controllers_append_to_stay_dns_labels() -> None:
    for resource in resources_of(fashion_mnist()[0]):
        meta = resource["metadata"]
        name = f"{meta['generateName']}abcde-worker-10" if "generateName" in meta else f"{meta['name']}-predictor"
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
        assert len(name) <= 63


if __name__ == "__main__":
    os.chdir(ROOT)
    for case_name, case in CASES.items():
        (HERE / f"{case_name}.yaml").write_text(to_yaml(*case()))
