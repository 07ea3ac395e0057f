"""Steps that other controllers carry out: templates that create their objects and wait for them; pure."""

from __future__ import annotations

import inspect
from types import NoneType
from typing import Any

import msgspec

from ganglion.backends.kubernetes.config import KubernetesConfig
from ganglion.backends.kubernetes.render import render
from ganglion.core.errors import SpecError
from ganglion.core.resources import Resources
from ganglion.execution.entry import Entry
from ganglion.execution.spec import Gang, OnControlLoss, Role, Service
from ganglion.export.documents import to_yaml
from ganglion.export.naming import RUN_LABEL, step_name
from ganglion.export.order import StepOrder
from ganglion.pipelines.serve import step_options
from ganglion.serving.options import ServingOptions
from ganglion.workflow.graph import Node
from ganglion.workflow.operation import HostedOperation

Manifest = dict[str, Any]

_GATEWAY = Resources(cpu=0.1)

_FAILED = ", ".join(f"status.conditions.{index}.type == Failed" for index in range(5))
"""Argo fails a resource when one of several failure conditions holds; where among the conditions of a job its failure
stands depends on how far the job came."""

_SUCCEEDED = {
    "pytorchjob": "status.replicaStatuses.Master.succeeded == 1",
    "trainjob": "status.jobsStatus.0.succeeded == 1",
}


def training_resource(node: Node, order: StepOrder, home: dict[str, str], config: KubernetesConfig) -> Manifest:
    """A gang of pods that train together; the first one leaves the result on the volume.

    Raises:
        SpecError: the workers are not known yet, or the kind of job cannot train it.
    """
    if config.training not in _SUCCEEDED:
        raise SpecError(
            f"Step {node.name!r} trains with torch, which a {config.training} does not start; use one of: "
            f"{', '.join(_SUCCEEDED)}."
        )
    options = node.options
    gang = Gang(
        id=step_name(node.name),
        entry=Entry(path="ganglion.export.pod:train"),
        arguments=_arguments(order, retried=bool(options.retries)),
        resources=Resources(
            cpu=_literal(node, "cpu", float, int), memory=options.resources.memory, gpu=options.resources.gpu
        ),
        roles=(Role(count=_literal(node, "workers", int)),),
        environment={**options.environment, **home},
        timeout=options.timeout,
        labels={"step": node.name},
    )
    (manifest,) = render(gang, config)
    metadata = manifest["metadata"]
    metadata["generateName"] = f"{order.run}-{metadata.pop('name')}-"
    return {
        "resource": {
            "action": "create",
            "setOwnerReference": True,
            "successCondition": _SUCCEEDED[config.training],
            "failureCondition": _FAILED,
            "manifest": _text(manifest, order),
        },
        "outputs": {"parameters": [_run_output()]},
    }


def serving_resource(node: Node, order: StepOrder, home: dict[str, str], config: KubernetesConfig) -> Manifest:
    """An InferenceService that outlives the workflow and is replaced by that of the next one.

    Raises:
        SpecError: name, cores or what is said of replicas are not known yet.
        UserError: what is said of replicas contradicts itself.
    """
    name = _literal(node, "name", str)
    options = _serving_options(node)
    service = Service(
        id=name,
        entry=Entry(path="ganglion.export.pod:serve"),
        arguments={**_arguments(order, retried=False), "port": config.port},
        resources=options.resources + _GATEWAY,
        replicas=max(1, options.min_replicas),
        environment={**node.options.environment, **home},
        readiness_timeout=300.0,
        grace=30.0,
        on_control_loss=OnControlLoss.CONTINUE,
        labels={"step": node.name},
    )
    serving = msgspec.structs.replace(
        _scaled(config, options), serving="inferenceservice", readiness_path=f"/v1/models/{name}"
    )
    (manifest,) = render(service, serving)
    return {
        "resource": {
            "action": "apply",
            "successCondition": "status.modelStatus.states.activeModelState == Loaded",
            "failureCondition": "status.modelStatus.transitionStatus in (BlockedByFailedLoad, InvalidSpec)",
            "manifest": _text(manifest, order),
        },
        "outputs": {"parameters": [_run_output(), {"name": "url", "valueFrom": {"jsonPath": "{.status.address.url}"}}]},
    }


def _serving_options(node: Node) -> ServingOptions:
    """How each model of the step is served, from its arguments."""
    return step_options(
        replicas=_literal(node, "replicas", int, NoneType),
        cpu=_literal(node, "cpu", float, int),
        min_replicas=_literal(node, "min_replicas", int, NoneType),
        max_replicas=_literal(node, "max_replicas", int, NoneType),
        scale_metric=_literal(node, "scale_metric", str),
        scale_target=_literal(node, "scale_target", float, int, NoneType),
        container_concurrency=_literal(node, "container_concurrency", int),
    )


def _scaled(config: KubernetesConfig, options: ServingOptions) -> KubernetesConfig:
    """The configuration with what the step says of replicas, where it does not say so itself.

    Raises:
        SpecError: the target is no whole number, which KServe takes only.
    """
    scaling: dict[str, Any] = {"min_replicas": options.min_replicas, "max_replicas": options.max_replicas}
    if options.elastic:
        if options.target != int(options.target):
            raise SpecError(f"scale_target is {options.target:g}; an InferenceService takes a whole number.")
        scaling |= {"scale_metric": options.scale_metric, "scale_target": int(options.target)}
    if options.container_concurrency:
        scaling["concurrency"] = options.container_concurrency
    untold = KubernetesConfig()
    given = {name: value for name, value in scaling.items() if getattr(config, name) == getattr(untold, name)}
    if config.scale_metric:
        given.pop("scale_target", None)  # that of another metric
    return msgspec.structs.replace(config, **given)


def _run_output() -> Manifest:
    return {"name": "run", "valueFrom": {"jsonPath": f"{{.metadata.labels.{RUN_LABEL}}}"}}


def _arguments(order: StepOrder, *, retried: bool) -> dict[str, Any]:
    arguments: dict[str, Any] = msgspec.to_builtins(order)
    return {**arguments, "retries": "{{retries}}"} if retried else arguments


def _text(manifest: Manifest, order: StepOrder) -> str:
    """The manifest as Argo takes it: text, in which it replaces the name of the workflow and the parameters."""
    manifest["metadata"]["labels"][RUN_LABEL] = order.run
    return to_yaml(manifest)


def _literal(node: Node, name: str, *kinds: type) -> Any:
    """An argument of the step that has to be known before anything has run."""
    operation = node.operation
    assert isinstance(operation, HostedOperation), "training and serving are functions with a host"
    default = inspect.signature(operation.function).parameters[name].default
    value = node.arguments.get(name, default)
    if type(value) not in kinds:
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise SpecError(
            f"Step {node.name!r}: {name} is {value!r}; a manifest needs its value ({wanted}) before any step."
        )
    return value
