"""The specs of the processes that serving consists of; pure."""

from __future__ import annotations

from pathlib import Path

from ganglion.artifacts.package import PackageManifest
from ganglion.core.resources import Resources
from ganglion.execution.entry import Entry
from ganglion.execution.spec import OnControlLoss, Service

_GRACE = 30.0
_READINESS_TIMEOUT = 120.0
_GATEWAY_MODULES = ("numpy", "uvloop", "httptools", "orjson", "ganglion.serving.gateway.main")
_REPLICA_MODULES = ("PIL.Image", "ganglion.serving.replica")
_RUNTIME_MODULES = {"onnx": ("numpy", "onnxruntime"), "torch": ("numpy", "torch")}


def gateway_service(job: str, *, host: str, port: int, resources: Resources) -> Service:
    """One gateway process that answers at `host:port`."""
    return Service(
        id=job,
        entry=Entry(path="ganglion.serving.gateway.main:serve"),
        arguments={"host": host, "port": port},
        resources=resources,
        preload=_GATEWAY_MODULES,
        grace=_GRACE,
        on_control_loss=OnControlLoss.STOP,
        labels={"part": "gateway"},
    )


def model_service(
    job: str,
    *,
    model: str,
    version: int,
    folder: Path,
    manifest: PackageManifest,
    replicas: int,
    resources: Resources,
    max_batch: int,
) -> Service:
    """The replicas of one model version.

    Args:
        job: id of the service.
        model: name of the model, for labels.
        version: its version, for labels.
        folder: of its package.
        manifest: of its package.
        replicas: how many.
        resources: what each needs.
        max_batch: instances of the largest batch.
    """
    return Service(
        id=job,
        entry=Entry(path="ganglion.serving.replica:serve"),
        arguments={"folder": str(folder), "max_batch": max_batch},
        resources=resources,
        environment={"ORT_DISABLE_TELEMETRY": "1"},
        preload=(*_RUNTIME_MODULES[manifest.runtime], *_REPLICA_MODULES),
        grace=_GRACE,
        readiness_timeout=_READINESS_TIMEOUT,
        replicas=replicas,
        on_control_loss=OnControlLoss.STOP,
        labels={"part": "replica", "model": model, "version": str(version)},
    )
