"""How a spec is laid out into members where they are forked from warm processes; what never fits is refused."""

from __future__ import annotations

from ganglion.core.errors import SpecError
from ganglion.core.resources import Resources, total
from ganglion.execution.backend import Capacity
from ganglion.execution.spec import AnySpec, MemberPlan, plan_members


def lay_out(spec: AnySpec, capacity: Capacity, *, holder: str, remedy: str) -> tuple[MemberPlan, ...]:
    """Lay `spec` out; pure.

    Args:
        spec: what is to run.
        capacity: what there is if nothing else runs.
        holder: what the capacity belongs to, as in "that this machine declares".
        remedy: what to do about too little of it.

    Raises:
        SpecError: members that have to start together never fit, or one of them fits on no node, or a variable of the
            environment comes too late.
    """
    plans = plan_members(spec)
    if clash := spec.environment.keys() & spec.numerics.environment().keys():
        raise SpecError(
            f"{spec.id}: {', '.join(sorted(clash))} in the environment comes too late for a process that has its "
            "libraries loaded; use numerics instead."
        )
    together = [plan for plan in plans if plan.required]
    needed = total(tuple(plan.resources for plan in together or plans[:1]))
    if missing := needed.missing(capacity.total):
        what = f"{len(together)} members together need" if len(together) > 1 else "one member needs"
        raise SpecError(f"{spec.id} can never start: {what} {missing} that {holder}. {remedy}")
    for plan in plans:
        if not any(plan.resources.fits(node) for node in capacity.nodes):
            missing = plan.resources.missing(capacity.largest) or f"{plan.resources} at once, more than any node"
            raise SpecError(f"{spec.id}: {plan.member} needs {missing} that {holder}. {remedy}")
    for resources in {plan.resources for plan in together}:
        alike = sum(plan.resources == resources for plan in together)
        if (room := _room(resources, capacity.nodes)) < alike:
            raise SpecError(
                f"{spec.id} can never start: {alike} members need {resources} each, and the nodes have room for "
                f"{room} of them. {remedy}"
            )
    return plans


def _room(resources: Resources, nodes: tuple[Resources, ...]) -> int:
    """How many members that need `resources` fit, each on one node."""
    pairs = [
        [(have, need) for have, need in zip(_amounts(node), _amounts(resources), strict=True) if need] for node in nodes
    ]
    return sum(min((int(have / need + 1e-9) for have, need in node), default=2**30) for node in pairs)


def _amounts(resources: Resources) -> tuple[float, float, float]:
    return resources.cpu, resources.memory, resources.gpu
