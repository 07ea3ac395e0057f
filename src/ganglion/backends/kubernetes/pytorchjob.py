"""Gang -> PyTorchJob of the Kubeflow training operator.

The first member is the `Master`, the others are `Worker`s, in rank order. A gang that may start with fewer members than
it wants becomes an elastic job: all are workers, and `torchrun` in each of them forms the group.
"""

from __future__ import annotations

from ganglion.backends.kubernetes.checks import check_roles
from ganglion.backends.kubernetes.config import KubernetesConfig
from ganglion.backends.kubernetes.gangs import LONGEST_NAME, replicas, run_policy
from ganglion.backends.kubernetes.names import dns_label
from ganglion.backends.kubernetes.pods import COMMAND, Manifest, metadata
from ganglion.core.errors import SpecError
from ganglion.execution.spec import Gang

CONTAINER = "pytorch"
"""The name by which the operator finds the container."""

_UNLIMITED = 1_000_000


def pytorchjob(gang: Gang, config: KubernetesConfig) -> Manifest:
    """Ranks that find each other through `MASTER_ADDR`, `RANK` and `WORLD_SIZE`.

    Raises:
        SpecError: the roles are not those of such a job.
    """
    check_roles(gang, ("chief", "worker"), "PyTorchJob", elastic=True)
    elastic = any(role.least != role.count for role in gang.roles)
    spec = _elastic(gang, config) if elastic else _fixed(gang, config)
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": metadata(dns_label(gang.id, longest=LONGEST_NAME), gang, config, queued=True),
        "spec": {"runPolicy": run_policy(gang), **spec},
    }


def _fixed(gang: Gang, config: KubernetesConfig) -> Manifest:
    first = gang.roles[0]
    if len(gang.roles) == 2 and first.name != "chief":
        raise SpecError(f"{gang.id}: the chief has rank 0, so it has to be the first role.")
    found = {"Master": replicas(CONTAINER, 1, gang, first.resources, config)}
    others = first.count - 1 if first.name == "worker" else sum(role.count for role in gang.roles[1:])
    if others:
        found["Worker"] = replicas(CONTAINER, others, gang, gang.roles[-1].resources, config)
    return {"pytorchReplicaSpecs": found}


def _elastic(gang: Gang, config: KubernetesConfig) -> Manifest:
    if len(gang.roles) != 1 or gang.roles[0].name != "worker":
        raise SpecError(f"{gang.id}: only a gang of nothing but workers can start with fewer than it wants.")
    role = gang.roles[0]
    if role.least < 1:
        raise SpecError(f"{gang.id}: a minimum of {role.least} workers; a PyTorchJob needs at least 1 to start.")
    workers = replicas(CONTAINER, role.count, gang, role.resources, config, restart="OnFailure")
    workers["template"]["spec"]["containers"][0]["command"] = ["torchrun", *COMMAND[1:]]
    budget = gang.restart.budget
    return {
        "elasticPolicy": {
            "minReplicas": role.least,
            "maxReplicas": role.count,
            "maxRestarts": _UNLIMITED if budget < 0 else budget,
            "rdzvBackend": "c10d",
        },
        "pytorchReplicaSpecs": {"Worker": workers},
    }
