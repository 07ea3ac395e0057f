"""The life of a job as a pure function: `advance(state, signal, now) -> (state, instructions)`.

No input or output happens here: signals say what happened, instructions say what to do, and time is passed in
(monotonic seconds). The supervisor executes; tests drive the machine with lists of signals and start no process.

The rules:
- The members that must start together are reserved all or none, within the admission deadline; then they are started.
  Members beyond the minimum, and replicas, are reserved one by one and start as resources come.
- A gang is told its membership once everyone who started together has joined, and again after every change.
- A member that fails is started again while the budget lasts: alone, or (a gang by default) everyone together. A gang
  with an explicit minimum goes on without it. Otherwise the job fails, the member is the culprit, the others are
  stopped at once.
- An elastic gang (`Gang.elastic`) goes on without those it lost while they are replaced, and is told so at once. It
  ends with the first member that returns, and fails with the first that raises.
- A member of an elastic gang that cannot be reached, by the controller (`presence`) or by others (`links`), is left out
  of the membership until it can; its process is given up only when it was not heard of for `lost_after`, or for a time
  that suits anybody.
- A job ends with the members that complete; the others (parameter servers) are then drained. Replicas never complete:
  a service ends when it is drained or cancelled.
"""

from __future__ import annotations

import math

import msgspec

from ganglion.core.events import ExitKind
from ganglion.execution.exits import Evidence, StopReason, classify
from ganglion.execution.instructions import (
    Broadcast,
    Finish,
    Instruction,
    LeaveOut,
    Release,
    Reserve,
    Start,
    Stop,
    TakeBack,
)
from ganglion.execution.job_state import LIVE, JobState, MemberState, Phase
from ganglion.execution.limits import admission_limit, deadline, due_at, limits, presences
from ganglion.execution.links import cut_off
from ganglion.execution.member import Membership, Peer
from ganglion.execution.outcome import Outcome, OutcomeState
from ganglion.execution.presence import LATE, PULSE, due, hear, silent
from ganglion.execution.signals import (
    Accused,
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
)
from ganglion.execution.spec import AnySpec, Gang, MemberPlan, Service, plan_replica

FAILURE_GRACE = 0.3
"""Seconds that the other members of a failed gang get to end: their work is lost anyway."""

STEADY = 60.0
"""Seconds after which a member that stayed up has its earlier failures forgiven when its back-off is computed."""


def begin(spec: AnySpec, plans: tuple[MemberPlan, ...]) -> JobState:
    """The state of a job before anything happened; its admission deadline counts from `Submitted`."""
    return JobState(spec=spec, submitted=math.inf, members={plan.member: MemberState(plan=plan) for plan in plans})


def advance(state: JobState, signal: Signal, now: float) -> tuple[JobState, tuple[Instruction, ...]]:
    """Take one signal into account.

    Args:
        state: the job so far; not changed.
        signal: what happened. Signals about attempts that are over are ignored.
        now: monotonic seconds.

    Returns:
        The new state and what has to be done, in order.
    """
    if state.outcome is not None:
        return state, ()
    transition = _Transition(state, now)
    transition.take(signal)
    transition.settle()
    return transition.state, tuple(transition.instructions)


class _Transition:
    """One call of `advance`: collects instructions and builds the next state."""

    def __init__(self, state: JobState, now: float) -> None:
        self.state = state
        self.now = now
        self.late = now > (deadline(state) or math.inf) + LATE
        self.instructions: list[Instruction] = []

    # state

    def change(self, **fields: object) -> None:
        self.state = msgspec.structs.replace(self.state, **fields)

    def put(self, member: MemberState, **fields: object) -> MemberState:
        changed = msgspec.structs.replace(member, **fields)
        self.change(members={**self.state.members, member.plan.member: changed})
        return changed

    def current(self, name: str, attempt: int) -> MemberState | None:
        member = self.state.members.get(name)
        return member if member is not None and member.attempt == attempt and member.phase in LIVE else None

    @property
    def elastic(self) -> bool:
        return isinstance(self.state.spec, Gang) and self.state.spec.elastic

    @property
    def members(self) -> list[MemberState]:
        return list(self.state.members.values())

    # signals

    def take(self, signal: Signal) -> None:
        match signal:
            case Submitted():
                self.submit()
            case Admitted(members=names):
                self.admit(names)
            case Joined(member=name, attempt=attempt, address=address, endpoint=endpoint):
                self.join(name, attempt, address, endpoint)
            case Ready(member=name, attempt=attempt, endpoint=endpoint):
                self.serve(name, attempt, endpoint)
            case Alive(member=name, attempt=attempt, pulse=pulse):
                if member := self.current(name, attempt):
                    self.notice(member, pulse)
            case Ended(member=name, attempt=attempt, evidence=evidence):
                if member := self.current(name, attempt):
                    self.end(member, evidence)
            case Accused(member=name, attempt=attempt):
                serves = isinstance(self.state.spec, Service)
                if (self.elastic or serves) and (member := self.current(name, attempt)):
                    self.stop(member, StopReason.LOST, 0.0)
            case Reached(member=name, attempt=attempt, peer=peer, number=number, works=works):
                if self.elastic and self.current(name, attempt) and self.current(peer, number):
                    self.link(frozenset({(name, attempt), (peer, number)}), works)
            case Cancel() if self.state.ending is not None:
                self.hurry()
            case Cancel():
                self.finish_with(Outcome(state=OutcomeState.CANCELLED, message="cancelled"), StopReason.CANCELLED)
            case Drain():
                self.finish_with(Outcome(state=OutcomeState.SUCCEEDED), StopReason.DRAINED)
            case Scale(replicas=replicas):
                self.scale(replicas)
            case Replace(member=name):
                member = self.state.members.get(name)
                if member is not None and member.phase in LIVE:
                    self.stop(member, None, self.state.spec.grace)
            case _:
                pass
        self.enforce()

    def submit(self) -> None:
        self.change(submitted=self.now, admitted=not self.state.members)
        required = tuple(member.plan for member in self.members if member.plan.required)
        if required:
            self.instructions.append(Reserve(required))
        else:
            self.reserve_optional()

    def reserve_optional(self) -> None:
        self.instructions += [Reserve((member.plan,)) for member in self.members if not member.plan.required]

    def admit(self, names: tuple[str, ...]) -> None:
        known = [self.state.members[name] for name in names if name in self.state.members]
        waiting = [member for member in known if member.phase is Phase.WAITING and not member.leaving]
        if self.state.ending is not None or not waiting:
            return
        first = not self.state.admitted
        self.change(admitted=True)
        for member in waiting:
            if self.state.regrouping:
                self.put(member, phase=Phase.BACKOFF)
            else:
                self.start(member)
        if first and any(member.plan.required for member in waiting):
            self.reserve_optional()

    def start(self, member: MemberState) -> None:
        started = self.put(
            member,
            phase=Phase.STARTING,
            attempt=member.attempt + 1,
            since=self.now,
            seen=None,
            presence=None,
            away=False,
            left_out="",
            address="",
            endpoint="",
            reason=None,
            resume_at=None,
        )
        self.instructions.append(Start(started.plan, started.attempt))

    def join(self, name: str, attempt: int, address: str, endpoint: str) -> None:
        member = self.current(name, attempt)
        if member is None:
            return
        if member.phase is Phase.STARTING:
            member = self.put(member, phase=Phase.RUNNING, seen=self.now, address=address)
            self.broadcast()
        elif self.elastic and not endpoint:
            self.broadcast()  # it dialled again, and may have missed something
        if endpoint:
            self.serve(name, attempt, endpoint)

    def notice(self, member: MemberState, pulse: float | None) -> None:
        """A sign of life; whoever was left out takes part again."""
        presence = member.presence if pulse is None else hear(member.presence, self.now, pulse)
        member = self.put(member, seen=self.now, presence=presence)
        if member.away:
            self.serve(member.plan.member, member.attempt, member.endpoint)

    def serve(self, name: str, attempt: int, endpoint: str) -> None:
        member = self.current(name, attempt)
        if member is not None and member.phase is not Phase.STOPPING:
            stayed = member.phase is Phase.READY and not member.away
            entered = member.entered if stayed else self.state.generation + 1
            presence = member.presence and hear(member.presence, self.now, 0.0)
            member = self.put(member, phase=Phase.READY, endpoint=endpoint, seen=self.now, presence=presence)
            self.put(member, away=False, entered=entered)
            if self.elastic:
                self.form()

    def link(self, pair: frozenset[tuple[str, int]], works: bool) -> None:
        """Two members can or cannot reach each other."""
        self.change(broken=self.state.broken - {pair} if works else self.state.broken | {pair})
        ready = (member for member in self.members if member.phase is Phase.READY)
        if {member.plan.member for member in ready if member.left_out} != self.outside().keys():
            self.broadcast()

    def outside(self) -> dict[str, str]:
        """Who of those who are ready does not take part, and why."""
        if not self.elastic or not self.state.formed:
            return {}
        ready = {name: member for name, member in self.state.members.items() if member.phase is Phase.READY}
        heard = [name for name, member in ready.items() if not member.away]
        now = {(name, ready[name].attempt) for name in heard}
        broken = {frozenset(name for name, _ in pair) for pair in self.state.broken if pair <= now}
        cut = cut_off(heard, broken, [name for name in heard if ready[name].left_out])
        peers = {name: sorted(other for pair in broken if name in pair for other in pair - cut) for name in cut}
        return {name: "it is not heard of" for name in ready if name not in heard} | {
            name: f"it and {', '.join(peers[name])} cannot reach each other" for name in cut
        }

    def sort_out(self) -> None:
        """Leave out those who cannot be reached, take back those who can, and say so."""
        outside = self.outside()
        ready = [member for member in self.members if member.phase is Phase.READY]
        numbers = (len(ready) - len(outside), len(ready))
        for member in ready:
            name, reason = member.plan.member, outside.get(member.plan.member, "")
            if reason and not member.left_out:
                self.instructions.append(LeaveOut(name, member.attempt, reason, *numbers))
            elif member.left_out and not reason:
                member = self.put(member, entered=self.state.generation + 1)
                self.instructions.append(TakeBack(name, member.attempt, *numbers))
            self.put(member, left_out=reason)

    def form(self) -> None:
        """Let the members of an elastic gang take part, once all that start together are ready."""
        waiting = any(member.phase is not Phase.READY for member in self.members if member.plan.required)
        self.change(formed=self.state.formed or not waiting)
        if self.state.formed:
            self.broadcast()

    def broadcast(self) -> None:
        """Tell a gang who is in it, once everyone that it cannot do without has joined."""
        if not isinstance(self.state.spec, Gang) or self.state.ending is not None or self.state.regrouping:
            return
        waiting = [member for member in self.members if member.phase in (Phase.STARTING, Phase.BACKOFF)]
        if not self.state.formed and any(member.plan.required for member in waiting):
            return
        self.sort_out()
        peers = tuple(
            Peer(
                member=member.plan.member,
                role=member.plan.role,
                index=member.plan.index,
                rank=member.plan.rank,
                address=member.address,
                attempt=member.attempt,
                endpoint=member.endpoint if self.state.formed and not member.left_out else "",
                entered=member.entered,
            )
            for member in self.members
            if member.phase in (Phase.RUNNING, Phase.READY)
        )
        if peers:
            generation = self.state.generation + 1
            self.change(generation=generation)
            self.instructions.append(Broadcast(Membership(generation=generation, peers=peers)))

    def stop(self, member: MemberState, reason: StopReason | None, grace: float) -> None:
        if member.phase in LIVE and member.phase is not Phase.STOPPING:
            self.put(member, phase=Phase.STOPPING, reason=reason)
            self.instructions.append(Stop(member.plan.member, member.attempt, grace))
        elif member.phase in (Phase.WAITING, Phase.BACKOFF):
            self.put(member, phase=Phase.ENDED, reason=reason)

    def end(self, member: MemberState, evidence: Evidence) -> None:
        exit_ = classify(evidence, member.reason)
        replaced = member.phase is Phase.STOPPING and member.reason is None
        steady = member.seen is not None and self.now - member.since >= STEADY
        failures = 0 if steady else member.failures
        over = (member.plan.member, member.attempt)
        self.change(broken=frozenset(pair for pair in self.state.broken if over not in pair))
        member = self.put(member, phase=Phase.ENDED, exit=exit_, failures=failures)
        if self.state.ending is not None or member.leaving:
            return
        self.change(formed=self.state.formed and any(other.phase is Phase.READY for other in self.members))
        if replaced:
            self.put(member, phase=Phase.BACKOFF, resume_at=self.now)
            if self.elastic:
                self.broadcast()
        elif self.state.regrouping:
            self.put(member, phase=Phase.BACKOFF)
        elif exit_.kind is not ExitKind.SUCCESS or isinstance(self.state.spec, Service):
            self.fail(self.put(member, failures=failures + 1))

    def fail(self, member: MemberState) -> None:
        spec = self.state.spec
        restart = spec.restart
        raised = member.exit is not None and member.exit.kind is ExitKind.EXCEPTION
        if self.elastic and raised:
            self.give_up(member)
        elif restart.budget < 0 or self.state.restarts < restart.budget:
            self.change(restarts=self.state.restarts + 1)
            resume_at = self.now + restart.delay(member.failures)
            self.put(member, phase=Phase.BACKOFF, resume_at=resume_at)
            if self.elastic:
                self.broadcast()
            elif isinstance(spec, Gang) and not restart.alone:
                self.change(regrouping=True)
                for other in self.members:
                    if other.phase in LIVE:
                        self.stop(other, StopReason.CANCELLED, FAILURE_GRACE)
                    elif other.phase is Phase.ENDED:
                        self.put(other, phase=Phase.BACKOFF)
        elif self.survives(member):
            self.broadcast()
        else:
            self.give_up(member)

    def give_up(self, member: MemberState) -> None:
        """End the job as failed; `member` is the culprit."""
        exit_ = member.exit
        outcome = Outcome(
            state=OutcomeState.FAILED,
            message=f"{member.plan.member} {exit_.kind.value}: {exit_.message}" if exit_ else "",
            culprit=member.plan.member,
        )
        self.finish_with(outcome, StopReason.CANCELLED, FAILURE_GRACE)

    def survives(self, member: MemberState) -> bool:
        """Whether a gang with an explicit minimum goes on without this member."""
        spec = self.state.spec
        if not isinstance(spec, Gang):
            return False
        role = next(role for role in spec.roles if role.name == member.plan.role)
        alive = sum(other.plan.role == role.name and other.phase in LIVE for other in self.members)
        return role.minimum is not None and alive >= max(1, role.minimum)

    def scale(self, replicas: int) -> None:
        spec = self.state.spec
        if not isinstance(spec, Service) or self.state.ending is not None:
            return
        self.change(admitted=self.state.admitted or replicas == 0)
        staying = [member for member in self.members if not member.leaving and member.phase is not Phase.ENDED]
        for member in staying[replicas:]:
            self.stop(self.put(member, leaving=True), StopReason.DRAINED, spec.grace)
        next_index = 1 + max((member.plan.index for member in self.members), default=-1)
        for index in range(next_index, next_index + replicas - len(staying)):
            plan = plan_replica(spec, index)
            self.change(members={**self.state.members, plan.member: MemberState(plan=plan)})
            self.instructions.append(Reserve((plan,)))

    def finish_with(self, outcome: Outcome, reason: StopReason, grace: float | None = None) -> None:
        if self.state.ending is not None:
            return
        self.change(ending=outcome)
        for member in self.members:
            self.stop(member, reason, self.state.spec.grace if grace is None else grace)

    def hurry(self) -> None:
        """Cut short the grace of members that are ending already."""
        self.instructions += [
            Stop(member.plan.member, member.attempt, FAILURE_GRACE)
            for member in self.members
            if member.phase is Phase.STOPPING
        ]

    # time and consequences

    def enforce(self) -> None:
        """Act on every limit that has passed and every back-off that is over."""
        if self.late and (self.elastic or self.state.spec.lost_after is not None):  # then it matters who was heard
            self.change(look_at=self.now + PULSE)
        state, spec = self.state, self.state.spec
        if state.ending is None and self.now >= admission_limit(state):
            needs = " + ".join(str(member.plan.resources) for member in self.members if member.plan.required)
            message = f"no resources within {spec.admission_timeout:g} s (needs {needs or spec.resources})"
            self.finish_with(Outcome(state=OutcomeState.FAILED, message=message), StopReason.CANCELLED)
        for member in self.members:
            for at, reason in limits(spec, member):
                if (
                    self.now >= due_at(at, reason, self.state)
                    and self.state.members[member.plan.member].phase is not Phase.STOPPING
                ):
                    self.stop(member, reason, spec.grace)
        if self.state.ending is None:
            self.miss()
            self.resume()

    def miss(self) -> None:
        """Leave out those who have become silent, unless it is this machine that was late or is cut off."""
        pulses = presences(self.state)
        missed = due(pulses.values())
        if missed is None or self.now < max(missed, self.state.look_at):
            return
        gone = silent(pulses, self.now)
        for name in gone:
            self.put(self.state.members[name], away=True)
        if gone:
            self.broadcast()
        else:
            self.change(look_at=self.now + PULSE)

    def resume(self) -> None:
        waiting = [member for member in self.members if member.phase is Phase.BACKOFF]
        if self.state.regrouping:
            if any(member.phase in LIVE for member in self.members):
                return
            at = max((member.resume_at for member in waiting if member.resume_at is not None), default=self.now)
            waiting = [self.put(member, resume_at=at) for member in waiting]
            self.change(regrouping=False)
        for member in waiting:
            if member.resume_at is None or self.now >= member.resume_at:
                self.start(member)

    def settle(self) -> None:
        """End the job when nothing is left to wait for."""
        if self.state.ending is None and self.state.admitted:
            completing = [member for member in self.members if member.plan.completes]
            pending = [member for member in completing if member.phase not in (Phase.ENDED, Phase.WAITING)]
            returned = any(member.exit is not None and member.exit.kind is ExitKind.SUCCESS for member in completing)
            over = not pending and any(member.phase is Phase.ENDED for member in completing)
            if over or (self.elastic and returned):
                self.finish_with(Outcome(state=OutcomeState.SUCCEEDED), StopReason.DRAINED)
        for member in self.members:
            if member.leaving and member.phase is Phase.ENDED:
                self.put(member, phase=Phase.GONE)
                self.instructions.append(Release((member.plan,)))
        state = self.state
        if state.ending is not None and not any(member.phase in LIVE for member in self.members):
            exits = {name: member.exit for name, member in state.members.items() if member.exit is not None}
            outcome = msgspec.structs.replace(state.ending, exits=exits)
            self.change(outcome=outcome)
            self.instructions.append(Release(tuple(member.plan for member in self.members)))
            self.instructions.append(Finish(outcome))
