"""The operation of function steps: the function runs in a process of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from typing import Any

from ganglion.execution.entry import Entry
from ganglion.execution.spec import Task
from ganglion.fingerprints import project_folders
from ganglion.workflow import codec
from ganglion.workflow.operation import Host, Operation, StepCall

RUNNER = Entry(path="ganglion.workflow.runner:run_step")


class FunctionOperation(Operation):
    """Runs a function as a Task."""

    kind = "function"

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def execute(self, call: StepCall, host: Host) -> Any:
        """Run the function to its end and return its encoded result."""
        folder = call.folder / f"attempt-{call.attempt}"
        spec = Task(
            id=host.job_id(),
            entry=RUNNER,
            arguments={
                "function": codec.encode(self.function, call.store),
                "arguments": call.encoded,
                "run": call.run,
                "step": call.step,
                "attempt": call.attempt,
                "seed": call.seed,
                "limit": call.limit,
                "folder": str(folder),
                "store": str(call.store.root),
            },
            resources=call.options.resources,
            environment=call.options.environment,
            import_path=tuple(dict.fromkeys((*call.import_path, *project_folders(self.function)))),
            preload=(RUNNER.path.partition(":")[0], *call.options.preload),
            numerics=call.options.numerics,
            timeout=call.options.timeout,
            labels=call.labels,
        )
        outcome = host.run(spec)
        outcome.raise_for_failure()
        shutil.rmtree(folder, ignore_errors=True)  # what the step returned is in the store
        return codec.Encoded(outcome.value)

    def material(self) -> Mapping[str, Any]:
        """The function, with everything it calls."""
        return {"function": self.function}
