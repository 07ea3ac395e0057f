"""Who is left out where links between members are broken, by the rule alone and in the lifecycle of a gang."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lifecycle_driver import CRASH, Driver, gang, killed, of, stops

from ganglion.core.events import ExitKind
from ganglion.execution.instructions import Broadcast, LeaveOut, TakeBack
from ganglion.execution.links import cut_off
from ganglion.execution.presence import PULSE
from ganglion.execution.signals import Accused, Alive, Reached
from ganglion.execution.spec import Restart

names = [f"worker-{number}" for number in range(8)]


@st.composite
def networks(draw):
    """Some members in rank order, broken links (of strangers too), and who is out already."""
    members = names[: draw(st.integers(1, 7))]
    broken = draw(st.sets(st.frozensets(st.sampled_from(names), min_size=2, max_size=2), max_size=20))
    return members, broken, draw(st.sets(st.sampled_from(names)))


# the rule


@given(networks())
def test_those_who_go_on_reach_each_other_and_nobody_is_left_out_without_need(network):
    members, broken, already = network
    cut = cut_off(members, broken, already)
    staying = [name for name in members if name not in cut]
    assert staying
    assert not any(frozenset(pair) in broken for pair in combinations(staying, 2))
    for name in cut:
        assert any(frozenset({name, other}) in broken for other in staying)


@given(networks())
def test_whoever_is_out_stays_out_as_long_as_nothing_changes(network):
    members, broken, already = network
    cut = cut_off(members, broken, already)
    assert cut_off(members, broken, cut) == cut


@given(st.data(), st.integers(2, 8))
def test_of_a_network_that_fell_apart_the_largest_side_goes_on(data, count):
    """Of two of the same size the one without the last in rank, unless the other one is out already."""
    members = names[:count]
    side = {name: data.draw(st.integers(0, 2)) for name in members}
    sides = [{name for name in members if side[name] == number} for number in range(3)]
    broken = {frozenset(pair) for pair in combinations(members, 2) if side[pair[0]] != side[pair[1]]}
    cut = cut_off(members, broken)
    staying = set(members) - cut
    assert staying in sides
    assert len(staying) == max(map(len, sides))
    if [one for one in sides if one and len(one) != len(staying)] == [] and cut:
        assert members[-1] in cut
        assert cut_off(members, broken, staying) >= staying


@given(networks())
def test_who_has_no_broken_link_is_never_left_out(network):
    members, broken, already = network
    sound = {name for name in members if not any(name in pair and pair <= set(members) for pair in broken)}
    assert not cut_off(members, broken, already) & sound


# in a gang


class Gang(Driver):
    """Members that take part and pulse."""

    def __init__(self, count: int) -> None:
        super().__init__(gang(count, elastic=True, restart=Restart(budget=2, backoff=1.0, alone=True), lost_after=30.0))
        self.run()
        for name in self.state.members:
            self.ready(name)
        self.pulse(*self.state.members)

    def pulse(self, *members: str, seconds: float = 1.0) -> None:
        for _ in range(round(seconds / PULSE)):
            until = self.now + PULSE
            while self.deadline is not None and self.deadline <= until:
                self.tick_at_deadline()
            self.now = until
            for name in members:
                self.tell(Alive(name, self.member(name).attempt, PULSE))

    def reached(self, one: int, other: int, works: bool) -> list:
        said, peer = f"worker-{one}", f"worker-{other}"
        return self.tell(Reached(said, self.member(said).attempt, peer, self.member(peer).attempt, works))

    def taking_part(self) -> list[int]:
        return [peer.index for peer in self.all(Broadcast)[-1].membership.peers if peer.endpoint]


@pytest.fixture
def trio() -> Gang:
    return Gang(3)


@pytest.mark.parametrize(("one", "other"), [(0, 1), (1, 0)])
def test_the_later_of_two_is_left_out_whoever_says_it_and_returns_as_somebody_who_was_away(one, other):
    pair = Gang(2)
    before = pair.all(Broadcast)[-1].membership.peers
    orders = pair.reached(one, other, False)
    assert of(orders, LeaveOut) == [
        LeaveOut("worker-1", 1, "it and worker-0 cannot reach each other", taking_part=1, members=2)
    ]
    assert pair.taking_part() == [0]
    assert pair.reached(other, one, False) == []  # known already
    assert of(pair.reached(1, 0, True), TakeBack) == [TakeBack("worker-1", 1, taking_part=2, members=2)]
    after = pair.all(Broadcast)[-1].membership
    assert pair.taking_part() == [0, 1]
    assert after.peers[0] == before[0]
    assert after.peers[1].entered == after.generation
    assert not stops(pair.history)


def test_the_larger_side_goes_on(trio):
    trio.reached(0, 1, False)
    trio.reached(0, 2, False)
    assert trio.taking_part() == [1, 2]
    trio.reached(0, 1, True)
    assert trio.taking_part() == [1, 2]
    trio.reached(0, 2, True)
    assert trio.taking_part() == [0, 1, 2]


def test_when_the_other_one_dies_the_one_that_was_left_out_takes_over(trio):
    trio.reached(0, 2, False)
    assert trio.taking_part() == [0, 1]
    trio.end("worker-0", killed(9))
    assert trio.taking_part() == [1, 2]
    assert trio.state.broken == frozenset()


def test_when_the_other_one_falls_silent_the_one_that_was_left_out_takes_over():
    """A host that is cut off from everybody is not heard of, a little later."""
    pair = Gang(2)
    pair.reached(1, 0, False)
    assert pair.taking_part() == [0]
    pair.pulse("worker-1")
    assert pair.taking_part() == [1]
    assert [type(order) for order in pair.history if isinstance(order, (LeaveOut, TakeBack))] == [
        LeaveOut,
        LeaveOut,
        TakeBack,
    ]
    pair.pulse("worker-0", "worker-1")
    assert pair.taking_part() == [1], "the link is still broken, and nobody changes places without need"
    pair.reached(0, 1, True)
    assert pair.taking_part() == [0, 1]


def test_who_is_not_heard_of_is_an_event_and_so_is_its_return():
    pair = Gang(2)
    pair.pulse("worker-0")
    (left,) = pair.all(LeaveOut)
    assert (left.member, left.taking_part, left.members) == ("worker-1", 1, 2)
    assert "not heard of" in left.reason
    assert pair.all(TakeBack) == []
    pair.pulse("worker-0", "worker-1")
    assert pair.all(TakeBack) == [TakeBack("worker-1", 1, 2, 2)]
    assert len(pair.all(LeaveOut)) == 1


def test_words_about_attempts_that_are_over_and_in_gangs_that_stay_together_are_ignored(trio):
    trio.end("worker-2", killed(9))
    trio.tick_at_deadline()
    trio.join("worker-2")
    assert trio.tell(Reached("worker-0", 1, "worker-2", 1, False)) == []
    assert trio.tell(Reached("worker-2", 1, "worker-0", 1, False)) == []
    fixed = Driver(gang(2)).run()
    assert fixed.tell(Reached("worker-0", 1, "worker-1", 1, False)) == []


def test_a_member_that_is_left_out_can_be_lost_and_fail_like_any_other(trio):
    trio.reached(0, 2, False)
    trio.tell(Accused("worker-2", 1))
    assert trio.reached(0, 1, True) == [], "nothing has changed for the others"
    trio.end("worker-2", killed(9))
    assert trio.member("worker-2").exit.kind is ExitKind.LOST
    trio.pulse("worker-0", "worker-1", seconds=1.5)
    trio.join("worker-2")
    trio.ready("worker-2")
    assert trio.taking_part() == [0, 1, 2]
    trio.reached(0, 2, False)
    trio.end("worker-2", CRASH)
    assert trio.state.ending is not None


@given(
    st.lists(
        st.one_of(
            st.tuples(st.integers(0, 3), st.integers(0, 3), st.booleans()).filter(lambda said: said[0] != said[1]),
            st.sets(st.integers(0, 3)),
        ),
        max_size=25,
    )
)
def test_whatever_is_said_somebody_takes_part_nobody_is_killed_and_all_meet_in_the_end(script):
    group = Gang(4)
    for what in script:
        if isinstance(what, tuple):
            group.reached(*what)
        else:
            group.pulse(*(f"worker-{number}" for number in what))
        assert group.taking_part()
    for one, other in combinations(range(4), 2):
        group.reached(one, other, True)
    group.pulse(*group.state.members)
    assert group.taking_part() == [0, 1, 2, 3]
    assert not stops(group.history)
    told = dict.fromkeys(group.state.members, 0)
    for order in group.history:
        if isinstance(order, LeaveOut | TakeBack):
            told[order.member] += 1 if isinstance(order, LeaveOut) else -1
            assert told[order.member] in (0, 1)
    assert set(told.values()) == {0}
