"""Who holds which part of the machine: first come first served, whole or not at all."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ganglion.backends.local.ledger import Ledger
from ganglion.core.resources import Resources, total
from ganglion.execution.entry import Entry
from ganglion.execution.spec import Gang, MemberPlan, Role, plan_members

ENTRY = Entry(path="ganglion.testing.entries:add")


def request(job: str, cpu: float, count: int = 1, **amounts) -> tuple[MemberPlan, ...]:
    spec = Gang(id=job, entry=ENTRY, roles=(Role(count=count),), resources=Resources(cpu=cpu, **amounts))
    return plan_members(spec)


class Desk:
    """A ledger, and who has been served in which order."""

    def __init__(self, declared: Resources) -> None:
        self.ledger = Ledger(declared)
        self.served: list[str] = []

    def ask(self, plans: tuple[MemberPlan, ...]) -> None:
        for grant in self.ledger.ask(plans, lambda: self.served.append(plans[0].spec.id)):
            grant()

    def give_back(self, plans: tuple[MemberPlan, ...]) -> None:
        for grant in self.ledger.give_back(plans):
            grant()


def test_what_fits_is_granted_at_once_and_counted():
    desk = Desk(Resources(cpu=2.0, memory=100))
    desk.ask(request("a", 0.5, 2, memory=30))
    assert desk.served == ["a"]
    assert desk.ledger.free == Resources(cpu=1.0, memory=40)


def test_a_gang_gets_all_or_nothing():
    desk = Desk(Resources(cpu=2.0))
    desk.ask(request("small", 1.0))
    desk.ask(request("gang", 1.0, 2))
    assert desk.served == ["small"]
    assert desk.ledger.free == Resources(cpu=1.0)
    desk.give_back(request("small", 1.0))
    assert desk.served == ["small", "gang"]
    assert desk.ledger.free == Resources(cpu=0.0)


def test_nobody_overtakes_the_head_of_the_queue():
    desk = Desk(Resources(cpu=2.0))
    desk.ask(request("first", 1.0))
    desk.ask(request("large", 2.0))
    desk.ask(request("small", 0.5))
    assert desk.served == ["first"]
    desk.give_back(request("first", 1.0))
    assert desk.served == ["first", "large"]
    desk.give_back(request("large", 2.0))
    assert desk.served == ["first", "large", "small"]


def test_withdrawing_a_request_lets_the_next_one_through():
    desk = Desk(Resources(cpu=2.0))
    desk.ask(request("first", 1.0))
    desk.ask(request("large", 2.0))
    desk.ask(request("small", 0.5))
    desk.give_back(request("large", 2.0))
    assert desk.served == ["first", "small"]


def test_any_resource_can_be_the_one_that_is_missing():
    for scarce in ({"memory": 60}, {"gpu": 0.6}):
        desk = Desk(Resources(cpu=8.0, memory=100, gpu=1.0))
        desk.ask(request("a", 1.0, **scarce))
        desk.ask(request("b", 1.0, **scarce))
        assert desk.served == ["a"]


def test_asking_again_for_what_is_held_takes_nothing_more():
    desk = Desk(Resources(cpu=2.0))
    desk.ask(request("a", 1.0))
    desk.ask(request("a", 1.0))
    assert desk.served == ["a", "a"]
    assert desk.ledger.free == Resources(cpu=1.0)


def test_asking_twice_while_waiting_does_not_wait_for_oneself():
    desk = Desk(Resources(cpu=2.0))
    desk.ask(request("first", 2.0))
    desk.ask(request("gang", 1.0, 2))
    desk.ask(request("gang", 1.0, 2))
    desk.give_back(request("first", 2.0))
    assert desk.served == ["first", "gang", "gang"]


def test_giving_back_what_is_not_held_changes_nothing():
    desk = Desk(Resources(cpu=2.0))
    desk.give_back(request("stranger", 1.0))
    assert desk.ledger.free == Resources(cpu=2.0)


fractions = st.integers(1, 14).map(lambda parts: parts / 7)
asks = st.tuples(fractions, st.integers(1, 4), st.integers(0, 40))


@given(wanted=st.lists(asks, min_size=1, max_size=20), choices=st.lists(st.integers(0, 100), max_size=40))
def test_never_over_committed_and_never_out_of_turn(wanted: list[tuple[float, int, int]], choices: list[int]):
    """Requests of any size come and go in any order; what is too large for the machine is not asked for."""
    machine = Resources(cpu=4.0, memory=100)
    requests = [request(f"job-{n}", cpu, count, memory=memory) for n, (cpu, count, memory) in enumerate(wanted)]
    requests = [plans for plans in requests if total(tuple(plan.resources for plan in plans)).fits(machine)]
    desk = Desk(machine)
    asked: list[str] = []
    gone: set[str] = set()
    to_ask = list(requests)
    for choice in choices:
        if to_ask and choice % 2:
            plans = to_ask.pop(0)
            desk.ask(plans)
            asked.append(plans[0].spec.id)
        elif asked:
            plans = next(plans for plans in requests if plans[0].spec.id == asked[choice % len(asked)])
            desk.give_back(plans)
            gone.add(plans[0].spec.id)
        assert len(set(desk.served)) == len(desk.served)
        held = [plans for plans in requests if plans[0].spec.id in set(desk.served) - gone]
        amounts = [plan.resources for plans in held for plan in plans]
        assert sum(amount.cpu for amount in amounts) <= machine.cpu + 1e-5
        assert sum(amount.memory for amount in amounts) <= machine.memory
        turn = [name for name in asked if name in desk.served]
        assert desk.served == turn, "served out of turn"
        waiting = [name for name in asked if name not in desk.served and name not in gone]
        if waiting:
            head = next(plans for plans in requests if plans[0].spec.id == waiting[0])
            needed = total(tuple(plan.resources for plan in head))
            assert not needed.fits(desk.ledger.free), "the head of the queue fits and waits"
            assert all(asked.index(name) < asked.index(waiting[0]) for name in desk.served)
