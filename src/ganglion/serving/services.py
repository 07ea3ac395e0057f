"""The specs of the processes that serving consists of; pure."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ganglion.artifacts.package import PackageManifest
from ganglion.core.resources import Resources
from ganglion.execution.entry import Entry
from ganglion.execution.spec import OnControlLoss, Service

_GRACE = 30.0
_REPLICA_GRACE = 5.0
"""Seconds for a replica to end: gateways have left it when it is asked to, so it holds nothing."""

_LOST_AFTER = 20.0
"""Seconds without a sign of life after which a process is replaced; its samples come every other second."""

_READINESS_TIMEOUT = 120.0
_GATEWAY_MODULES = ("numpy", "uvloop", "httptools", "orjson", "ganglion.serving.gateway.main")
_REPLICA_MODULES = ("ganglion.serving.replica",)
_IMAGE_MODULES = ("PIL.Image", "ganglion.serving.preprocess")
_RUNTIME_MODULES = {
    "onnx": ("numpy", "ganglion.serving.runtimes.onnx", "ganglion.serving.runtimes.onnx_rehearsal"),
    "torch": ("numpy", "torch"),
}


def serving_modules(manifests: Iterable[PackageManifest]) -> tuple[str, ...]:
    """What the processes that serve these models import, gateways included: loaded in one place, they share it."""
    needed = {module for manifest in manifests for module in _replica_modules(manifest)}
    return tuple(sorted(needed.union(_GATEWAY_MODULES)))


def gateway_service(
    job: str, *, door: str, gateways: int, resources: Resources, access_log: Path | None = None
) -> Service:
    """Gateway processes that answer at the port that is to be had at `door`, and note requests in a file if given."""
    return Service(
        id=job,
        entry=Entry(path="ganglion.serving.gateway.main:serve"),
        arguments={
            "door": door,
            "gateways": gateways,
            "access_log": str(access_log.absolute()) if access_log is not None else "",
        },
        resources=resources,
        preload=_GATEWAY_MODULES,
        grace=_GRACE,
        lost_after=_LOST_AFTER,
        replicas=gateways,
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
    functions: tuple[str, ...] = (),
    import_path: tuple[str, ...] = (),
    gentle: int = 0,
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
        functions: the user's functions that requests to the model need.
        import_path: folders from which they are imported.
        gentle: how many of them leave the cores to those that answer while they start for the first time.
    """
    return Service(
        id=job,
        entry=Entry(path="ganglion.serving.replica:serve"),
        arguments={"folder": str(folder), "max_batch": max_batch, "functions": functions, "gentle": gentle},
        resources=resources,
        import_path=import_path,
        environment={"ORT_DISABLE_TELEMETRY": "1"},
        preload=_replica_modules(manifest),
        grace=_REPLICA_GRACE,
        lost_after=_LOST_AFTER,
        readiness_timeout=_READINESS_TIMEOUT,
        replicas=replicas,
        on_control_loss=OnControlLoss.STOP,
        labels={"part": "replica", "model": model, "version": str(version)},
    )


def _replica_modules(manifest: PackageManifest) -> tuple[str, ...]:
    images = _IMAGE_MODULES if manifest.image is not None else ()
    return (*_RUNTIME_MODULES.get(manifest.runtime, ()), *images, *_REPLICA_MODULES)
