"""What a manifest cannot keep of a spec, or of a configuration, is refused with the reason; pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

from ganglion.backends.kubernetes.config import KubernetesConfig
from ganglion.backends.kubernetes.names import is_dns_label
from ganglion.core.errors import SpecError, suggest
from ganglion.execution.spec import AnySpec, Gang, OnControlLoss, Service

SCALE_METRICS = ("concurrency", "cpu", "memory", "rps")
"""What KServe scales by."""

RESERVED = (
    "GANGLION_MEMBER",
    "GANGLION_REPORT",
    "GANGLION_READY",
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
    "TF_CONFIG",
)
"""Variables that the operators, or the member itself, set."""

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET_WORDS = re.compile(
    r"(PASSWORD|PASSWD|SECRET|TOKEN|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY)", re.IGNORECASE
)
_KEY = re.compile(r"[-._A-Za-z0-9]+")
_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^\s]+")
_SELECTOR = re.compile(r"([a-z0-9.-]+/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")


def check_config(config: KubernetesConfig) -> None:
    """Refuse a configuration from which no manifest can be made.

    Raises:
        SpecError: the message names the field, what it has to be and what it is.
    """
    if not config.image or any(character.isspace() for character in config.image):
        raise SpecError(f"image is {config.image!r}; name the container image, such as registry.example/team/model:1.")
    for field in ("namespace", "queue", "priority", "service_account", "runtime"):
        value = getattr(config, field)
        if (value or field == "runtime") and not is_dns_label(value):
            raise SpecError(f"{field} is {value!r}; it has to be a DNS label: a-z, 0-9 and '-', at most 63 characters.")
    if config.priority and not config.queue:
        raise SpecError(f"priority is {config.priority!r} without a queue; only Kueue knows it, so name the queue too.")
    _check_claims(config)
    _check_secrets(config)
    _check_scaling(config)
    _check_storage(config)
    for key, value in config.node_selector.items():
        if not _SELECTOR.fullmatch(key) or not re.fullmatch(r"[-A-Za-z0-9_.]{0,63}", value):
            raise SpecError(f"node_selector {key!r}={value!r} is not a label of a node.")


def check_spec(spec: AnySpec, config: KubernetesConfig) -> None:
    """Refuse what Kubernetes cannot keep of `spec`.

    Raises:
        SpecError: the message says what and what to do.
    """
    if not spec.entry.path:
        raise SpecError(
            f"{spec.id}: {spec.entry} cannot run on Kubernetes: a container imports it from its image. Put it into a "
            "module of the project."
        )
    _check_plain(spec.arguments, f"{spec.id}: arguments")
    _check_environment(spec.environment, spec.id, config)
    for folder in spec.import_path:
        if not folder.startswith("/"):
            raise SpecError(f"{spec.id}: import_path holds {folder!r}; folders of the image have to be absolute.")
    if spec.lost_after is not None:
        raise SpecError(
            f"{spec.id}: lost_after is {spec.lost_after:g} s, but nothing listens for signs of life of a pod that was "
            "started from a manifest; leave it unset."
        )
    if spec.admission_timeout is not None:
        raise SpecError(
            f"{spec.id}: admission_timeout is {spec.admission_timeout:g} s; a queue of Kubernetes waits as long as it "
            "takes. Leave it unset."
        )
    for name in ("timeout", "grace"):
        value = getattr(spec, name)
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise SpecError(f"{spec.id}: {name} is {value} s; a finite number of at least 0 is needed.")
    if isinstance(spec, Service):
        _check_service(spec, config)


def _check_service(spec: Service, config: KubernetesConfig) -> None:
    if spec.replicas < 0:
        raise SpecError(f"{spec.id}: {spec.replicas} replicas; at least 0 are needed.")
    if spec.timeout is not None:
        raise SpecError(
            f"{spec.id}: timeout is {spec.timeout:g} s, but the pods of a service live until it is deleted."
        )
    if spec.restart.budget != -1:
        raise SpecError(
            f"{spec.id}: a restart budget of {spec.restart.budget}; Kubernetes always restarts the pods of a service. "
            "Use restart=ALWAYS."
        )
    if spec.on_control_loss is not OnControlLoss.CONTINUE:
        raise SpecError(
            f"{spec.id}: on_control_loss is 'stop', but a service that was started from a manifest has no controller "
            "of Ganglion that it could lose. Say on_control_loss='continue'."
        )
    if config.min_replicas is not None and config.min_replicas > spec.replicas and config.max_replicas is None:
        raise SpecError(
            f"{spec.id}: min_replicas is {config.min_replicas}, but the service has {spec.replicas} replicas."
        )


def check_roles(spec: Gang, allowed: Iterable[str], kind: str, *, elastic: bool = False) -> None:
    """Refuse roles that the kind does not know, two chiefs, and a minimum where it cannot be kept.

    Raises:
        SpecError: the message says what is wrong.
    """
    names = [role.name for role in spec.roles]
    if not names or len(set(names)) != len(names):
        raise SpecError(f"{spec.id}: a gang needs roles of different names; given: {', '.join(names) or 'none'}.")
    for role in spec.roles:
        if role.name not in allowed:
            raise SpecError(f"{spec.id}: a {kind} has no role {role.name!r}. {suggest(role.name, allowed)}")
        if role.name == "chief" and role.count != 1:
            raise SpecError(f"{spec.id}: {role.count} chiefs; a gang has one.")
        if role.least != role.count and not elastic:
            raise SpecError(
                f"{spec.id}: role {role.name!r} may start with {role.least} of {role.count} members; a {kind} starts "
                "with all. Leave `minimum` unset, or use training='pytorchjob', which grows."
            )


def _check_plain(value: Any, where: str) -> None:
    """Refuse what JSON would change."""
    if value is None or isinstance(value, (bool, str, int)):
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            raise SpecError(f"{where} holds {value}, which JSON cannot say.")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _check_plain(item, f"{where}[{index}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise SpecError(f"{where} has the key {key!r}; keys have to be text.")
            _check_plain(item, f"{where}[{key!r}]")
    else:
        raise SpecError(f"{where} holds a {type(value).__name__}; only plain data can stand in a manifest.")


def _check_environment(variables: dict[str, str], who: str, config: KubernetesConfig) -> None:
    given = {secret.variable for secret in config.secrets}
    for name in variables:
        if not _VARIABLE.fullmatch(name):
            raise SpecError(f"{who}: {name!r} cannot name a variable; use letters, digits and '_', no digit first.")
        if name in RESERVED:
            raise SpecError(f"{who}: the variable {name} is set by whoever starts the gang; leave it out.")
        if name in given:
            raise SpecError(f"{who}: the variable {name} is given in plain and as a secret; keep the secret.")
        if _SECRET_WORDS.search(name):
            raise SpecError(
                f"{who}: the variable {name} looks like a secret, and a manifest would show it. Create a Secret in the "
                f"cluster and refer to it: secrets=[{{'name': ..., 'variable': '{name}', 'key': ...}}]."
            )


def _check_claims(config: KubernetesConfig) -> None:
    paths: set[str] = set()
    names: set[str] = set()
    for claim in config.claims:
        if not is_dns_label(claim.name) or claim.name in names:
            raise SpecError(f"The claim {claim.name!r} is not a DNS label, or is declared twice.")
        if not claim.path.startswith("/") or claim.path == "/" or ":" in claim.path or claim.path in paths:
            raise SpecError(
                f"The claim {claim.name!r} is mounted at {claim.path!r}; an absolute path of its own is needed."
            )
        names.add(claim.name)
        paths.add(claim.path)


def _check_secrets(config: KubernetesConfig) -> None:
    for secret in config.secrets:
        if not is_dns_label(secret.name):
            raise SpecError(f"{secret.name!r} cannot be the name of a Secret: a-z, 0-9 and '-', at most 63 characters.")
        if bool(secret.variable) != bool(secret.key):
            raise SpecError(
                f"The secret {secret.name!r} has a variable without a key, or a key without a variable; give both, or "
                "neither for all of its keys."
            )
        if secret.variable and (not _VARIABLE.fullmatch(secret.variable) or secret.variable in RESERVED):
            raise SpecError(f"The secret {secret.name!r} cannot be the variable {secret.variable!r}.")
        if secret.key and not _KEY.fullmatch(secret.key):
            raise SpecError(f"The secret {secret.name!r} cannot have the key {secret.key!r}.")


def _check_scaling(config: KubernetesConfig) -> None:
    if config.scale_metric and config.scale_metric not in SCALE_METRICS:
        raise SpecError(f"scale_metric is {config.scale_metric!r}. {suggest(config.scale_metric, SCALE_METRICS)}")
    if config.scale_target is not None and config.scale_target < 1:
        raise SpecError(f"scale_target is {config.scale_target}; at least 1 is needed.")
    if bool(config.scale_metric) != (config.scale_target is not None):
        raise SpecError("scale_metric and scale_target belong together; give both or neither.")
    low, high = config.min_replicas, config.max_replicas
    if low is not None and low < 0:
        raise SpecError(f"min_replicas is {low}; at least 0 is needed (0 lets a service sleep while nobody asks).")
    if (high and high < max(1, low or 0)) or (high or 0) < 0:
        raise SpecError(f"max_replicas is {high}; it has to be at least min_replicas ({low or 0}), or 0 for no limit.")
    if config.concurrency < 0:
        raise SpecError(f"concurrency is {config.concurrency}; 0 means no limit.")
    if not 0 < config.port < 65536:
        raise SpecError(f"port is {config.port}; it has to be from 1 to 65535.")
    inference = (low, high, config.scale_metric or None, config.concurrency or None, config.storage or None)
    if config.serving != "inferenceservice" and any(value is not None for value in inference):
        raise SpecError(
            "min_replicas, max_replicas, scale_metric, scale_target, concurrency and storage belong to an "
            "InferenceService; say serving='inferenceservice'."
        )


def _check_storage(config: KubernetesConfig) -> None:
    if not config.storage:
        return
    if not _URL.fullmatch(config.storage):
        raise SpecError(f"storage is {config.storage!r}; write pvc://CLAIM/PATH or a URL such as s3://bucket/path.")
    scheme, _, rest = config.storage.partition("://")
    claim = rest.partition("/")[0]
    if scheme == "pvc" and claim not in [declared.name for declared in config.claims]:
        raise SpecError(
            f"storage is {config.storage!r}, but no claim {claim!r} is declared. "
            f"{suggest(claim, [declared.name for declared in config.claims])}"
        )
