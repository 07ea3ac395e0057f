"""What PyTorchJob and TFJob have in common: replicas by role and the policy of the run."""

from __future__ import annotations

from ganglion.backends.kubernetes.config import KubernetesConfig
from ganglion.backends.kubernetes.pods import Manifest, member, pod
from ganglion.backends.kubernetes.quantities import seconds
from ganglion.core.resources import Resources
from ganglion.execution.spec import Gang

LONGEST_NAME = 50
"""Characters of a gang's name: operators append role and number to it and need DNS labels of the result."""


def replicas(
    container: str,
    count: int,
    gang: Gang,
    resources: Resources | None,
    config: KubernetesConfig,
    *,
    restart: str = "Never",
) -> Manifest:
    """Members of one role.

    Args:
        container: the name that the operator looks for.
        count: how many.
        gang: their gang.
        resources: what each needs, if other than the gang says.
        config: image, claims, secrets.
        restart: what the operator does when one fails.
    """
    containers = [member(container, gang, resources or gang.resources, config)]
    return {"replicas": count, "restartPolicy": restart, "template": pod(containers, gang, config, restart=None)}


def run_policy(gang: Gang) -> Manifest:
    """When the job is over, what still runs is removed and what has ended is kept for its log."""
    policy: Manifest = {"cleanPodPolicy": "Running", "backoffLimit": 0}
    if gang.timeout is not None:
        policy["activeDeadlineSeconds"] = seconds(gang.timeout)
    return policy
