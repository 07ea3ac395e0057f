"""Kubernetes: specs as manifests, and what runs in their containers; nothing here talks to a cluster.

`render.render` is pure: a Task becomes a Job, a Gang a TrainJob, PyTorchJob or TFJob, a Service a Deployment with its
Service, or an InferenceService. What Kubernetes cannot keep of a spec is refused, with the reason.
"""
