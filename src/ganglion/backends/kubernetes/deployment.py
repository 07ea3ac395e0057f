"""Service -> Deployment with the Service object in front of it."""

from __future__ import annotations

from ganglion.backends.kubernetes.config import KubernetesConfig
from ganglion.backends.kubernetes.names import LABEL_PREFIX, dns_label, label_value
from ganglion.backends.kubernetes.pods import Manifest, member, metadata, pod
from ganglion.execution.spec import Service


def deployment(service: Service, config: KubernetesConfig) -> tuple[Manifest, Manifest]:
    """Replicas, and the name and port under which those that are ready are reached."""
    name = dns_label(service.id)
    chosen = {f"{LABEL_PREFIX}job": label_value(service.id)}
    template = pod([member("replica", service, service.resources, config)], service, config, restart="Always")
    replicas = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(name, service, config, queued=True),
        "spec": {"replicas": service.replicas, "selector": {"matchLabels": chosen}, "template": template},
    }
    front = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(name, service, config),
        "spec": {
            "selector": chosen,
            "ports": [{"name": "http", "port": config.port, "targetPort": config.port, "protocol": "TCP"}],
        },
    }
    return replicas, front
