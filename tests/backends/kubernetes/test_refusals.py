"""What cannot run on Kubernetes, or not as it says, is refused with the reason."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from ganglion.backends.kubernetes.config import Claim, KubernetesConfig, Secret
from ganglion.backends.kubernetes.render import render
from ganglion.core.config import convert
from ganglion.core.errors import ConfigurationError, SpecError
from ganglion.core.resources import Resources
from ganglion.execution.entry import Entry
from ganglion.execution.spec import NEVER, AnySpec, Gang, OnControlLoss, Role, Service, Task

ENTRY = Entry(path="project.work:main")


def task(**fields: Any) -> Task:
    return Task(**{"id": "work", "entry": ENTRY, **fields})


def gang(*roles: Role, **fields: Any) -> Gang:
    return Gang(id="train", entry=ENTRY, roles=roles or (Role(count=2),), **fields)


def service(**fields: Any) -> Service:
    return Service(**{"id": "model", "entry": ENTRY, "on_control_loss": OnControlLoss.CONTINUE, **fields})


def given(**fields: Any) -> KubernetesConfig:
    return KubernetesConfig(**{"image": "registry.example/model:1", **fields})


def inference(**fields: Any) -> KubernetesConfig:
    return given(serving="inferenceservice", **fields)


Case = tuple[Callable[[], AnySpec], KubernetesConfig, str]

WRONG: dict[str, Case] = {
    "pickled entry": (lambda: task(entry=Entry(pickled=b"x")), given(), "Put it into a module"),
    "half a GPU": (lambda: task(resources=Resources(gpu=0.5)), given(), "whole GPUs"),
    "no CPU": (lambda: task(resources=Resources(cpu=0)), given(), "at least 0.001"),
    "bytes in place of mebibytes": (lambda: task(resources=Resources(memory=512)), given(), "unit missing"),
    "half a GPU for one role": (lambda: gang(Role(resources=Resources(gpu=0.25))), given(), "whole GPUs"),
    "name without a letter": (lambda: task(id="---"), given(), "at least one letter"),
    "name in another script": (lambda: task(id="训练"), given(), "at least one letter"),
    "variable with a dash": (lambda: task(environment={"MY-VAR": "1"}), given(), "cannot name a variable"),
    "variable of the operator": (lambda: gang(environment={"RANK": "0"}), given(), "leave it out"),
    "secret in plain": (lambda: task(environment={"DB_PASSWORD": "x"}), given(), "Create a Secret"),
    "token in plain": (lambda: task(environment={"hf_token": "x"}), given(), "Create a Secret"),
    "plain and secret": (
        lambda: task(environment={"DSN": "x"}),
        given(secrets=(Secret(name="db", variable="DSN", key="dsn"),)),
        "keep the secret",
    ),
    "relative import path": (lambda: task(import_path=("src",)), given(), "absolute"),
    "bytes as an argument": (lambda: task(arguments={"a": [{"b": b"x"}]}), given(), r"arguments\['a'\]\[0\]\['b'\]"),
    "NaN as an argument": (lambda: task(arguments={"a": math.nan}), given(), "JSON cannot say"),
    "number as a key": (lambda: task(arguments={"a": {1: 2}}), given(), "keys have to be text"),
    "arguments too long": (lambda: task(arguments={"a": "x" * 200_000}), given(), "artifact store"),
    "sign of life": (lambda: task(lost_after=5.0), given(), "leave it unset"),
    "admission deadline": (lambda: gang(admission_timeout=5.0), given(), "as long as it takes"),
    "endless grace": (lambda: task(grace=math.inf), given(), "finite"),
    "negative timeout": (lambda: task(timeout=-1.0), given(), "at least 0"),
    "unknown role of a TFJob": (lambda: gang(Role(name="wroker")), given(training="tfjob"), "Did you mean 'worker'"),
    "parameter servers in a PyTorchJob": (
        lambda: gang(Role(), Role(name="ps", completes=False)),
        given(training="pytorchjob"),
        "no role 'ps'",
    ),
    "chief in a TrainJob": (lambda: gang(Role(name="chief"), Role()), given(), "no role 'chief'"),
    "two chiefs": (lambda: gang(Role(name="chief", count=2)), given(training="tfjob"), "a gang has one"),
    "one role twice": (lambda: gang(Role(), Role()), given(), "different names"),
    "chief after workers": (lambda: gang(Role(), Role(name="chief")), given(training="pytorchjob"), "first role"),
    "two evaluators": (
        lambda: gang(Role(), Role(name="evaluator", count=2)),
        given(training="tfjob"),
        "a TFJob has one",
    ),
    "parameter servers alone": (
        lambda: gang(Role(name="ps", completes=False)),
        given(training="tfjob"),
        "needs a chief or workers",
    ),
    "parameter servers that end": (
        lambda: gang(Role(), Role(name="ps")),
        given(training="tfjob"),
        "completes=True",
    ),
    "minimum of a TrainJob": (lambda: gang(Role(count=4, minimum=2)), given(), "training='pytorchjob'"),
    "minimum of a TFJob": (lambda: gang(Role(count=4, minimum=2)), given(training="tfjob"), "starts with all"),
    "minimum beside a chief": (
        lambda: gang(Role(name="chief"), Role(count=4, minimum=2)),
        given(training="pytorchjob"),
        "nothing but workers",
    ),
    "minimum of nobody": (lambda: gang(Role(minimum=0)), given(training="pytorchjob"), "at least 1"),
    "minimum above count": (lambda: gang(Role(count=1, minimum=2)), given(), "minimum <= count"),
    "all keys of a secret in a TrainJob": (gang, given(secrets=(Secret(name="db"),)), "a variable and a key"),
    "service that stops with its controller": (
        lambda: service(on_control_loss=OnControlLoss.STOP),
        given(),
        "on_control_loss='continue'",
    ),
    "service that is not restarted": (lambda: service(restart=NEVER), given(), "restart=ALWAYS"),
    "service with an end": (lambda: service(timeout=60.0), given(), "until it is deleted"),
    "negative replicas": (lambda: service(replicas=-1), given(), "-1 replicas"),
    "fewer replicas than the minimum": (service, inference(min_replicas=3), "min_replicas is 3"),
    "no image": (task, given(image=""), "name the container image"),
    "image with a space": (task, given(image="a b"), "name the container image"),
    "namespace": (task, given(namespace="My_Team"), "DNS label"),
    "queue": (task, given(queue="a/b"), "DNS label"),
    "priority without a queue": (task, given(priority="high"), "name the queue too"),
    "claim at a relative path": (task, given(claims=(Claim(name="a", path="data"),)), "absolute path"),
    "two claims at one path": (
        task,
        given(claims=(Claim(name="a", path="/data"), Claim(name="b", path="/data"))),
        "path of its own",
    ),
    "one claim twice": (task, given(claims=(Claim(name="a", path="/a"), Claim(name="a", path="/b"))), "declared twice"),
    "secret without a key": (task, given(secrets=(Secret(name="db", variable="DSN"),)), "give both"),
    "secret as a bad variable": (task, given(secrets=(Secret(name="db", variable="1", key="a"),)), "cannot be the var"),
    "scale metric": (service, inference(scale_metric="request", scale_target=1), "Allowed: concurrency, cpu"),
    "scale metric without a target": (service, inference(scale_metric="rps"), "belong together"),
    "scale target of nothing": (service, inference(scale_metric="rps", scale_target=0), "at least 1"),
    "negative minimum of replicas": (service, inference(min_replicas=-1), "at least 0"),
    "maximum below minimum": (service, inference(min_replicas=2, max_replicas=1), "at least min_replicas"),
    "negative concurrency": (service, inference(concurrency=-1), "no limit"),
    "port": (service, given(port=70000), "1 to 65535"),
    "scaling of a Deployment": (service, given(min_replicas=1), "serving='inferenceservice'"),
    "storage that is a path": (service, inference(storage="/models"), "pvc://CLAIM/PATH"),
    "claim that is not declared": (
        service,
        inference(storage="pvc://model/a", claims=(Claim(name="models", path="/m"),)),
        "Did you mean 'models'",
    ),
    "label of a node": (task, given(node_selector={"disk type": "ssd"}), "not a label"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_refused_with_what_to_do(name: str) -> None:
    make, config, message = WRONG[name]
    with pytest.raises(SpecError, match=message):
        render(make(), config)


def test_what_is_right_is_rendered() -> None:
    assert [made["kind"] for made in render(task(), given())] == ["Job"]
    assert [made["kind"] for made in render(gang(), given())] == ["TrainJob"]
    assert [made["kind"] for made in render(service(), given())] == ["Deployment", "Service"]
    assert [made["kind"] for made in render(service(), inference())] == ["InferenceService"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"imgae": "a"}, "Did you mean 'image'"),
        ({"training": "mpijob"}, "mpijob"),
        ({"serving": "knative"}, "knative"),
        ({"claims": [{"name": "a"}]}, "path"),
    ],
)
def test_a_configuration_that_is_wrong_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        convert(KubernetesConfig, values, where="kubernetes")
