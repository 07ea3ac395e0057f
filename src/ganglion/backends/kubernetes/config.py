"""What manifests need to know of a cluster."""

from __future__ import annotations

from typing import Literal

import msgspec

from ganglion.core.config import Config


class Claim(Config, frozen=True):
    """A persistent volume claim that is mounted into every container.

    Attributes:
        name: of the claim.
        path: where it is mounted; absolute.
        read_only: whether containers may only read.
    """

    name: str
    path: str
    read_only: bool = False


class Secret(Config, frozen=True):
    """Environment variables whose values stay in the cluster: manifests only name where they are.

    Attributes:
        name: of the Secret object.
        variable: the variable that gets the value under `key`; empty for every key of the Secret under its own name.
        key: within the Secret.
    """

    name: str
    variable: str = ""
    key: str = ""


class KubernetesConfig(Config, frozen=True):
    """How specs become manifests.

    Attributes:
        image: what containers run; it holds Ganglion, its dependencies and the project.
        namespace: of every object; empty leaves it to whoever applies them.
        training: what a gang becomes; gangs with parameter servers need `tfjob`.
        serving: what a service becomes.
        runtime: the training runtime that a TrainJob refers to.
        queue: the Kueue local queue that admits whole jobs; empty for none.
        priority: the Kueue workload priority class; empty for none.
        service_account: of the pods; empty for the namespace's own.
        node_selector: labels that nodes have to have.
        claims: mounted into every container.
        secrets: given to every container.
        storage: where an InferenceService finds its model: `pvc://CLAIM/PATH` of a declared claim, or a URL that KServe
            reads; it appears under `/mnt/models`.
        port: on which services answer.
        readiness_path: a page that an InferenceService's container answers once it is ready; empty asks the member.
        min_replicas: smallest number of replicas of an InferenceService; `None` for as many as the spec wants.
        max_replicas: largest number of replicas of an InferenceService; `None` for as many as the spec wants, 0 for
            no limit.
        scale_metric: what an InferenceService is scaled by; empty leaves it to KServe.
        scale_target: value of the metric for each replica.
        concurrency: requests that one replica of an InferenceService takes at a time; 0 for no limit.
    """

    image: str = ""
    namespace: str = ""
    training: Literal["trainjob", "pytorchjob", "tfjob"] = "trainjob"
    serving: Literal["deployment", "inferenceservice"] = "deployment"
    runtime: str = "torch-distributed"
    queue: str = ""
    priority: str = ""
    service_account: str = ""
    node_selector: dict[str, str] = msgspec.field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    secrets: tuple[Secret, ...] = ()
    storage: str = ""
    port: int = 8080
    readiness_path: str = ""
    min_replicas: int | None = None
    max_replicas: int | None = None
    scale_metric: str = ""
    scale_target: int | None = None
    concurrency: int = 0
