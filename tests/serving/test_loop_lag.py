"""How late the gateway is in reading: by a clock of the test's own, and by the kernel's."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import threading
import time
from collections.abc import Callable

import pytest
import uvloop

from ganglion.serving.gateway.loop_lag import LoopLag


class Clock:
    """A loop, and a kernel that keeps it waiting."""

    def __init__(self) -> None:
        self.turn = 100.0
        self.waited = 7.0
        self._then: list[Callable[[], None]] = []
        self.lag = LoopLag(self._then.append, lambda: self.waited)

    def begin(self, after: float, waited: float = 0.0) -> None:
        while self._then:
            self._then.pop()()
        self.turn += after
        self.waited += waited


def test_what_is_read_late_in_a_turn_was_there_since_its_beginning() -> None:
    clock = Clock()
    clock.lag.seconds(clock.turn)
    clock.begin(0.01)
    assert clock.lag.seconds(clock.turn) == pytest.approx(0.0)
    assert clock.lag.seconds(clock.turn + 0.004) == pytest.approx(0.004)


def test_what_arrived_while_the_process_waited_for_a_core_was_there_before_the_turn() -> None:
    clock = Clock()
    clock.lag.seconds(clock.turn)
    clock.begin(0.02, waited=0.006)
    assert clock.lag.seconds(clock.turn) == pytest.approx(0.006)
    assert clock.lag.seconds(clock.turn + 0.001) == pytest.approx(0.007), "all of that turn was"
    clock.begin(0.01)
    assert clock.lag.seconds(clock.turn) == pytest.approx(0.0), "nobody waited for the next one"


def test_what_was_waited_for_long_ago_says_nothing() -> None:
    clock = Clock()
    clock.lag.seconds(clock.turn)
    clock.begin(3.0, waited=0.5)
    assert clock.lag.seconds(clock.turn) == pytest.approx(0.0)


def test_a_long_wait_for_a_core_is_no_long_rest() -> None:
    clock = Clock()
    clock.lag.seconds(clock.turn)
    clock.begin(0.51, waited=0.5)
    assert clock.lag.seconds(clock.turn) == pytest.approx(0.5)


def test_what_is_ready_together_is_late_by_what_is_done_for_those_before_it() -> None:
    loop = uvloop.new_event_loop()
    lag, found = LoopLag(loop.call_soon, lambda: 0.0), []
    pairs = [socket.socketpair() for _ in range(5)]

    def read(receiver: socket.socket) -> None:
        receiver.recv(1)
        found.append(lag.seconds(time.monotonic()))
        _compute(time.monotonic() + 0.004)
        if len(found) % len(pairs) == 0:
            loop.stop()

    for _sender, receiver in pairs:
        loop.add_reader(receiver, read, receiver)
    for _round in range(2):  # a new turn counts from its own beginning
        for sender, _receiver in pairs:
            sender.send(b"x")
        loop.run_forever()
        loop.call_soon(loop.stop)
        loop.run_forever()
    for sender, receiver in pairs:
        loop.remove_reader(receiver)
        sender.close()
        receiver.close()
    loop.close()
    for turn in (found[:5], found[5:]):
        assert turn[0] == 0.0
        assert all(late >= 0.004 * before for before, late in enumerate(turn))


def _compute(until: float) -> None:
    while time.monotonic() < until:
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how long a thread waited for a core")
def test_the_kernel_says_that_a_process_waits_for_the_one_core_it_may_use() -> None:
    core = min(os.sched_getaffinity(0))
    found: list[float] = []

    def look() -> None:
        os.sched_setaffinity(0, {core})  # this thread's, and those of the process that it starts
        rival = multiprocessing.get_context("spawn").Process(target=_compute, args=(time.monotonic() + 60.0,))
        rival.start()
        loop = uvloop.new_event_loop()
        lag = LoopLag(loop.call_soon)
        end = time.monotonic() + 30.0
        while time.monotonic() < end and sum(found) < 0.05:
            loop.run_until_complete(_turn(found, lag))
            _compute(time.monotonic() + 0.002)
        loop.close()
        rival.kill()
        rival.join()

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert sum(found) >= 0.05


async def _turn(found: list[float], lag: LoopLag) -> None:
    found.append(lag.seconds(time.monotonic()))
