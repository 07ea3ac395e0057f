"""Gang -> TFJob of the Kubeflow training operator, which writes `TF_CONFIG` from the roles."""

from __future__ import annotations

from ganglion.backends.kubernetes.checks import check_roles
from ganglion.backends.kubernetes.config import KubernetesConfig
from ganglion.backends.kubernetes.gangs import LONGEST_NAME, replicas, run_policy
from ganglion.backends.kubernetes.names import dns_label
from ganglion.backends.kubernetes.pods import Manifest, metadata
from ganglion.core.errors import SpecError
from ganglion.execution.spec import Gang

CONTAINER = "tensorflow"
"""The name by which the operator finds the container."""

ROLES = {"chief": "Chief", "worker": "Worker", "ps": "PS", "evaluator": "Evaluator"}


def tfjob(gang: Gang, config: KubernetesConfig) -> Manifest:
    """Chief, workers, parameter servers and an evaluator.

    The job ends with its chief, or, where there is none, with all of its workers; parameter servers never end it.

    Raises:
        SpecError: the roles are not those of such a job.
    """
    check_roles(gang, tuple(ROLES), "TFJob")
    for role in gang.roles:
        if role.completes == (role.name == "ps"):
            raise SpecError(
                f"{gang.id}: role {role.name!r} has completes={role.completes}; a TFJob waits for everybody but its "
                "parameter servers."
            )
        if role.name == "evaluator" and role.count != 1:
            raise SpecError(f"{gang.id}: {role.count} evaluators; a TFJob has one.")
    names = {role.name for role in gang.roles}
    if not names & {"chief", "worker"}:
        raise SpecError(f"{gang.id}: a TFJob needs a chief or workers; given: {', '.join(sorted(names))}.")
    spec: Manifest = {
        "runPolicy": run_policy(gang),
        "tfReplicaSpecs": {
            ROLES[role.name]: replicas(CONTAINER, role.count, gang, role.resources, config) for role in gang.roles
        },
    }
    if "chief" not in names:
        spec["successPolicy"] = "AllWorkers"
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "TFJob",
        "metadata": metadata(dns_label(gang.id, longest=LONGEST_NAME), gang, config, queued=True),
        "spec": spec,
    }
