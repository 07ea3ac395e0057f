"""When a gateway is held to have stopped: decided on a clock of the test's own, seen of real processes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.serving.gateway_watch import SILENT_FOR, GatewayWatch, Sign, Silence

PATIENCE = 20.0


def looks(signs: list[Sign], every: float = 0.5) -> list[bool]:
    silence = Silence()
    return [silence.lasts(sign, 100.0 + every * number) for number, sign in enumerate(signs)]


def test_one_that_misses_its_beats_and_does_nothing_is_replaced_after_two_seconds() -> None:
    found = looks([Sign(7, 3.0, idle=True)] * 6)
    assert found == [False] * 4 + [True] * 2


life = st.sampled_from([(False, 0.0, True)] * 6 + [(True, 0.0, True), (False, 0.6, True), (False, 0.0, False)])


@given(seen=st.lists(life, min_size=8, max_size=30))
def test_nobody_is_replaced_who_gave_a_sign_of_life_within_two_seconds(seen: list[tuple[bool, float, bool]]) -> None:
    signs, beat, used = [], 0, 0.0
    for turned, worked, idle in seen:
        beat, used = beat + turned, used + worked
        signs.append(Sign(beat, used, idle))
    for number, replaced in enumerate(looks(signs)):
        last = seen[max(0, number - 3) : number + 1]
        dead = number >= 4 and all(one == (False, 0.0, True) for one in last)
        assert replaced == dead


def test_one_that_computes_or_waits_for_a_core_is_let_be() -> None:
    assert not any(looks([Sign(7, 0.5 * number, idle=True) for number in range(30)])), "it is at something long"
    assert not any(looks([Sign(7, 3.0, idle=False)] * 30)), "it has not been let onto a core, or waits for a disk"


def test_a_controller_that_has_not_looked_for_long_believes_no_single_look() -> None:
    assert looks([Sign(7, 3.0, idle=True)] * 2, every=60.0) == [False, False]


Start = Callable[[str], subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Start]:
    made: list[subprocess.Popen[bytes]] = []

    def start(code: str) -> subprocess.Popen[bytes]:
        made.append(subprocess.Popen([sys.executable, "-c", f"print(flush=True); {code}"], stdout=subprocess.PIPE))
        assert made[-1].stdout is not None
        made[-1].stdout.readline()
        return made[-1]

    yield start
    for process in made:
        with suppress(ProcessLookupError):
            process.kill()
        process.communicate()


def _look_on(watch: GatewayWatch, times: int = 10) -> None:
    for number in range(times):
        watch.look(100.0 + SILENT_FOR / 4 * number)


@pytest.mark.parametrize("stops", [True, False], ids=["stopped", "asleep"])
def test_a_process_that_is_stopped_or_sleeps_without_a_beat_is_killed(start: Start, stops: bool) -> None:
    process = start("import time; time.sleep(1000)")
    ended: list[int] = []
    watch = GatewayWatch(lambda: {process.pid: 5}, ended.append)
    watch.begin("replica-0", process.pid)
    if stops:
        process.send_signal(signal.SIGSTOP)
    end = time.monotonic() + PATIENCE
    wanted = psutil.STATUS_STOPPED if stops else psutil.STATUS_SLEEPING
    while psutil.Process(process.pid).status() != wanted:
        assert time.monotonic() < end
    _look_on(watch)
    assert process.wait(PATIENCE) == -signal.SIGKILL
    _look_on(watch)  # nothing is left to be looked at
    watch.end("replica-0")
    assert ended == [process.pid]


def test_a_process_that_computes_without_a_beat_lives(start: Start) -> None:
    ended: list[int] = []
    process = start("exec('while True: pass')")
    watch = GatewayWatch(lambda: {process.pid: 5}, ended.append)
    watch.begin("replica-0", process.pid)
    _look_on(watch)
    assert process.poll() is None


def test_one_that_does_not_beat_yet_or_has_ended_is_not_looked_at(start: Start) -> None:
    ended: list[int] = []
    process = start("import time; time.sleep(1000)")
    watch = GatewayWatch(dict, ended.append)
    watch.begin("replica-0", process.pid)
    _look_on(watch)
    assert process.poll() is None
    assert ended == []
    process.kill()
    process.wait(PATIENCE)
    watch = GatewayWatch(lambda: {process.pid: 5}, ended.append)
    watch.begin("replica-0", process.pid)
    _look_on(watch)
