"""Drives the lifecycle machine without a process: signals in, instructions out, time by hand."""

from __future__ import annotations

from typing import TypeVar

from ganglion.execution.entry import Entry
from ganglion.execution.exits import AgentReport, Evidence
from ganglion.execution.instructions import Broadcast, Instruction, Release, Reserve, Start, Stop
from ganglion.execution.job_state import JobState, MemberState, Phase
from ganglion.execution.lifecycle import advance, begin
from ganglion.execution.limits import deadline
from ganglion.execution.outcome import Outcome
from ganglion.execution.signals import Admitted, Ended, Joined, Ready, Signal, Submitted, Tick
from ganglion.execution.spec import AnySpec, Gang, Role, Service, Task, plan_members

I = TypeVar("I", bound=Instruction)  # noqa: E741  # an instruction
ENTRY = Entry(path="ganglion.testing.entries:add")
SUCCESS = Evidence(code=0, report=AgentReport(succeeded=True, value=7))
CRASH = Evidence(code=1)


def killed(number: int = 15) -> Evidence:
    return Evidence(signal=number)


def task(**fields) -> Task:
    return Task(id="job", entry=ENTRY, **fields)


def gang(count: int = 3, *, minimum: int | None = None, **fields) -> Gang:
    return Gang(id="job", entry=ENTRY, roles=(Role(count=count, minimum=minimum),), **fields)


def service(replicas: int = 2, **fields) -> Service:
    return Service(id="job", entry=ENTRY, replicas=replicas, **fields)


class Driver:
    """A job and its clock; keeps every instruction, and hands out those of the last signal."""

    def __init__(self, spec: AnySpec, *, now: float = 1000.0) -> None:
        self.now = now
        self.state: JobState = begin(spec, plan_members(spec))
        self.history: list[Instruction] = []
        self.last: list[Instruction] = []

    def tell(self, signal: Signal, *, after: float = 0.0) -> list[Instruction]:
        self.now += after
        self.state, orders = advance(self.state, signal, self.now)
        self.last = list(orders)
        self.history += orders
        return self.last

    # what a world around the machine would say

    def submit(self) -> Driver:
        self.tell(Submitted())
        return self

    def admit(self, *members: str, after: float = 0.0) -> list[Instruction]:
        return self.tell(Admitted(members or tuple(self.state.members)), after=after)

    def join(self, *members: str) -> list[Instruction]:
        """Each of these members dials back with its present attempt; the instructions of the last are returned."""
        for name in members:
            attempt = self.member(name).attempt
            self.tell(Joined(name, attempt, f"10.0.0.1:{name}.{attempt}"))
        return self.last

    def ready(self, name: str) -> list[Instruction]:
        return self.tell(Ready(name, self.member(name).attempt, f"unix:/{name}"))

    def end(self, name: str, evidence: Evidence = SUCCESS, *, after: float = 0.0) -> list[Instruction]:
        return self.tell(Ended(name, self.member(name).attempt, evidence), after=after)

    def tick(self, after: float = 0.0) -> list[Instruction]:
        return self.tell(Tick(), after=after)

    def tick_at_deadline(self) -> list[Instruction]:
        limit = self.deadline
        assert limit is not None
        self.now = max(self.now, limit)
        return self.tick()

    def run(self) -> Driver:
        """Submit, admit everybody and let everybody join."""
        self.submit()
        while waiting := [name for name, member in self.state.members.items() if member.phase is Phase.WAITING]:
            self.admit(*waiting)
        self.join(*self.state.members)
        return self

    # what came of it

    def member(self, name: str) -> MemberState:
        return self.state.members[name]

    def phases(self) -> list[str]:
        return [member.phase.value for member in self.state.members.values()]

    @property
    def deadline(self) -> float | None:
        return deadline(self.state)

    @property
    def outcome(self) -> Outcome:
        assert self.state.outcome is not None, self.state
        return self.state.outcome

    def all(self, kind: type[I]) -> list[I]:
        return [order for order in self.history if isinstance(order, kind)]


def of(orders: list[Instruction], kind: type[I]) -> list[I]:
    return [order for order in orders if isinstance(order, kind)]


def starts(orders: list[Instruction]) -> list[tuple[str, int]]:
    return [(order.plan.member, order.attempt) for order in of(orders, Start)]


def stops(orders: list[Instruction]) -> list[tuple[str, float]]:
    return [(order.member, order.grace) for order in of(orders, Stop)]


def reserved(orders: list[Instruction]) -> list[list[str]]:
    return [[plan.member for plan in order.plans] for order in of(orders, Reserve)]


def released(orders: list[Instruction]) -> list[list[str]]:
    return [[plan.member for plan in order.plans] for order in of(orders, Release)]


def told(orders: list[Instruction]) -> list[list[str]]:
    """The members of each broadcast membership."""
    return [[peer.member for peer in order.membership.peers] for order in of(orders, Broadcast)]
