"""Task, Gang and Service as values, and how they are laid out into members."""

import msgspec
import pytest
from lifecycle_driver import ENTRY

from ganglion.core.errors import SpecError
from ganglion.core.resources import Resources
from ganglion.execution.spec import (
    ALWAYS,
    AnySpec,
    Gang,
    Numerics,
    OnControlLoss,
    Restart,
    Role,
    Service,
    Task,
    plan_members,
    plan_replica,
)


def test_a_task_has_one_member():
    (plan,) = plan_members(Task(id="job", entry=ENTRY, resources=Resources(cpu=2.0)))
    assert (plan.member, plan.rank, plan.world, plan.required, plan.completes) == ("task-0", 0, 1, True, True)
    assert plan.resources == Resources(cpu=2.0)
    assert plan.key == ("job", "task-0")


def test_ranks_count_through_the_roles_in_order():
    large = Resources(cpu=4.0)
    roles = (
        Role(name="chief"),
        Role(name="worker", count=3, minimum=1),
        Role(name="ps", completes=False, resources=large),
    )
    plans = plan_members(Gang(id="job", entry=ENTRY, roles=roles))
    assert [plan.member for plan in plans] == ["chief-0", "worker-0", "worker-1", "worker-2", "ps-0"]
    assert [plan.rank for plan in plans] == [0, 1, 2, 3, 4]
    assert {plan.world for plan in plans} == {5}
    assert [plan.required for plan in plans] == [True, True, False, False, True]
    assert [plan.completes for plan in plans] == [True, True, True, True, False]
    assert [plan.resources.cpu for plan in plans] == [1.0, 1.0, 1.0, 1.0, 4.0]


def test_replicas_are_neither_required_nor_do_they_complete():
    spec = Service(id="job", entry=ENTRY, replicas=2)
    plans = plan_members(spec)
    assert [plan.member for plan in plans] == ["replica-0", "replica-1"]
    assert not any(plan.required or plan.completes for plan in plans)
    assert plan_replica(spec, 7).member == "replica-7"
    assert plan_members(Service(id="job", entry=ENTRY, replicas=0)) == ()


@pytest.mark.parametrize("fields", [{"count": 0}, {"count": 2, "minimum": 3}, {"count": 2, "minimum": -1}])
def test_a_role_that_cannot_be_is_refused(fields):
    with pytest.raises(SpecError, match="0 <= minimum <= count"):
        Role(**fields)


@pytest.mark.parametrize("roles", [(), (Role(name="a"), Role(name="a"))])
def test_a_gang_needs_roles_of_different_names(roles):
    with pytest.raises(SpecError, match="roles of different names"):
        plan_members(Gang(id="job", entry=ENTRY, roles=roles))


def test_a_gang_in_which_nobody_completes_is_refused():
    with pytest.raises(SpecError, match="could never end"):
        plan_members(Gang(id="job", entry=ENTRY, roles=(Role(name="ps", completes=False),)))


def test_defaults_of_the_primitives():
    assert Task(id="job", entry=ENTRY).restart.budget == 0
    assert Gang(id="job", entry=ENTRY).restart.budget == 0
    assert Service(id="job", entry=ENTRY).restart == ALWAYS
    assert Task(id="job", entry=ENTRY).on_control_loss is OnControlLoss.STOP


def test_the_delay_doubles_from_the_first_failure():
    restart = Restart(backoff=0.5, longest=3.0)
    assert [restart.delay(failures) for failures in range(5)] == [0.5, 0.5, 1.0, 2.0, 3.0]
    assert restart.delay(1000) == 3.0


def test_a_delay_never_overflows():
    assert Restart(backoff=0.5, longest=3.0).delay(100_000) == 3.0


def test_numerics_are_the_variables_of_every_library():
    found = Numerics(threads=3, instructions="avx2").environment()
    assert {found[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")} == {"3"}
    assert (found["ATEN_CPU_CAPABILITY"], found["ONEDNN_MAX_CPU_ISA"]) == ("avx2", "AVX2")
    assert "ATEN_CPU_CAPABILITY" not in Numerics().environment()
    assert Numerics(mkl="AUTO").environment()["MKL_CBWR"] == "AUTO"
    assert "MKL_CBWR" not in Numerics().environment()


@pytest.mark.parametrize("kind", [Task, Gang, Service])
@pytest.mark.parametrize("codec", [msgspec.json, msgspec.msgpack])
def test_a_spec_is_plain_data(kind, codec):
    spec = kind(
        id="job",
        entry=ENTRY,
        arguments={"a": [1, 2.5, None]},
        timeout=3.0,
        restart=Restart(budget=2),
        labels={"run": "r"},
    )
    assert codec.decode(codec.encode(spec), type=AnySpec) == spec
