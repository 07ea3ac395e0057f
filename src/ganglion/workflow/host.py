"""What the engine offers to operations: processes, records, services."""

from __future__ import annotations

import math
import os
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ganglion.core.clock import Clock
from ganglion.core.errors import GanglionError, NotFoundError, SpecError, suggest
from ganglion.core.events import Event, Exit, ExitKind, MemberReported, MemberSampled
from ganglion.core.registry import add_to_path
from ganglion.core.run_events import MetricReported, ModelPublished, ResourcesSampled, StepNoted
from ganglion.execution.exits import error_text
from ganglion.execution.member import Member, Membership, Peer, current_member, set_current_member
from ganglion.execution.outcome import Outcome, OutcomeState
from ganglion.execution.rendezvous import environment, hold_port
from ganglion.execution.spec import AnySpec, Gang, MemberPlan, Service, plan_members
from ganglion.workflow.operation import StepCall

if TYPE_CHECKING:
    from ganglion.execution.supervisor import Job, Supervisor

_POSITIONS = ("epoch", "step")


class CancelledError(GanglionError):
    """The step was told to end."""


class StepHost:
    """The host of one execution; see `operation.Host`.

    Attributes:
        metrics: the last value of every metric reported so far.
    """

    def __init__(
        self,
        call: StepCall,
        *,
        supervisor: Supervisor | None,
        services: Mapping[str, Any],
        emit: Callable[..., None],
        clock: Clock,
        inline: bool,
        cancelled: threading.Event,
        number: int,
    ) -> None:
        self.call = call
        self.supervisor = supervisor
        self.inline = inline
        self.cancelled = cancelled
        self.metrics: dict[str, float] = {}
        self._services = services
        self._emit = emit
        self._clock = clock
        self._number = number
        self._jobs: list[Job] = []
        self._count = 0
        self._guard = threading.Lock()

    def job_id(self) -> str:
        """A new id: run, step, attempt, and a number from the second one of an attempt."""
        with self._guard:
            self._count += 1
            numbers = [number for number in (self._number, self._count) if number > 1]
        return "-".join([self.call.run, self.call.step, f"a{self.call.attempt}", *map(str, numbers)])

    def run(self, spec: AnySpec, listener: Callable[[Event], None] | None = None) -> Outcome:
        """Run a task or gang to its end."""
        if isinstance(spec, Service):
            raise SpecError(f"{spec.id} is a service, which does not end; submit it to the supervisor.")

        def heard(event: Event) -> None:
            self._record(event)
            if listener is not None:
                listener(event)

        if self.inline or self.supervisor is None:
            return _run_here(spec, heard, self._clock)
        with self._guard:
            if self.cancelled.is_set():
                raise CancelledError(f"{spec.id} was not started: the step has to end.")
            job = self.supervisor.submit(spec, heard)
            self._jobs.append(job)
        return job.wait()

    def cancel(self) -> None:
        """Tell the step to end and cancel its jobs; called by the engine."""
        self.cancelled.set()
        with self._guard:
            for job in self._jobs:
                job.cancel()

    def service(self, name: str) -> Any:
        """A long-lived controller of the platform."""
        if name not in self._services:
            raise NotFoundError(f"The platform has no service {name!r}. {suggest(name, self._services)}")
        return self._services[name]

    def report(self, values: Mapping[str, Any], member: str = "") -> None:
        """Record metrics."""
        position = next((float(values[key]) for key in _POSITIONS if _is_number(values.get(key))), None)
        for name, value in values.items():
            if name not in _POSITIONS and _is_number(value):
                self.metrics[name] = float(value)
                self._emit(
                    MetricReported(
                        at=self._clock.now(),
                        run=self.call.run,
                        step=self.call.step,
                        member=member,
                        name=name,
                        value=float(value),
                        position=position,
                    )
                )

    def note(self, message: str, member: str = "") -> None:
        """Record a line for people."""
        self._emit(
            StepNoted(at=self._clock.now(), run=self.call.run, step=self.call.step, member=member, message=message)
        )

    def published(
        self, model: str, version: int, digest: str, metrics: Mapping[str, float], aliases: tuple[str, ...] = ()
    ) -> None:
        """Record that a version of a model was published."""
        self._emit(
            ModelPublished(
                at=self._clock.now(),
                run=self.call.run,
                step=self.call.step,
                model=model,
                version=version,
                digest=digest,
                metrics=dict(metrics),
                aliases=aliases,
            ),
            wait=True,
        )

    def _record(self, event: Event) -> None:
        match event:
            case MemberReported(member=member, values=values):
                self.report(values, member)
            case MemberSampled(member=member, cpu_seconds=cpu_seconds, memory=memory, at=at):
                self._emit(
                    ResourcesSampled(
                        at=at,
                        run=self.call.run,
                        step=self.call.step,
                        member=member,
                        cpu_seconds=cpu_seconds,
                        memory=memory,
                    )
                )


def _is_number(value: Any) -> bool:
    """Whether the journal can keep it: JSON has no word for what is not finite."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _run_here(spec: AnySpec, listener: Callable[[Event], None], clock: Clock) -> Outcome:
    """Call the entry in this process, as the only member of its job."""
    plan = plan_members(spec)[0]

    def send(kind: str, value: Any) -> None:
        if kind == "report":
            listener(MemberReported(at=clock.now(), job=spec.id, member=plan.member, attempt=1, values=value))

    with _as_member(plan, send):
        try:
            value = spec.entry.load()(**spec.arguments)
        except Exception as error:  # noqa: BLE001  # whatever the entry raises is its report
            error_type = f"{type(error).__module__}.{type(error).__qualname__}"
            exit_ = Exit(
                kind=ExitKind.EXCEPTION,
                message=error_text(error_type, str(error)),
                error_type=error_type,
                traceback=traceback.format_exc(),
            )
            return Outcome(
                state=OutcomeState.FAILED,
                message=f"{plan.member} raised {exit_.message}",
                exits={plan.member: exit_},
                culprit=plan.member,
            )
    return Outcome(state=OutcomeState.SUCCEEDED, exits={plan.member: Exit(kind=ExitKind.SUCCESS, value=value)})


@contextmanager
def _as_member(plan: MemberPlan, send: Callable[[str, Any], None]) -> Iterator[None]:
    """Give this process the place and the environment of a member, and its own back afterwards."""
    address = "127.0.0.1:0"
    if isinstance(plan.spec, Gang):
        with hold_port("127.0.0.1") as holder:
            address = f"127.0.0.1:{holder.getsockname()[1]}"
    peer = Peer(member=plan.member, role=plan.role, index=plan.index, rank=0, address=address)
    membership = Membership(peers=(peer,))
    member = Member(
        job=plan.spec.id, name=plan.member, role=plan.role, index=plan.index, membership=membership, send=send
    )
    before, variables = current_member(), dict(os.environ)
    os.environ.update(plan.spec.environment)
    if isinstance(plan.spec, Gang):
        os.environ.update(environment(membership, plan.member))
    add_to_path(plan.spec.import_path)
    set_current_member(member)
    try:
        yield
    finally:
        set_current_member(before)
        for name in set(os.environ) - set(variables):
            del os.environ[name]
        os.environ.update(variables)
