"""Task -> Job."""

from __future__ import annotations

from ganglion.backends.kubernetes.config import KubernetesConfig
from ganglion.backends.kubernetes.names import dns_label
from ganglion.backends.kubernetes.pods import Manifest, member, metadata, pod
from ganglion.backends.kubernetes.quantities import seconds
from ganglion.execution.spec import Task


def job(task: Task, config: KubernetesConfig) -> Manifest:
    """One pod that runs to its end once: whether it is tried again is decided where the task comes from."""
    spec: Manifest = {
        "backoffLimit": 0,
        "template": pod([member("task", task, task.resources, config)], task, config, restart="Never"),
    }
    if task.timeout is not None:
        spec["activeDeadlineSeconds"] = seconds(task.timeout)
    name = dns_label(task.id)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata(name, task, config, queued=True),
        "spec": spec,
    }
