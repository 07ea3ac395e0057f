"""From a spec to the manifests that stand for it; pure."""

from __future__ import annotations

from ganglion.backends.kubernetes.checks import check_config, check_spec
from ganglion.backends.kubernetes.config import KubernetesConfig
from ganglion.backends.kubernetes.deployment import deployment
from ganglion.backends.kubernetes.inference_service import inference_service
from ganglion.backends.kubernetes.job import job
from ganglion.backends.kubernetes.pods import Manifest
from ganglion.backends.kubernetes.pytorchjob import pytorchjob
from ganglion.backends.kubernetes.tfjob import tfjob
from ganglion.backends.kubernetes.trainjob import trainjob
from ganglion.execution.spec import AnySpec, Gang, Task

_GANGS = {"trainjob": trainjob, "pytorchjob": pytorchjob, "tfjob": tfjob}


def render(spec: AnySpec, config: KubernetesConfig) -> tuple[Manifest, ...]:
    """The objects that run `spec` on Kubernetes, as plain data in the order in which they are to be created.

    Whether something is tried again is not written into them: that is decided where the spec comes from. Kueue admits
    a job that names a queue as a whole or not at all.

    Args:
        spec: what to run; its entry has to be in the image.
        config: of the cluster.

    Raises:
        SpecError: Kubernetes cannot keep what the spec says; the message says what, and what to do.
    """
    check_config(config)
    check_spec(spec, config)
    if isinstance(spec, Task):
        return (job(spec, config),)
    if isinstance(spec, Gang):
        return (_GANGS[config.training](spec, config),)
    if config.serving == "inferenceservice":
        return (inference_service(spec, config),)
    return deployment(spec, config)
