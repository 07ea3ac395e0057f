"""The three shapes of execution, as values: Task, Gang, Service.

A spec says what to run and under which rules. It is plain data, so that one spec reads the same in a record, a log
and a manifest. A backend renders it to one `MemberPlan` for each process.
"""

from __future__ import annotations

import enum
from typing import Any

import msgspec

from ganglion.core.errors import SpecError
from ganglion.core.resources import Resources
from ganglion.execution.entry import Entry


class OnControlLoss(enum.StrEnum):
    """What a process does when the process that controls it is gone."""

    STOP = "stop"
    CONTINUE = "continue"


class Restart(msgspec.Struct, frozen=True, kw_only=True):
    """Which ends are followed by another attempt.

    Attributes:
        budget: how many restarts the job has in all; -1 for no limit.
        backoff: seconds before the first restart of a member; doubled for each further one.
        longest: upper limit of the back-off in seconds.
        alone: only the failed member is started again and the others learn of the new membership; otherwise every
            member of a gang is stopped and started again.
    """

    budget: int = 0
    backoff: float = 0.1
    longest: float = 30.0
    alone: bool = False

    def delay(self, failures: int) -> float:
        """Seconds to wait before restart number `failures` (from 1) of one member."""
        return float(min(self.longest, self.backoff * 2.0 ** min(60, max(0, failures - 1))))


NEVER = Restart()
ALWAYS = Restart(budget=-1, alone=True)


class Numerics(msgspec.Struct, frozen=True, kw_only=True):
    """What changes the bits of a floating-point result and has to be fixed before libraries are loaded.

    Attributes:
        threads: intra-op threads of every numerical library.
        instructions: instruction set, as `ATEN_CPU_CAPABILITY` names it (`default`, `avx2`, `avx512`); empty for the
            best that the machine has.
        mkl: mode of MKL's conditional numerical reproducibility (`MKL_CBWR`), such as `AUTO` or `AVX2`; empty for none.
    """

    threads: int = 1
    instructions: str = ""
    mkl: str = ""

    def environment(self) -> dict[str, str]:
        """Environment variables that fix these numerics, to be set before any library is imported."""
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
        variables = {name: str(self.threads) for name in names}
        if self.instructions:
            variables["ATEN_CPU_CAPABILITY"] = self.instructions
            if self.instructions == "avx2":
                variables["ONEDNN_MAX_CPU_ISA"] = "AVX2"
        if self.mkl:
            variables["MKL_CBWR"] = self.mkl
        return variables


class Spec(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """What Task, Gang and Service have in common.

    Attributes:
        id: id of the job; unique in the state folder of the controller.
        entry: what each process calls.
        arguments: keyword arguments of the entry, plain data.
        resources: what one process needs.
        environment: variables added to each process's environment.
        import_path: folders put at the front of the import path.
        preload: modules that the process finds imported already where the backend can keep them warm.
        numerics: threads and instruction set.
        timeout: seconds after its start at which a process is stopped; `None` for no limit.
        admission_timeout: seconds to wait for resources before the job fails; `None` waits as long as it takes.
        grace: seconds between being asked to stop and being killed.
        lost_after: seconds without a sign of life after which a member that had joined is given up; `None` for never.
        restart: which ends are followed by another attempt.
        on_control_loss: what the processes do when their controller is gone.
        labels: for records and logs (run, step, model).
    """

    id: str
    entry: Entry
    arguments: dict[str, Any] = {}
    resources: Resources = Resources()
    environment: dict[str, str] = {}
    import_path: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()
    numerics: Numerics = Numerics()
    timeout: float | None = None
    admission_timeout: float | None = None
    grace: float = 5.0
    lost_after: float | None = None
    restart: Restart = NEVER
    on_control_loss: OnControlLoss = OnControlLoss.STOP
    labels: dict[str, str] = {}


class Task(Spec, frozen=True, kw_only=True, tag="task"):
    """One process that runs its entry to the end; the value it returns is the result."""


class Role(msgspec.Struct, frozen=True, kw_only=True):
    """Members of a gang that do the same work.

    Attributes:
        name: `worker`, `chief`, `ps`, `evaluator` or the user's own word.
        count: how many members are wanted.
        minimum: how many must start together; the others join as resources come. `None` means all.
        completes: whether the gang has to wait for these members; parameter servers do not complete, they are drained
            once the others have ended.
        resources: what one member needs, if other than the spec says.
    """

    name: str = "worker"
    count: int = 1
    minimum: int | None = None
    completes: bool = True
    resources: Resources | None = None

    def __post_init__(self) -> None:
        if self.count < 1 or not 0 <= self.least <= self.count:
            raise SpecError(
                f"Role {self.name!r}: {self.least} of {self.count} members; 0 <= minimum <= count, count >= 1."
            )

    @property
    def least(self) -> int:
        """How many members must start together."""
        return self.count if self.minimum is None else self.minimum


class Gang(Spec, frozen=True, kw_only=True, tag="gang"):
    """Ranked processes that start together and find each other; ranks are counted through `roles` in order.

    Attributes:
        roles: who takes part.
        elastic: the members go on when some of them are lost, and take in those that replace them. Each says with
            `Member.ready` when and where it can take part; once all that start together have, everyone is told after
            every change who takes part. A member that is lost is started again alone; one that raises an exception
            fails the job, as its work would fail with any other. The job has succeeded when the first member returns:
            whatever they return has to be the same.
    """

    roles: tuple[Role, ...] = (Role(),)
    elastic: bool = False


class Service(Spec, frozen=True, kw_only=True, tag="service"):
    """Long-lived replicas, each ready when its entry says so.

    Attributes:
        replicas: how many are wanted; can be changed while the service runs.
        readiness_timeout: seconds after its start within which a replica has to become ready.
    """

    replicas: int = 1
    readiness_timeout: float = 60.0
    restart: Restart = ALWAYS


AnySpec = Task | Gang | Service


class MemberPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a backend needs to start one process, except what is decided at the start (attempt, control address).

    Attributes:
        spec: the job it belongs to.
        member: id within the job, such as `worker-1`; a task has the one member `task-0`.
        role: name of its role.
        index: number within the role.
        rank: number within the gang; for services the replica's number.
        world: members wanted in all.
        resources: what this process needs.
        required: whether the job cannot start without it.
        completes: whether the job waits for its end.
    """

    spec: AnySpec
    member: str
    role: str
    index: int
    rank: int
    world: int
    resources: Resources
    required: bool = True
    completes: bool = True

    @property
    def key(self) -> tuple[str, str]:
        """Job and member: what a reservation is held under."""
        return self.spec.id, self.member


def plan_members(spec: AnySpec) -> tuple[MemberPlan, ...]:
    """Lay a spec out into members, in rank order; what every backend's `render` begins with."""
    if isinstance(spec, Task):
        roles: tuple[Role, ...] = (Role(name="task"),)
    elif isinstance(spec, Service):
        return tuple(plan_replica(spec, index) for index in range(spec.replicas))
    else:
        roles = spec.roles
    names = [role.name for role in roles]
    if len(set(names)) != len(names) or not names:
        raise SpecError(f"{spec.id}: a gang needs roles of different names; given: {', '.join(names) or 'none'}.")
    world = sum(role.count for role in roles)
    plans: list[MemberPlan] = []
    for role in roles:
        for index in range(role.count):
            plans.append(
                MemberPlan(
                    spec=spec,
                    member=f"{role.name}-{index}",
                    role=role.name,
                    index=index,
                    rank=len(plans),
                    world=world,
                    resources=role.resources or spec.resources,
                    required=index < role.least,
                    completes=role.completes,
                )
            )
    if not any(plan.completes for plan in plans):
        raise SpecError(f"{spec.id}: no role of the gang completes, so it could never end.")
    return tuple(plans)


def plan_replica(spec: Service, index: int) -> MemberPlan:
    """The plan of one replica of a service; also for replicas added later."""
    return MemberPlan(
        spec=spec,
        member=f"replica-{index}",
        role="replica",
        index=index,
        rank=index,
        world=spec.replicas,
        resources=spec.resources,
        required=False,
        completes=False,
    )
