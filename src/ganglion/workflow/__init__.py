"""Steps, pipelines and their runs.

`step` and `pipeline` make the graph (`graph`), `engine` runs it: `plan` decides what to do next, `journal` keeps what
happened, `fingerprint` and `memo` find what need not be done again. A kind of step is an `operation`.
"""

from ganglion.workflow.codec import Encoded
from ganglion.workflow.context import current_step
from ganglion.workflow.engine import Engine
from ganglion.workflow.graph import Graph, StepOutput, as_completed
from ganglion.workflow.operation import Host, Operation, StepCall
from ganglion.workflow.options import StepOptions
from ganglion.workflow.pipeline import Pipeline, pipeline
from ganglion.workflow.result import RunFailedError, RunResult
from ganglion.workflow.step import Step, operation, step

__all__ = [
    "Encoded",
    "Engine",
    "Graph",
    "Host",
    "Operation",
    "Pipeline",
    "RunFailedError",
    "RunResult",
    "Step",
    "StepCall",
    "StepOptions",
    "StepOutput",
    "as_completed",
    "current_step",
    "operation",
    "pipeline",
    "step",
]
