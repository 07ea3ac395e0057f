import os
import signal
import subprocess
import sys

from ganglion.training.stall import STOPPED_FOR, Reading, StallWatch, read


class World:
    def __init__(self, **states):
        self.now = 0.0
        self.ticks = 0
        self.states = states
        self.accused = []
        self.watch = StallWatch(
            {1: 11, 2: 12}, self.accused.append, look=lambda pid: self.letters(pid), clock=self.clock
        )

    def letters(self, pid):
        return Reading(self.states.get(f"p{pid}", "R"), self.ticks)

    def clock(self):
        return self.now

    def wait(self, seconds, ranks=(1, 2)):
        end = self.now + seconds
        while self.now < end:
            self.watch.late(ranks)
            self.now += 0.1


def test_a_process_that_stays_stopped_is_accused_once():
    world = World(p12="T")
    world.wait(STOPPED_FOR)
    assert world.accused == []
    world.wait(5.0)
    assert world.accused == [2]


def test_a_process_that_waits_for_a_core_or_a_disk_or_data_is_not_accused_however_long_it_takes():
    for letter in "RDS":
        world = World(p11=letter)
        world.wait(600.0)
        assert world.accused == []


def test_a_process_that_was_stopped_for_a_moment_is_not_accused():
    world = World(p11="T")
    world.wait(0.2)
    world.states["p11"] = "R"
    world.wait(0.1)
    world.states["p11"] = "T"
    world.wait(0.2)
    assert world.accused == []


def test_a_process_that_is_stopped_at_every_look_but_runs_in_between_is_not_accused():
    world = World(p11="T")
    for _ in range(100):
        world.wait(0.2)
        world.ticks += 1
    assert world.accused == []


def test_nobody_is_looked_at_who_is_not_late_or_on_another_host():
    world = World(p11="T", p12="T")
    world.watch = StallWatch({1: 11}, world.accused.append, look=world.letters, clock=world.clock)
    world.wait(5.0, ranks=(2,))
    assert world.accused == []


def test_the_kernel_tells_of_a_stopped_process():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        os.kill(process.pid, signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        assert read(process.pid).state == "T"
        process.kill()
    assert read(process.pid).state == ""
