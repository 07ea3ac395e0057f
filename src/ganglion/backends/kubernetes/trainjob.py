"""Gang -> TrainJob of Kubeflow Trainer, with a training runtime for torch.

The runtime of the cluster owns the pods, so claims, nodes and rights are patched into it. `grace` is the runtime's.
"""

from __future__ import annotations

from ganglion.backends.kubernetes.checks import check_roles
from ganglion.backends.kubernetes.config import KubernetesConfig
from ganglion.backends.kubernetes.gangs import LONGEST_NAME
from ganglion.backends.kubernetes.names import dns_label
from ganglion.backends.kubernetes.pods import Manifest, labels, member, metadata, placement
from ganglion.backends.kubernetes.quantities import seconds
from ganglion.core.errors import SpecError
from ganglion.execution.spec import Gang

CONTAINER = "node"
"""What Trainer calls the replicated job of the trainer, and its container."""

MANAGER = "ganglion/export"
"""Who has patched the runtime."""


def trainjob(gang: Gang, config: KubernetesConfig) -> Manifest:
    """Equal nodes that find each other through the variables of `torchrun`.

    Raises:
        SpecError: the gang has other roles than workers, or the configuration says what a TrainJob cannot.
    """
    check_roles(gang, ("worker",), "TrainJob")
    if whole := [secret.name for secret in config.secrets if not secret.variable]:
        raise SpecError(
            f"A TrainJob cannot take all keys of the secret {whole[0]!r}; name a variable and a key for each one."
        )
    role = gang.roles[0]
    container = member(CONTAINER, gang, role.resources or gang.resources, config)
    trainer = {
        "image": container["image"],
        "command": container["command"],
        "env": container["env"],
        "numNodes": role.count,
        "numProcPerNode": 1,
        "resourcesPerNode": container["resources"],
    }
    spec: Manifest = {"runtimeRef": {"name": config.runtime}, "trainer": trainer}
    if gang.timeout is not None:
        spec["activeDeadlineSeconds"] = seconds(gang.timeout)
    patched = placement(config)
    if mounts := container.get("volumeMounts"):
        patched["containers"] = [{"name": CONTAINER, "volumeMounts": mounts}]
    template = {"metadata": {"labels": labels(gang)}, "spec": patched}
    jobs = [{"name": CONTAINER, "template": {"spec": {"template": template}}}]
    spec["runtimePatches"] = [
        {"manager": MANAGER, "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": jobs}}}}
    ]
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": metadata(dns_label(gang.id, longest=LONGEST_NAME), gang, config, queued=True),
        "spec": spec,
    }
