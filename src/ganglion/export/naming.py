"""What steps and pipelines are called in a workflow."""

from __future__ import annotations

from ganglion.backends.kubernetes.names import LABEL_PREFIX, dns_label

RUN = "{{workflow.name}}"
"""What Argo replaces by the name of the workflow: the id of the run."""

RUN_LABEL = f"{LABEL_PREFIX}run"
"""The label by which a resource tells the id of the run that holds its result."""

_LONGEST_PIPELINE = 17
_LONGEST_STEP = 22
"""Argo appends five characters to the first, and to both of them together; the operator a role and a number; all of it
has to be a DNS label."""


def pipeline_name(pipeline: str) -> str:
    """What the names of workflows begin with.

    Args:
        pipeline: `module:name`.
    """
    return dns_label(pipeline.rpartition(":")[2], longest=_LONGEST_PIPELINE)


def step_name(step: str) -> str:
    """What templates, tasks, parameters and jobs of a step are called: never with a capital or an underscore."""
    return dns_label(step, longest=_LONGEST_STEP)
