"""Containers and pods, the same in every kind."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from ganglion.backends.kubernetes.config import KubernetesConfig
from ganglion.backends.kubernetes.member import MEMBER, READY, REPORT, PodPlan
from ganglion.backends.kubernetes.names import LABEL_PREFIX, label_value
from ganglion.backends.kubernetes.quantities import requirements, seconds
from ganglion.core.errors import SpecError
from ganglion.core.resources import Resources
from ganglion.execution.spec import AnySpec, Gang, Service

Manifest = dict[str, Any]

COMMAND = ("python", "-m", "ganglion.backends.kubernetes.member")

TERMINATION_LOG = "/dev/termination-log"
"""Where Kubernetes takes the last words of a container from."""

READY_FILE = "/tmp/ganglion-ready"
"""Appears in a replica's container once it is ready; the readiness probe looks for it."""

LONGEST_PLAN = 100_000
"""Bytes of a plan in the environment; Linux takes 128 KiB for one variable."""


def literal(text: str) -> str:
    """What Kubernetes reads as `text`: in commands, arguments and variables it replaces `$(NAME)`, and `$$` by `$`."""
    return re.sub(r"\$(?=[$(])", "$$", text)


def metadata(name: str, spec: AnySpec, config: KubernetesConfig, *, queued: bool = False) -> Manifest:
    """Name, namespace and labels of an object; with `queued` those by which Kueue admits it."""
    found: Manifest = {"name": name, "labels": labels(spec)}
    if queued and config.queue:
        found["labels"]["kueue.x-k8s.io/queue-name"] = config.queue
        if config.priority:
            found["labels"]["kueue.x-k8s.io/priority-class"] = config.priority
    if config.namespace:
        found["namespace"] = config.namespace
    return found


def labels(spec: AnySpec) -> dict[str, str]:
    """Those of the spec, and whose objects these are."""
    own = {key if "/" in key else f"{LABEL_PREFIX}{key}": label_value(value) for key, value in spec.labels.items()}
    return {"app.kubernetes.io/managed-by": "ganglion", f"{LABEL_PREFIX}job": label_value(spec.id), **own}


def variables(environment: dict[str, str], config: KubernetesConfig) -> list[Manifest]:
    """The `env` of a container: plain values, then secrets by reference."""
    plain = [{"name": name, "value": literal(value)} for name, value in environment.items()]
    return plain + [
        {"name": secret.variable, "valueFrom": {"secretKeyRef": {"name": secret.name, "key": secret.key}}}
        for secret in config.secrets
        if secret.variable
    ]


def container(
    name: str, environment: dict[str, str], resources: Resources, config: KubernetesConfig, *, who: str
) -> Manifest:
    """A container of the image, without a command.

    Args:
        name: of the container; some operators look for one of a certain name.
        environment: plain variables.
        resources: what it needs.
        config: image, claims, secrets.
        who: whose it is, for errors.
    """
    found: Manifest = {
        "name": name,
        "image": config.image,
        "env": variables(environment, config),
        "resources": requirements(resources, who),
    }
    if whole := [{"secretRef": {"name": secret.name}} for secret in config.secrets if not secret.variable]:
        found["envFrom"] = whole
    if config.claims:
        found["volumeMounts"] = [_mount(index, config) for index in range(len(config.claims))]
    return found


def member(name: str, spec: AnySpec, resources: Resources, config: KubernetesConfig) -> Manifest:
    """The container that runs a member of `spec`."""
    environment = {**spec.numerics.environment(), **spec.environment, REPORT: TERMINATION_LOG}
    if isinstance(spec, Service):
        environment[READY] = READY_FILE
    environment[MEMBER] = encode_plan(spec, config)
    found = container(name, environment, resources, config, who=spec.id)
    found["command"] = list(COMMAND)
    found["terminationMessagePolicy"] = "FallbackToLogsOnError"
    if isinstance(spec, Service):
        found["ports"] = [{"containerPort": config.port, "protocol": "TCP"}]
        check: Manifest = {"exec": {"command": ["test", "-e", READY_FILE]}}
        if config.readiness_path:
            check = {"httpGet": {"path": config.readiness_path, "port": config.port}}
        found["readinessProbe"] = {**check, "periodSeconds": 2}
        found["startupProbe"] = {**check, "periodSeconds": 2, "failureThreshold": seconds(spec.readiness_timeout / 2)}
    return found


def encode_plan(spec: AnySpec, config: KubernetesConfig) -> str:
    """What the container has to know, as JSON.

    Raises:
        SpecError: it is too long for a variable.
    """
    plan = PodPlan(
        job=spec.id,
        entry=spec.entry.path,
        arguments=spec.arguments,
        import_path=spec.import_path,
        roles={role.name: role.count for role in spec.roles} if isinstance(spec, Gang) else {},
        port=config.port if isinstance(spec, Service) else 0,
    )
    text = msgspec.json.encode(plan).decode()
    if len(text) > LONGEST_PLAN:
        raise SpecError(
            f"{spec.id}: its arguments take {len(text)} bytes as JSON; a manifest holds {LONGEST_PLAN}. Put the data "
            "into a file or the artifact store and pass its name."
        )
    return text


def pod(containers: list[Manifest], spec: AnySpec, config: KubernetesConfig, *, restart: str | None) -> Manifest:
    """The template of a pod.

    Args:
        containers: in it.
        spec: grace and labels.
        config: claims, node selector, service account.
        restart: its restart policy; `None` where the kind says it elsewhere.
    """
    found: Manifest = {
        "containers": containers,
        "terminationGracePeriodSeconds": seconds(spec.grace),
        **placement(config),
    }
    if restart is not None:
        found["restartPolicy"] = restart
    return {"metadata": {"labels": labels(spec)}, "spec": found}


def placement(config: KubernetesConfig) -> Manifest:
    """What a pod says about volumes, nodes and rights."""
    found: Manifest = {}
    if config.claims:
        found["volumes"] = volumes(config)
    if config.node_selector:
        found["nodeSelector"] = dict(config.node_selector)
    if config.service_account:
        found["serviceAccountName"] = config.service_account
    return found


def volumes(config: KubernetesConfig) -> list[Manifest]:
    """The claims as volumes."""
    return [
        {"name": f"claim-{index}", "persistentVolumeClaim": {"claimName": claim.name}}
        for index, claim in enumerate(config.claims)
    ]


def _mount(index: int, config: KubernetesConfig) -> Manifest:
    claim = config.claims[index]
    mount: Manifest = {"name": f"claim-{index}", "mountPath": claim.path}
    return {**mount, "readOnly": True} if claim.read_only else mount
