"""When a process tells its controller that it cannot reach a peer, and that it can again."""

import socket
import time

import pytest
from links import roster

from ganglion.training.mesh import Link
from ganglion.training.reaching import AGAIN, FIRST_TRY, LONGEST_TRY, REPEAT, UNREACHABLE, Reaching, answering


class World:
    """A clock, a network, and what the controller was told."""

    def __init__(self, folder):
        self.now = 100.0
        self.up = set()
        self.tried = []
        self.told = []
        self.servers, self.peers = roster("tcp", folder, 3)
        self.reaching = Reaching(
            lambda peer, works: self.told.append((peer.index, works)), answers=self.answers, clock=lambda: self.now
        )

    def answers(self, endpoint):
        (number,) = (peer.index for peer in self.peers if peer.endpoint == endpoint)
        self.tried.append((round(self.now, 3), number))
        return number in self.up

    def wait_outside(self, seconds, *others):
        end = self.now + seconds
        while self.now < end:
            self.reaching.left_out([self.peers[number] for number in others])
            self.now += 0.25


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    for server in made.servers:
        server.close()


def test_a_peer_is_reported_after_some_seconds_and_again_while_that_lasts(world):
    for tenth in range(100):
        world.reaching.silent(world.peers[1], tenth / 10)
        world.now += 0.1
    assert set(world.told) == {(1, False)}
    assert len(world.told) == pytest.approx((10 - UNREACHABLE) / AGAIN, abs=1)


def test_moments_without_an_answer_do_not_add_up(world):
    for _ in range(10):
        world.reaching.silent(world.peers[1], UNREACHABLE - 0.1)
        world.now += UNREACHABLE
    world.reaching.met()
    for _ in range(10):
        world.reaching.failed(world.peers[1], world.now - 1.0)
        world.reaching.met()
        world.now += 1.0
    for _ in range(10):
        world.reaching.failed(world.peers[1], world.now - 1.0)
        world.now += UNREACHABLE + 0.1
    assert world.told == []


def test_attempts_to_connect_that_fail_one_after_the_other_add_up(world):
    began = world.now
    while not world.told:
        world.now += 1.0
        world.reaching.failed(world.peers[2], world.now - 1.0)
        world.now += 1.0
    assert world.told == [(2, False)]
    assert world.now - began <= UNREACHABLE + 2.0


def test_what_was_known_of_a_link_counts_where_it_cannot_be_made_anew(world):
    world.reaching.silent(world.peers[1], 2.9)
    world.now += 0.2
    world.reaching.failed(world.peers[1], world.now - 0.1)
    assert world.told == [(1, False)]


def test_one_that_is_left_out_says_whom_it_reaches(world):
    world.wait_outside(5.0, 0, 1)
    assert world.told == []
    assert {number for _, number in world.tried} == {0}
    world.up = {0}
    world.wait_outside(FIRST_TRY, 0, 1)
    assert set(world.told) == {(0, True)}
    before = len(world.tried)
    world.wait_outside(5.0, 0, 1)
    assert {number for _, number in world.tried[before:]} == {1}, "the queue of one that answers is not filled"
    world.up = {0, 1}
    world.wait_outside(FIRST_TRY, 0, 1)
    assert sorted(world.told[-2:]) == [(0, True), (1, True)]
    before = len(world.told)
    world.wait_outside(REPEAT - 1.0, 0, 1)
    assert len(world.told) == before, "said already"
    world.wait_outside(2.0, 0, 1)
    assert len(world.told) == before + 2, "but perhaps not heard"


def test_one_that_is_left_out_over_and_over_waits_longer_each_time_until_it_is_trusted_again(world):
    world.wait_outside(FIRST_TRY)
    world.reaching.met()  # to begin is not to return
    waits = []
    for _ in range(12):
        began = world.now
        world.up = {0}
        told = len(world.told)
        while len(world.told) == told:
            world.wait_outside(0.25, 0)
        waits.append(world.now - began)
        world.reaching.met()
        world.now += 5.0
    assert waits == sorted(waits)
    assert waits[0] <= FIRST_TRY + 0.5
    assert waits[-1] == pytest.approx(LONGEST_TRY, abs=1.0)
    world.now += LONGEST_TRY
    world.wait_outside(FIRST_TRY + 0.5, 0)
    assert world.told[-1] == (0, True)
    assert world.reaching.pause == FIRST_TRY


def test_somebody_answers_where_a_process_listens_although_it_accepts_nobody(world):
    world.servers[0].listen()
    assert answering(world.peers[0].endpoint)
    world.servers[0].close()
    assert not answering(world.peers[0].endpoint)


def test_a_host_answers_for_a_process_that_reads_nothing():
    """Neither an idle link nor one whose other end has stopped reading is silent."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        other, _ = server.accept()
        with other:
            link = Link(client)
            try:
                while True:
                    client.send(bytes(65536))
            except BlockingIOError:
                pass
            until = time.monotonic() + 2.5
            while time.monotonic() < until:
                assert link.silence() == 0.0
                time.sleep(0.05)
