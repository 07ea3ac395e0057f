"""Who is out of reach, by the pulses alone and in the lifecycle of an elastic gang."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lifecycle_driver import Driver, gang, killed, of, stops

from ganglion.core.events import ExitKind
from ganglion.execution.instructions import Broadcast
from ganglion.execution.limits import SILENT_FOR
from ganglion.execution.presence import (
    LATE,
    LONGEST_PATIENCE,
    PATIENCE,
    PULSE,
    Presence,
    due,
    hear,
    silent,
)
from ganglion.execution.signals import Alive, Joined, Tick
from ganglion.execution.spec import Restart

gaps = st.floats(PULSE, 60.0)
presences = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=2),
    st.builds(Presence, st.floats(0.0, 100.0), st.floats(0.0, 30.0)),
    max_size=8,
)

SPEAKING = {"both": ("worker-0", "worker-1"), "first": ("worker-0",), "second": ("worker-1",), "none": ()}

# pulses


@given(presences, st.floats(0.0, 200.0))
def test_silence_is_judged_by_those_who_are_heard(found, after):
    now = max((presence.heard for presence in found.values()), default=0.0) + after
    gone = silent(found, now)
    heard = {name for name, presence in found.items() if now - presence.heard <= 2 * PULSE}
    assert not gone & heard
    assert not gone or heard, "somebody is missed although nobody is heard"
    for name in gone:
        assert now - found[name].heard >= found[name].patience >= PATIENCE
    if heard:
        assert gone == {name for name, presence in found.items() if now - presence.heard >= presence.patience}


@given(presences.filter(bool), st.floats(0.0, 1.0, exclude_max=True))
def test_nobody_is_missed_before_it_is_due(found, part):
    limit = due(found.values())
    begin = max(presence.heard for presence in found.values())
    if begin < limit:
        assert silent(found, begin + part * (limit - begin) * 0.999) == frozenset()


@given(st.lists(gaps, min_size=1, max_size=200))
def test_patience_grows_with_gaps_and_comes_back(shown):
    presence, now = None, 0.0
    for gap in shown:
        now += gap
        presence = hear(presence, now, gap)
        assert presence.patience >= min(LONGEST_PATIENCE, 3 * gap)
        assert PATIENCE <= presence.patience <= LONGEST_PATIENCE
    for _ in range(300):
        now += PULSE
        presence = hear(presence, now, PULSE)
    assert presence.patience <= PATIENCE


# in a gang


class Pair(Driver):
    """Two members that take part and pulse; the driver's clock goes on with the pulses."""

    def __init__(self, **fields) -> None:
        restart = Restart(budget=2, backoff=1.0, alone=True)
        super().__init__(gang(2, elastic=True, restart=restart, **fields))
        self.run()
        for name in ("worker-0", "worker-1"):
            self.ready(name)

    def pulse(self, *names: str, seconds: float = PULSE) -> list[list[str]]:
        """These members pulse for a while; who takes part in each membership that is broadcast meanwhile."""
        heard = []
        for _ in range(max(1, round(seconds / PULSE))):
            self.advance_to(self.now + PULSE)
            for name in names:
                heard += self.taking_part(self.tell(Alive(name, self.member(name).attempt, PULSE)))
        return heard

    def advance_to(self, now: float) -> None:
        """Let time go by as the supervisor does: with a tick at each deadline."""
        while self.deadline is not None and self.deadline <= now:
            self.broadcasts += self.taking_part(self.tick_at_deadline())
        self.now = now

    def taking_part(self, orders) -> list[list[str]]:
        return [[peer.member for peer in order.membership.peers if peer.endpoint] for order in of(orders, Broadcast)]

    broadcasts: list[list[str]]


@pytest.fixture
def pair() -> Pair:
    pair = Pair(lost_after=30.0)
    pair.broadcasts = []
    pair.pulse("worker-0", "worker-1", seconds=3.0)
    return pair


def test_who_falls_silent_is_left_out_within_a_second_and_keeps_its_process(pair):
    began = pair.now
    while not pair.broadcasts:
        pair.pulse("worker-0")
    assert pair.broadcasts == [["worker-0"]]
    assert pair.now - began <= PATIENCE + PULSE + 1e-6
    assert pair.all(Broadcast)[-1].membership.peers[1].member == "worker-1"
    assert not stops(pair.history)


def test_who_is_heard_again_takes_part_again_as_somebody_who_was_away(pair):
    before = pair.all(Broadcast)[-1].membership.peers
    pair.pulse("worker-0", seconds=2.0)
    assert pair.pulse("worker-0", "worker-1") == [["worker-0", "worker-1"]]
    after = pair.all(Broadcast)[-1].membership.peers
    assert after[0] == before[0]
    assert (after[1].attempt, after[1].endpoint) == (before[1].attempt, before[1].endpoint)
    assert after[1].entered > before[1].entered


def test_a_greeting_brings_back_too(pair):
    pair.pulse("worker-0", seconds=2.0)
    orders = pair.tell(Joined("worker-1", 1, "10.0.0.2:1", "unix:/worker-1"))
    assert pair.taking_part(orders) == [["worker-0", "worker-1"]]


def test_who_dials_again_in_time_disturbs_nobody(pair):
    before = pair.all(Broadcast)[-1].membership.peers
    pair.tell(Joined("worker-1", 1, "10.0.0.2:1", "unix:/worker-1"))
    assert pair.all(Broadcast)[-1].membership.peers == before


def test_when_nobody_is_heard_nobody_is_missed(pair):
    pair.advance_to(pair.now + 20.0)
    assert pair.broadcasts == []
    pair.pulse("worker-1", "worker-0", seconds=1.0)
    assert pair.broadcasts == []


def test_a_machine_that_was_held_up_listens_before_it_misses_anybody(pair):
    for seconds in (LATE + 0.01, 5.0, 600.0):
        pair.now = (pair.deadline or pair.now) + seconds
        pair.tell(Tick())
        pair.tell(Alive("worker-0", 1, PULSE))
        pair.tell(Alive("worker-1", 1, PULSE))
        pair.pulse("worker-0", "worker-1", seconds=1.0)
    assert pair.broadcasts == []


def test_who_stays_away_is_given_up_and_replaced(pair):
    pair.pulse("worker-0", seconds=31.0)
    assert stops(pair.history) == [("worker-1", 5.0)]
    pair.end("worker-1", killed(9))
    assert pair.member("worker-1").exit.kind is ExitKind.LOST
    pair.pulse("worker-0", seconds=2.0)
    assert pair.member("worker-1").attempt == 2


def test_a_member_without_pulses_is_not_missed_but_given_up_in_the_end():
    pair = Pair()
    pair.broadcasts = []
    pair.tell(Alive("worker-0", 1), after=SILENT_FOR - 10.0)
    assert stops(pair.tell(Alive("worker-1", 1))) == []
    pair.tell(Alive("worker-0", 1), after=SILENT_FOR - 10.0)
    pair.advance_to(pair.now + 10.0)
    assert pair.broadcasts == []
    assert stops(pair.history) == [("worker-1", 5.0)]


@given(
    st.lists(st.tuples(st.sampled_from(["both", "first", "second", "none", "late"]), st.floats(0.1, 3.0)), max_size=30)
)
def test_whatever_the_network_does_somebody_takes_part_and_nobody_is_killed(script):
    """And once all are heard, all take part."""
    pair = Pair()
    pair.broadcasts = []
    for what, seconds in script:
        if what == "late":
            pair.now += seconds
            pair.tell(Tick())
        else:
            names = {"both": ("worker-0", "worker-1"), "first": ("worker-0",), "second": ("worker-1",), "none": ()}[
                what
            ]
            pair.pulse(*names, seconds=seconds)
        assert any(not member.away for member in pair.state.members.values())
        assert pair.deadline is None or pair.deadline > pair.now - 1e-9
    pair.pulse("worker-0", "worker-1", seconds=1.0)
    assert not any(member.away for member in pair.state.members.values())
    assert not stops(pair.history)
