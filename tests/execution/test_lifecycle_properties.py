"""The lifecycle machine against a world that does anything at any time: what must never happen does not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st
from lifecycle_driver import CRASH, ENTRY, SUCCESS, killed

from ganglion.execution.exits import Evidence
from ganglion.execution.instructions import Broadcast, Finish, Instruction, Release, Reserve, Start, Stop
from ganglion.execution.job_state import LIVE, Phase
from ganglion.execution.lifecycle import advance, begin
from ganglion.execution.limits import deadline
from ganglion.execution.signals import (
    Admitted,
    Alive,
    Cancel,
    Drain,
    Ended,
    Joined,
    Reached,
    Ready,
    Replace,
    Scale,
    Signal,
    Submitted,
    Tick,
)
from ganglion.execution.spec import AnySpec, Gang, Restart, Role, Service, Task, plan_members

durations = st.sampled_from([0.5, 3.0, 20.0, 100.0])
restarts = st.builds(
    Restart, budget=st.integers(-1, 3), backoff=st.sampled_from([0.0, 0.1, 5.0]), longest=durations, alone=st.booleans()
)
rules = {
    "id": st.just("job"),
    "entry": st.just(ENTRY),
    "timeout": st.none() | durations,
    "admission_timeout": st.none() | durations,
    "lost_after": st.none() | durations,
    "grace": durations,
    "restart": restarts,
}


@st.composite
def roles(draw: st.DrawFn) -> tuple[Role, ...]:
    names = draw(st.sampled_from([["worker"], ["worker"], ["chief", "worker"], ["ps", "worker"]]))
    made = []
    for name in names:
        count = draw(st.integers(1, 3))
        minimum = draw(st.none() | st.integers(0, count))
        made.append(Role(name=name, count=count, minimum=minimum, completes=name != "ps"))
    return tuple(made)


gangs = st.builds(Gang, roles=roles(), elastic=st.booleans(), **rules)
services = st.builds(Service, replicas=st.integers(0, 3), readiness_timeout=durations, **rules)
specs = st.one_of(st.builds(Task, **rules), gangs, gangs, services)


class World:
    """Executes what the machine says, checks that it may be said, and answers as a backend could."""

    def __init__(self, spec: AnySpec) -> None:
        self.spec = spec
        self.now = 1000.0
        self.state = begin(spec, plan_members(spec))
        self.requests: list[tuple[str, ...]] = []
        self.held: set[str] = set()
        self.processes: dict[str, int] = {}
        self.joined: set[str] = set()
        self.stopping: set[str] = set()
        self.informed: set[str] = set()
        self.attempts: dict[str, int] = {}
        self.replaced: dict[str, int] = {}
        self.finishes = 0
        self.cancelled = False
        self.tell(Submitted())

    def tell(self, signal: Signal) -> None:
        self.cancelled = isinstance(signal, Cancel)
        self.state, orders = advance(self.state, signal, self.now)
        for order in orders:
            assert self.finishes == 0, f"{order} after the end"
            self.execute(order)
        self.check()

    def execute(self, order: Instruction) -> None:
        match order:
            case Reserve(plans=plans):
                names = tuple(plan.member for plan in plans)
                assert not self.held & set(names), "reserved twice"
                self.requests.append(names)
            case Release(plans=plans):
                gone = {plan.member for plan in plans}
                assert not gone & self.processes.keys(), "resources given back under a living process"
                self.held -= gone
                self.requests = [names for names in self.requests if not gone & set(names)]
            case Start(plan=plan, attempt=attempt):
                name = plan.member
                assert name in self.held, "started without its resources"
                assert name not in self.processes, "two processes of one member"
                assert attempt == self.attempts.get(name, 0) + 1
                self.attempts[name] = self.processes[name] = attempt
            case Stop(member=name, attempt=attempt):
                assert self.processes.get(name) == attempt, "stopped what does not live"
                assert name not in self.stopping or self.cancelled, "stopped twice"
                self.stopping.add(name)
            case Broadcast(membership=membership):
                for peer in membership.peers:
                    assert peer.address == f"host:{peer.member}.{self.processes[peer.member]}", "of another attempt"
                self.informed = {peer.member for peer in membership.peers}
                assert self.informed == self.joined - self.stopping, "not everybody who is there"
            case Finish():
                assert not self.processes, "finished over living processes"
                assert not self.held, "finished with resources in hand"
                assert not self.requests
                self.finishes += 1

    # what can happen next

    def possibilities(self) -> list[Callable[[], None]]:
        found: list[Callable[[], None]] = [
            partial(self.wait, 0.05),
            partial(self.wait, 70.0),
            partial(self.wait, max(0.0, (deadline(self.state) or 0.0) - self.now)),
            *(partial(self.scale, replicas) for replicas in (0, 1, 3) if isinstance(self.spec, Service)),
            *(partial(self.admit, names) for names in self.requests),
        ]
        for name, attempt in self.processes.items():
            if name in self.joined:
                found += [partial(self.tell, Alive(name, attempt)), partial(self.replace, name)]
                found += [partial(self.tell, Ready(name, attempt, f"unix:/{name}"))]
                found += [
                    partial(self.tell, Reached(name, attempt, peer, number, number % 2 == 0))
                    for peer, number in self.processes.items()
                    if peer != name
                ]
            else:
                found += [partial(self.join, name)] * 2
            found += [partial(self.end, name, evidence) for evidence in (CRASH, killed(9))]
            if name in self.informed or not isinstance(self.spec, Gang):
                found += [partial(self.end, name, SUCCESS)]
        return found + [partial(self.remember, name) for name in self.attempts]

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.tell(Tick())

    def admit(self, names: tuple[str, ...]) -> None:
        self.requests.remove(names)
        self.held |= set(names)
        self.tell(Admitted(names))

    def join(self, name: str) -> None:
        self.joined.add(name)
        self.tell(Joined(name, self.processes[name], f"host:{name}.{self.processes[name]}"))

    def end(self, name: str, evidence: Evidence) -> None:
        attempt = self.processes.pop(name)
        for group in (self.joined, self.stopping, self.informed):
            group.discard(name)
        self.tell(Ended(name, attempt, evidence))

    def replace(self, name: str) -> None:
        if name not in self.stopping:
            self.replaced[name] = self.replaced.get(name, 0) + 1
        self.tell(Replace(name))

    def scale(self, replicas: int) -> None:
        self.tell(Scale(replicas))
        if self.state.ending is None:
            assert sum(not member.leaving for member in self.state.members.values()) == replicas

    def remember(self, name: str) -> None:
        """A word from an attempt that is over."""
        attempt = self.attempts[name] - (1 if name in self.processes else 0)
        before = self.state
        for late in (Joined(name, attempt, "host:old"), Ready(name, attempt, "old"), Ended(name, attempt, CRASH)):
            self.tell(late)
        assert self.state == before, "an attempt that is over was heard"

    # what always holds

    def check(self) -> None:
        members = self.state.members
        assert {name for name, member in members.items() if member.phase in LIVE} == self.processes.keys()
        limit = deadline(self.state)
        assert limit is None or limit > self.now, "the supervisor would spin"
        if self.finishes:
            assert limit is None
            return
        if self.spec.restart.budget >= 0:
            repeats = [number - 1 - self.replaced.get(name, 0) for name, number in self.attempts.items()]
            together = isinstance(self.spec, Gang) and not self.spec.restart.alone
            assert (max(repeats, default=0) if together else sum(repeats)) <= self.spec.restart.budget
        phases = {member.phase for member in members.values()}
        if Phase.BACKOFF in phases:
            assert limit is not None or self.stopping, "a back-off that never ends"
        if self.state.ending is not None:
            assert self.processes, "nothing is left to wait for"
            assert self.processes.keys() == self.stopping, "a process that nobody stops"
        at_rest = not phases & {Phase.STARTING, Phase.STOPPING, Phase.BACKOFF}
        if isinstance(self.spec, Gang) and at_rest:
            assert self.joined == self.informed, "somebody waits for the membership"


@settings(max_examples=1000, deadline=None)
@given(
    spec=specs,
    choices=st.lists(st.integers(0, 10**6), min_size=40, max_size=60),
    last=st.sampled_from([Cancel(), Drain()]),
)
def test_whatever_happens_the_rules_hold_and_the_job_ends_once(spec: AnySpec, choices: list[int], last: Signal) -> None:
    world = World(spec)
    for choice in choices:
        possible = world.possibilities()
        possible[choice % len(possible)]()
    world.tell(last)
    for name in list(world.processes):
        world.end(name, killed(9))
    assert world.finishes == 1
    world.tell(Cancel())
    assert world.finishes == 1
