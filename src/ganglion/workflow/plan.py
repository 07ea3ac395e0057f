"""The progress of a run as a pure state machine: `(state, event) -> (state, actions)`.

The events are those of the journal, so that reading a journal back is applying its events: a run goes on after a crash
from the state that its journal leads to. Nothing here does I/O or knows the time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

import msgspec

from ganglion.core.run_events import RunEvent, RunFinished, RunStarted, StepFinished, StepStarted, StepUpdated

LONGEST_BACKOFF = 60.0

# what the machine knows


class Stream(msgspec.Struct, frozen=True):
    """An `as_completed` input.

    Attributes:
        sources: names of steps.
        updates: whether intermediate results of the (only) source count too.
    """

    sources: tuple[str, ...]
    updates: bool


class StepPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What the machine has to know of a step.

    Attributes:
        needs: steps that have to finish first.
        streams: its `as_completed` inputs.
        retries: attempts after a failed one.
        backoff: seconds before the first of them.
        resumable: whether its result survives the orchestrator.
    """

    needs: tuple[str, ...] = ()
    streams: tuple[Stream, ...] = ()
    retries: int = 0
    backoff: float = 0.5
    resumable: bool = True

    @property
    def sources(self) -> set[str]:
        """All steps that it has an input from."""
        return {*self.needs, *(source for stream in self.streams for source in stream.sources)}


Plan = Mapping[str, StepPlan]
Snapshot = dict[str, int]
"""Which result of each source an execution is to use: its position in `StepProgress.results`."""


class Phase(StrEnum):
    """Where a step is."""

    WAITING = "waiting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class StepProgress(msgspec.Struct, frozen=True, kw_only=True):
    """What has become of a step so far.

    Attributes:
        phase: where it is; a step that waits for further arrivals between two executions is running.
        attempt: number of the last attempt.
        failures: attempts that failed.
        results: every result so far, encoded; once the step has succeeded, the last is the final one.
        queue: executions to come, the present one first.
        active: whether an execution has been asked for and not ended.
    """

    phase: Phase = Phase.WAITING
    attempt: int = 0
    failures: int = 0
    results: tuple[Any, ...] = ()
    queue: tuple[Snapshot, ...] = ()
    active: bool = False

    @property
    def over(self) -> bool:
        """Whether nothing more becomes of it."""
        return self.phase in (Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED)


class RunProgress(msgspec.Struct, frozen=True, kw_only=True):
    """What has become of a run so far.

    Attributes:
        steps: by name, in the order of the plan.
        stopping: why no further step is started: `failed` or `cancelled`; empty while all is well.
        message: one line about it.
        finished: whether the run is over.
    """

    steps: dict[str, StepProgress]
    stopping: str = ""
    message: str = ""
    finished: bool = False


# what it is told beside the events of the journal


class CancelRequested(msgspec.Struct, frozen=True):
    """Somebody wants the run to end."""

    message: str = "cancelled by the user"


class ResultLost(msgspec.Struct, frozen=True):
    """The final result of a step that succeeded cannot be had any more; told before a resumed run starts."""

    step: str


# what it asks for


class Execute(msgspec.Struct, frozen=True, kw_only=True):
    """Execute a step.

    Attributes:
        step: name of the step.
        attempt: number of the attempt that this execution belongs to.
        begins: whether the attempt begins with it.
        inputs: encoded result of every source that has one.
        final: whether no further execution will follow if it succeeds.
        delay: seconds to wait first.
    """

    step: str
    attempt: int
    begins: bool
    inputs: dict[str, Any]
    final: bool
    delay: float = 0.0


class Stop(msgspec.Struct, frozen=True):
    """End the present execution of a step."""

    step: str


class Abandon(msgspec.Struct, frozen=True):
    """Record that a step that is not being executed will not be."""

    step: str
    attempt: int
    message: str


class Finish(msgspec.Struct, frozen=True):
    """Record the end of the run."""

    state: str
    message: str


Action = Execute | Stop | Abandon | Finish


def begin(plan: Plan) -> RunProgress:
    """The state before anything has happened."""
    return RunProgress(steps={name: StepProgress() for name in plan})


def advance(
    state: RunProgress, event: RunEvent | CancelRequested | ResultLost, plan: Plan
) -> tuple[RunProgress, list[Action]]:
    """Take one event in.

    Args:
        state: before it.
        event: what happened; events that change nothing here (metrics, samples) are accepted.
        plan: the steps.

    Returns:
        The state after it, and what to do now, in this order.
    """
    machine = _Machine(state, plan)
    machine.take(event)
    return machine.end()


def replay(events: Iterable[RunEvent], plan: Plan) -> RunProgress:
    """The state that a journal leads to."""
    state = begin(plan)
    for event in events:
        state, _ = advance(state, event, plan)
    return state


class _Machine:
    """One transition: a draft of the state, and the actions so far."""

    def __init__(self, state: RunProgress, plan: Plan) -> None:
        self.state = state
        self.plan = plan
        self.steps = dict(state.steps)
        self.actions: list[Action] = []

    def end(self) -> tuple[RunProgress, list[Action]]:
        return msgspec.structs.replace(self.state, steps=self.steps), self.actions

    def change(self, step: str, **changes: Any) -> StepProgress:
        self.steps[step] = msgspec.structs.replace(self.steps[step], **changes)
        return self.steps[step]

    def take(self, event: RunEvent | CancelRequested | ResultLost) -> None:
        match event:
            case RunStarted():
                self.start(event)
            case StepStarted(step=step, attempt=attempt):
                self.change(step, phase=Phase.RUNNING, attempt=attempt)
            case StepUpdated(step=step, result=result):
                progress = self.steps[step]
                self.change(step, results=(*progress.results, result), queue=progress.queue[1:], active=False)
                self.arrive(step)
                self.execute_next(step)
            case StepFinished():
                self.finish_attempt(event)
            case CancelRequested(message=message):
                if self.state.stopping or all(progress.over for progress in self.steps.values()):
                    return
                self.stop("cancelled", message)
            case ResultLost(step=step):
                self.steps[step] = StepProgress(attempt=self.steps[step].attempt)
            case RunFinished():
                self.state = msgspec.structs.replace(self.state, finished=True)
        if isinstance(event, StepFinished | CancelRequested | RunStarted | StepUpdated):
            self.conclude()

    def start(self, event: RunStarted) -> None:
        for name, progress in self.steps.items():
            if event.resumed and progress.phase is Phase.SUCCEEDED and not self.plan[name].resumable:
                self.steps[name] = StepProgress(attempt=progress.attempt)
            elif progress.phase not in (Phase.SUCCEEDED, Phase.FAILED):
                self.change(name, phase=Phase.WAITING, queue=(), active=False)
        for name, progress in self.steps.items():
            if progress.phase is Phase.WAITING:
                self.enqueue(name)
                self.execute_next(name)

    def finish_attempt(self, event: StepFinished) -> None:
        progress = self.steps[event.step]
        if event.state in ("succeeded", "cached"):
            self.change(
                event.step, phase=Phase.SUCCEEDED, results=(*progress.results, event.result), queue=(), active=False
            )
            self.arrive(event.step)
        elif event.state == "cancelled":
            self.change(event.step, phase=Phase.CANCELLED, active=False)
        else:
            failures = progress.failures + 1
            if failures <= self.plan[event.step].retries and not event.permanent:
                self.change(event.step, phase=Phase.WAITING, failures=failures, active=False)
                self.execute_next(event.step)
            else:
                self.change(event.step, phase=Phase.FAILED, failures=failures, active=False)
                self.stop("failed", f"step `{event.step}` failed on attempt {event.attempt}: {event.message}")

    def arrive(self, source: str) -> None:
        """A source has a new result: whoever follows it is executed with it."""
        finished = self.steps[source].phase is Phase.SUCCEEDED
        for name, step in self.plan.items():
            followed = any(source in stream.sources and (finished or stream.updates) for stream in step.streams)
            if (followed or (finished and source in step.needs)) and not self.steps[name].over:
                self.enqueue(name)
                self.execute_next(name)

    def enqueue(self, step: str) -> None:
        """Plan an execution with what is there now, if that is enough to start with."""
        wanted = self.plan[step]
        snapshot: Snapshot = {}
        for source in wanted.needs:
            if self.steps[source].phase is not Phase.SUCCEEDED:
                return
            snapshot[source] = len(self.steps[source].results) - 1
        for stream in wanted.streams:
            there = [
                source
                for source in stream.sources
                if self.steps[source].phase is Phase.SUCCEEDED or (stream.updates and self.steps[source].results)
            ]
            if not there:
                return
            snapshot.update((source, len(self.steps[source].results) - 1) for source in there)
        self.change(step, queue=(*self.steps[step].queue, snapshot))

    def execute_next(self, step: str) -> None:
        progress, wanted = self.steps[step], self.plan[step]
        if progress.active or not progress.queue or self.state.stopping:
            return
        snapshot = progress.queue[0]
        begins = progress.phase is Phase.WAITING
        retried = begins and progress.failures > 0
        self.change(step, active=True)
        self.actions.append(
            Execute(
                step=step,
                attempt=progress.attempt + begins,
                begins=begins,
                inputs={source: self.steps[source].results[place] for source, place in snapshot.items()},
                final=all(self.is_final(source, snapshot) for source in wanted.sources),
                delay=min(LONGEST_BACKOFF, wanted.backoff * 2 ** (progress.failures - 1)) if retried else 0.0,
            )
        )

    def is_final(self, source: str, snapshot: Snapshot) -> bool:
        progress = self.steps[source]
        return progress.phase is Phase.SUCCEEDED and snapshot.get(source) == len(progress.results) - 1

    def stop(self, reason: str, message: str) -> None:
        if not self.state.stopping:
            self.state = msgspec.structs.replace(self.state, stopping=reason, message=message)
            self.actions += [Stop(name) for name, progress in self.steps.items() if progress.active]

    def conclude(self) -> None:
        """See whether the run is over."""
        steps = self.steps
        if self.state.finished or any(progress.active for progress in steps.values()):
            return
        left = next((name for name, progress in steps.items() if not progress.over), None)
        if self.state.stopping and left is not None:  # one at a time: its end is the event that leads to the next
            self.actions.append(Abandon(left, steps[left].attempt, self.state.message))
        elif left is None:
            self.actions.append(Finish(self.state.stopping or "succeeded", self.state.message))
