"""Service -> InferenceService of KServe, with a container of ours as its predictor."""

from __future__ import annotations

from ganglion.backends.kubernetes.config import KubernetesConfig
from ganglion.backends.kubernetes.names import dns_label
from ganglion.backends.kubernetes.pods import Manifest, labels, member, metadata, pod
from ganglion.execution.spec import Service

CONTAINER = "kserve-container"
"""The name by which KServe finds the container that answers."""

MODELS = "/mnt/models"
"""Where KServe puts what `storage` names."""

LONGEST_NAME = 40
"""Characters of the name: KServe appends `-predictor` and more, and needs DNS labels of the result."""


def inference_service(service: Service, config: KubernetesConfig) -> Manifest:
    """Replicas that KServe scales between `min_replicas` and `max_replicas`."""
    low = service.replicas if config.min_replicas is None else config.min_replicas
    high = max(service.replicas, low, 1) if config.max_replicas is None else config.max_replicas
    template = pod([member(CONTAINER, service, service.resources, config)], service, config, restart=None)
    bounds = {"minReplicas": low, "maxReplicas": high} if high else {"minReplicas": low}
    predictor: Manifest = {**bounds, "labels": labels(service), **template["spec"]}
    if config.scale_metric:
        predictor["scaleMetric"] = config.scale_metric
        predictor["scaleTarget"] = config.scale_target
    if config.concurrency:
        predictor["containerConcurrency"] = config.concurrency
    if config.storage:
        predictor["storageUris"] = [{"uri": config.storage, "mountPath": MODELS}]
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": metadata(dns_label(service.id, longest=LONGEST_NAME), service, config, queued=True),
        "spec": {"predictor": predictor},
    }
