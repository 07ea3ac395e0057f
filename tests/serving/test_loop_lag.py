"""How late the gateway is in reading: by a clock of the test's own, and by the kernel's."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time

import pytest
import uvloop

from ganglion.serving.gateway.loop_lag import LoopLag


class Clock:
    """A loop, and a kernel that keeps it waiting."""

    def __init__(self) -> None:
        self.turn = 100.0
        self.waited = 7.0
        self.lag = LoopLag(lambda: self.turn, lambda: self.waited)

    def begin(self, after: float, waited: float = 0.0) -> None:
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
        lag = LoopLag(loop.time)
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
