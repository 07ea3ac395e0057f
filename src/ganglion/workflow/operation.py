"""The seam for kinds of steps: what a step does once its inputs are known.

A function step runs its function in a process of its own. Other kinds (a gang that trains, a service that is rolled
out) are operations too: they run in a thread of the orchestrator and reach processes through their host.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ganglion.artifacts.store import FolderStore
from ganglion.core.events import Event
from ganglion.execution.outcome import Outcome
from ganglion.execution.spec import AnySpec
from ganglion.workflow import codec
from ganglion.workflow.options import StepOptions

if TYPE_CHECKING:
    from ganglion.execution.supervisor import Supervisor


@dataclass(frozen=True)
class StepCall:
    """One execution of a step, with everything that decides what it does.

    Attributes:
        run: id of the run.
        pipeline: `module:name` of the pipeline.
        step: name of the step in the run.
        attempt: 1 for the first try.
        seed: the step's own, derived from that of the run and its name.
        limit: number of records to take from each source; `None` for all.
        options: of the step.
        import_path: folders in which its processes find the project's modules.
        encoded: its arguments, as `codec.encode` leaves them.
        final: whether this is the last execution: no input will be updated any more.
        folder: the step's own folder; kept until the run is deleted.
        store: where artifacts are.
    """

    run: str
    pipeline: str
    step: str
    attempt: int
    seed: int
    limit: int | None
    options: StepOptions
    import_path: tuple[str, ...]
    encoded: dict[str, Any]
    final: bool
    folder: Path
    store: FolderStore

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """The arguments, decoded when first asked for; files and folders appear under `folder`."""
        place = self.folder / "inputs"
        return {name: codec.decode(value, self.store, place) for name, value in self.encoded.items()}

    @property
    def labels(self) -> dict[str, str]:
        """What the specs of this step are labelled with."""
        return {"run": self.run, "step": self.step}


class Host(Protocol):
    """What the engine offers to an operation.

    Attributes:
        call: the execution that this host is for.
        inline: whether everything runs in this process, in order, for a debugger.
        supervisor: for jobs that outlive the step; `None` when inline without one.
        cancelled: set when the step has to end; jobs that run through `run` are cancelled by the host.
    """

    call: StepCall
    inline: bool
    supervisor: Supervisor | None
    cancelled: threading.Event

    def job_id(self) -> str:
        """A new id for a job of this step."""
        ...

    def run(self, spec: AnySpec, listener: Callable[[Event], None] | None = None) -> Outcome:
        """Run a task or gang to its end; what its members report and use is recorded.

        Inline, the entry is called in this process, as the only member.

        Args:
            spec: what to run.
            listener: gets every event too; must return at once.

        Raises:
            SpecError: it can never run here.
        """
        ...

    def service(self, name: str) -> Any:
        """A long-lived controller that the platform provides, such as that of model services.

        Raises:
            NotFoundError: there is none of this name.
        """
        ...

    def report(self, values: Mapping[str, Any], member: str = "") -> None:
        """Record metrics: finite numbers, with an optional position under `epoch` or `step`."""
        ...

    def note(self, message: str, member: str = "") -> None:
        """Record one line that a person should know while the step goes on, and show it."""
        ...

    def published(
        self, model: str, version: int, digest: str, metrics: Mapping[str, float], aliases: tuple[str, ...] = ()
    ) -> None:
        """Record that a version of a model was published."""
        ...


class Operation(ABC):
    """A kind of step.

    An operation with an `as_completed` input is executed again for every arrival; `host.call.final` tells the last one.

    Attributes:
        kind: what records call it.
        resumable: whether a result survives the orchestrator. That of a live service does not: the step is executed
            again when a run is resumed, and its result is never taken from an earlier run.
    """

    kind: str = "operation"
    resumable: bool = True

    @abstractmethod
    def execute(self, call: StepCall, host: Host) -> Any:
        """Do it; in a thread of the orchestrator (in the caller's when inline).

        Returns:
            The result; `Encoded` if it is encoded already.
        """

    def material(self) -> Mapping[str, Any]:
        """What decides the result beside the inputs, by name: functions, classes, values. Part of the fingerprint."""
        return {self.kind: type(self)}


class HostedOperation(Operation):
    """A function that is called in the orchestrator, with its host first."""

    def __init__(self, function: Callable[..., Any], *, kind: str, resumable: bool = True) -> None:
        self.function = function
        self.kind = kind
        self.resumable = resumable

    def execute(self, call: StepCall, host: Host) -> Any:
        """Call the function with the host and the decoded arguments."""
        return self.function(host, **call.arguments)

    def material(self) -> Mapping[str, Any]:
        """The function, with everything it calls."""
        return {self.kind: self.function}
