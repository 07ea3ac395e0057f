"""The queue for placement groups, against a cluster that a test controls."""

import threading
from collections.abc import Iterator

import pytest

from ganglion.backends.ray.leases import Leases, Shape
from ganglion.core.resources import Resources, total
from ganglion.testing.recorder import PATIENCE

CORE = Resources(cpu=1.0)
HALF = Resources(cpu=0.5)


class _Group:
    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.needed = total(shape.bundles)
        self.state = "asked"


class _Machine:
    """Two cores; tries the groups that it is asked for in the order of their sizes, the smallest first."""

    def __init__(self) -> None:
        self.groups: list[_Group] = []
        self.changed = threading.Condition()

    def create(self, shape: Shape) -> _Group:
        with self.changed:
            self.groups.append(_Group(shape))
            self.serve()
            return self.groups[-1]

    def wait(self, group: _Group) -> tuple[str, ...] | None:
        with self.changed:
            self.changed.wait_for(lambda: group.state != "asked")
            return ("here",) * len(group.shape.bundles) if group.state == "held" else None

    def remove(self, group: _Group) -> None:
        with self.changed:
            group.state = "removed"
            self.serve()

    def serve(self) -> None:
        for group in sorted(self.groups, key=lambda group: group.needed.cpu):
            held = total([group.needed for group in self.groups if group.state == "held"])
            if group.state == "asked" and (held + group.needed).cpu <= 2.0:
                group.state = "held"
        self.changed.notify_all()

    def await_state(self, number: int, state: str) -> None:
        with self.changed:
            assert self.changed.wait_for(
                lambda: len(self.groups) > number and self.groups[number].state == state, PATIENCE
            )

    @property
    def states(self) -> list[str]:
        return [group.state for group in self.groups]


class _Grants:
    def __init__(self, leases: Leases) -> None:
        self.leases = leases
        self.order: list[str] = []
        self.changed = threading.Condition()

    def ask(self, name: str, *bundles: Resources, detached: bool = False) -> None:
        keys = [(name, str(number)) for number in range(len(bundles))]
        self.leases.ask(keys, Shape(bundles=bundles, detached=detached), lambda: self.take(name))

    def take(self, name: str) -> None:
        with self.changed:
            self.order.append(name)
            self.changed.notify_all()

    def wait(self, *names: str) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.order) >= len(names), PATIENCE), self.order
            assert tuple(self.order) == names

    def give_back(self, name: str, count: int = 1) -> None:
        self.leases.give_back([(name, str(number)) for number in range(count)])


@pytest.fixture
def machine() -> _Machine:
    return _Machine()


@pytest.fixture
def leases(machine: _Machine) -> Iterator[Leases]:
    leases = Leases(machine)
    yield leases
    leases.close()


@pytest.fixture
def grants(leases: Leases) -> _Grants:
    return _Grants(leases)


def test_each_member_of_a_lease_has_its_bundle(leases: Leases, grants: _Grants):
    grants.ask("gang", CORE, HALF)
    grants.wait("gang")
    first, second = leases.find(("gang", "0")), leases.find(("gang", "1"))
    assert first is not None
    assert second is not None
    assert (first[0], first[1], second[1]) == (second[0], 0, 1)
    assert leases.find(("gang", "2")) is None


def test_nobody_overtakes_the_head_of_the_queue(machine: _Machine, grants: _Grants):
    """The machine itself would give the half core that is free to the small task, and starve the gang."""
    grants.ask("holder", CORE, HALF)
    grants.wait("holder")
    grants.ask("gang", CORE, CORE)
    grants.ask("small", HALF)
    machine.await_state(1, "asked")
    assert len(machine.groups) == 2
    grants.give_back("holder", 2)
    grants.wait("holder", "gang")
    grants.give_back("gang", 2)
    grants.wait("holder", "gang", "small")


def test_a_lease_that_is_given_back_serves_the_next_request_of_its_shape(machine: _Machine, grants: _Grants):
    grants.ask("first", CORE, CORE)
    grants.wait("first")
    grants.ask("second", CORE, CORE)
    machine.await_state(1, "asked")
    grants.give_back("first", 2)
    grants.wait("first", "second")
    machine.await_state(1, "removed")
    assert machine.states == ["held", "removed"]


def test_a_gang_gives_back_its_lease_with_its_last_member(machine: _Machine, leases: Leases, grants: _Grants):
    grants.ask("gang", CORE, CORE)
    grants.wait("gang")
    leases.give_back([("gang", "0")])
    grants.ask("next", CORE)
    machine.await_state(1, "asked")
    leases.give_back([("gang", "1")])
    grants.wait("gang", "next")


def test_an_idle_lease_does_not_stay(machine: _Machine, grants: _Grants):
    grants.ask("task", CORE)
    grants.wait("task")
    grants.give_back("task")
    machine.await_state(0, "removed")


def test_what_is_withdrawn_is_not_granted(machine: _Machine, grants: _Grants):
    grants.ask("holder", CORE, CORE)
    grants.wait("holder")
    grants.ask("impatient", CORE)
    machine.await_state(1, "asked")
    grants.give_back("impatient")
    machine.await_state(1, "removed")
    grants.ask("patient", HALF)
    grants.give_back("holder", 2)
    grants.wait("holder", "patient")


def test_closing_keeps_only_what_outlives_the_process(machine: _Machine, grants: _Grants):
    grants.ask("service", HALF, detached=True)
    grants.wait("service")
    grants.ask("task", HALF)
    grants.wait("service", "task")
    grants.ask("waiting", CORE, CORE)
    machine.await_state(2, "asked")
    grants.leases.close()
    assert machine.states == ["held", "removed", "removed"]


def test_a_detached_lease_is_given_back_at_once(machine: _Machine, grants: _Grants):
    """Idle, it would be nobody's if this process were killed."""
    grants.ask("service", HALF, detached=True)
    grants.wait("service")
    grants.give_back("service")
    machine.await_state(0, "removed")


def test_a_machine_that_refuses_once_is_asked_again(
    machine: _Machine, grants: _Grants, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("ganglion.backends.ray.leases.RETRY", 0.01)
    create, refusals = machine.create, iter([ConnectionError("the cluster is busy")])

    def refuse_once(shape: Shape) -> _Group:
        for error in refusals:
            raise error
        return create(shape)

    monkeypatch.setattr(machine, "create", refuse_once)
    grants.ask("task", CORE)
    grants.wait("task")
