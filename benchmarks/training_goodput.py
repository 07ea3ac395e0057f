"""What is left of a training's speed when its workers keep dying: `python -m benchmarks.training_goodput`.

The same plan is carried out three times: undisturbed, with a `kill -9` of one worker in turn every few seconds, and
undisturbed again, so that what else the machine does meets both kinds. Goodput is the time of the undisturbed ones, on
the average, over the time of the disturbed one; all have to end with the same digest. The same ratio of processor time
tells what the kills cost on a machine that has other work to do.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time

import msgspec

from benchmarks.harness import environment
from benchmarks.training_gangs import Trainings
from benchmarks.training_parts import read
from ganglion.core.events import MemberStarted

CALIBRATION = 150
"""Steps by which the length of the training is chosen."""

KILLS = 1000
"""More than there can be: every kill is followed by a replacement."""


class Run(msgspec.Struct):
    """One training from its first commit to its last.

    Attributes:
        seconds: that it took.
        digest: of what it ended with.
        kills: how many workers were killed.
        cpu: seconds of processor time that all workers used, as far as their logs of commits tell.
    """

    seconds: float
    digest: str
    kills: int
    cpu: float


def train(trainings: Trainings, workers: int, steps: int, *, every: float | None) -> Run:
    """Carry out a training of so many steps.

    Args:
        trainings: where.
        workers: how many.
        steps: in all.
        every: seconds between two kills; `None` for none.
    """
    started: dict[str, tuple[int, int]] = {}

    def listen(event: object) -> None:
        if isinstance(event, MemberStarted):
            started[event.member] = (event.attempt, event.pid)

    job, watches = trainings.submit(workers, workers, steps=steps, listener=listen)

    def takes_part(member: str) -> bool:
        return member in started and bool(read(watches, member, started[member][0]))

    kills, members = 0, [f"worker-{number}" for number in range(workers)]
    while not all(map(takes_part, members)):
        time.sleep(0.01)
    due = time.monotonic() + (every or 0.0)
    while True:
        try:
            outcome = job.wait(0.02)
            break
        except TimeoutError:
            pass
        # Where nobody else is left there is nothing to go on with: the state is what survivors have.
        if every is not None and time.monotonic() >= due and all(map(takes_part, members)):
            os.kill(started[members[kills % workers]][1], signal.SIGKILL)
            kills += 1
            due += every
    outcome.raise_for_failure()
    commits = sorted(float(line.split()[1]) for log in watches.iterdir() for line in log.read_text().splitlines())
    used = [float(log.read_text().splitlines()[-1].split()[2]) for log in watches.iterdir() if log.stat().st_size]
    return Run(seconds=commits[-1] - commits[0], digest=outcome.value["digest"], kills=kills, cpu=sum(used))


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, help="how many there are")
    parser.add_argument("--seconds", type=float, default=120.0, help="about how long an undisturbed training is")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two kills")
    options = parser.parse_args()
    with Trainings() as trainings:
        trial = train(trainings, options.workers, CALIBRATION, every=None)
        steps = max(CALIBRATION, round(CALIBRATION * options.seconds / trial.seconds))
        runs = [train(trainings, options.workers, steps, every=every) for every in (None, options.every, None)]
    before, disturbed, after = runs
    goodput = (before.seconds + after.seconds) / 2 / disturbed.seconds
    report = {
        "environment": environment(("torch",)),
        "steps": steps,
        "seconds": {"before": before.seconds, "disturbed": disturbed.seconds, "after": after.seconds},
        "kills": disturbed.kills,
        "cpu_seconds": {"before": before.cpu, "disturbed": disturbed.cpu, "after": after.cpu},
        "goodput": goodput,
        "goodput_cpu": (before.cpu + after.cpu) / 2 / disturbed.cpu,
        "target": 0.9,
        "digests": sorted({run.digest[:16] for run in runs}),
    }
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(report)).decode() + "\n")
    if len(report["digests"]) != 1:
        sys.exit("the digests differ")


if __name__ == "__main__":
    main()
