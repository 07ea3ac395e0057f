"""Pipelines for controllers that run them without Ganglion in charge: one Argo Workflow, and what its containers call.

`argo.workflow` is pure; `step` is the command in the containers; `image` writes what the container image is built from.
"""
