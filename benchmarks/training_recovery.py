"""From the loss of a worker to the next committed step, ours and others': `python -m benchmarks.training_recovery`.

A worker is one process. Recovery is the time from the signal to the end of the gap that it tears into the commits of
the others; steps that a peer repeats from its last checkpoint are counted as lost. Peers run in environments of their
own, made on first use; one that cannot be installed, or does not recover, is named with the reason.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from benchmarks.data.peers.environments import TORCH, Environment, NotInstallableError
from benchmarks.harness import Case, environment, measure, show
from benchmarks.training_gangs import ROOT, Trainings
from benchmarks.training_parts import read
from ganglion.core.events import MemberStarted

PATIENCE = 90.0
"""Seconds within which a peer has to take its first steps, and to take the next ones after the loss."""

BEFORE = 20
"""Steps that are committed before somebody is lost."""


class TrainingEnvironment(Environment):
    """As those of the other benchmarks, in a place of its own: what lies beside the peer is another matter here."""

    @property
    def folder(self) -> Path:
        """Where the environment lies."""
        folder = super().folder
        return folder.with_name(f"training-{folder.name}")


_TORCHFT = TrainingEnvironment(package="torchft", version="0.2.0", beside=(TORCH, "numpy"))
_RAY = TrainingEnvironment(package="ray", version="2.60.0", extra="[train]", beside=(TORCH, "numpy"))


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Another way to train on several processes of which one may die.

    Attributes:
        name: for a person.
        environment: what it runs in.
        command: what follows the interpreter, of (folder, workers).
        note: how it saves.
    """

    name: str
    environment: Environment
    command: Callable[[str, int], tuple[str, ...]]
    note: str


PEERS = (
    Peer(
        name="torchrun",
        environment=_TORCHFT,  # any with PyTorch
        command=lambda folder, workers: (
            *("-m", "torch.distributed.run", f"--nproc-per-node={workers}", "--max-restarts=3"),
            *("-m", "benchmarks.peers_training.elastic_ddp", folder),
        ),
        note="a snapshot after every step",
    ),
    Peer(
        name="torchft",
        environment=_TORCHFT,
        command=lambda folder, workers: ("-m", "benchmarks.peers_training.torchft_ddp", folder, str(workers)),
        note="replica groups of one process",
    ),
    Peer(
        name="Ray Train",
        environment=_RAY,
        command=lambda folder, workers: ("-m", "benchmarks.peers_training.ray_train", folder, str(workers)),
        note="a checkpoint every 0.5 s",
    ),
)


@dataclass
class Recovery:
    """What the losses of one case did, beside the time that they took.

    Attributes:
        name: of the case.
        lost: steps that were taken again, of each repetition.
        steps: seconds of a step before the loss, of each.
        problem: why there is no figure.
    """

    name: str
    lost: list[int] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    problem: str = ""

    def take(self, commits: list[tuple[int, float]], hit: float) -> float:
        """Seconds from `hit` to the end of the gap.

        Args:
            commits: step and time of each commit of those that were not hit, in the order of time.
            hit: when somebody was.
        """
        times = [at for _, at in commits]
        step = statistics.median(after - before for before, after in pairwise(times) if after < hit)
        # One more step may have been as good as done. What comes later is the arrival of the one that replaces it.
        gaps = [(second[1] - first[1], first, second) for first, second in pairwise(commits)]
        _, last, again = max(gap for gap in gaps if gap[2][1] > hit and gap[1][1] < hit + 2 * step)
        self.lost.append(max(0, last[0] + 1 - again[0]))
        self.steps.append(step)
        line = f"{1000 * (again[1] - hit):.0f} ms, {self.lost[-1]} steps lost, a step before {1000 * step:.0f} ms"
        sys.stderr.write(f"{self.name}: {line}\n")
        return again[1] - hit

    def __str__(self) -> str:
        if self.problem:
            return self.problem
        return f"{max(self.lost)} steps lost at most, a step before {1000 * statistics.median(self.steps):.0f} ms"


def ours(trainings: Trainings, workers: int, number: int, recovery: Recovery) -> float:
    """Send a signal to the last worker of one of our trainings; seconds until the others have committed a step."""
    pids: dict[tuple[str, int], int] = {}

    def listen(event: object) -> None:
        if isinstance(event, MemberStarted):
            pids[event.member, event.attempt] = event.pid

    job, watches = trainings.submit(workers, workers, steps=2000, listener=listen)
    victim = f"worker-{workers - 1}"
    while len(read(watches, victim)) < BEFORE:
        time.sleep(0.02)
    hit = time.monotonic()
    os.kill(pids[victim, 1], number)
    time.sleep(2.5)
    job.cancel()
    job.wait(20)
    return recovery.take([(step, at) for step, at, _ in read(watches, "worker-0")], hit)


def theirs(peer: Peer, workers: int, recovery: Recovery) -> float:
    """Kill the last worker of a peer; seconds until a step is committed again."""
    folder = Path(tempfile.mkdtemp(prefix="ganglion-bench-"))
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(
            (str(peer.environment.python()), *peer.command(str(folder), workers)),
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        first, victim = "0.*", f"{workers - 1}.*"
        _wait(lambda: len(_commits(folder, victim)) >= BEFORE, f"{peer.name} has not taken {BEFORE} steps")
        hit = time.monotonic()
        os.kill(int(next(folder.glob(victim)).suffix[1:]), signal.SIGKILL)
        seen = len(_commits(folder, first))
        _wait(lambda: len(_commits(folder, first)) >= seen + BEFORE, f"{peer.name} has not gone on")
        return recovery.take(_commits(folder, first), hit)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for log in folder.glob("[0-9]*.[0-9]*"):  # what has left the group, as Ray's workers do
            try:
                os.kill(int(log.suffix[1:]), signal.SIGKILL)
            except ProcessLookupError:
                continue
        shutil.rmtree(folder, ignore_errors=True)


def _commits(folder: Path, pattern: str) -> list[tuple[int, float]]:
    lines = [line.split() for log in folder.glob(pattern) for line in log.read_text().splitlines()]
    return sorted(((int(line[0]), float(line[1])) for line in lines if len(line) == 2), key=lambda commit: commit[1])


def _wait(condition: Callable[[], bool], otherwise: str) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"{otherwise} within {PATIENCE:g} s")
        time.sleep(0.02)


def compare(worlds: list[int], peers: list[str], *, rounds: int, as_json: bool) -> None:
    """Measure in turn and show."""
    recoveries: dict[str, Recovery] = {}
    context = environment(("torch",))
    with Trainings() as trainings:
        for world in worlds:
            cases = []
            for word, number, target in (("kill -9", signal.SIGKILL, 300), ("SIGSTOP", signal.SIGSTOP, 1000)):
                name = f"ours: {word} of one of {world}"
                recovery = recoveries[name] = Recovery(name)
                cases.append(
                    Case(
                        name=name,
                        run=lambda w=world, n=number, r=recovery: ours(trainings, w, n, r),
                        note=f"at most {target} ms",
                    )
                )
            for peer in PEERS:
                if peer.name in peers:
                    name = f"{peer.name}: kill -9 of one of {world}"
                    recovery = recoveries[name] = Recovery(name)
                    run = _guarded(lambda p=peer, w=world, r=recovery: theirs(p, w, r), recovery)
                    cases.append(Case(name=name, run=run, against=cases[0].name, note=peer.note))
            measurements = measure(cases, rounds)
            lines = {case.name: str(recoveries[case.name]) for case in cases}
            show(f"recovery, {world} workers", measurements, context | lines, as_json=as_json)


def _guarded(run: Callable[[], float], recovery: Recovery) -> Callable[[], float]:
    """`run`, whose failure is a word in the table and is not tried again."""

    def guarded() -> float:
        if recovery.problem:
            return float("nan")
        try:
            return run()
        except (NotInstallableError, TimeoutError, ValueError) as error:
            recovery.problem = str(error)
            return float("nan")

    return guarded


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 4], help="how many there are")
    parser.add_argument("--peers", nargs="*", default=[peer.name for peer in PEERS], help="none for ours alone")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved repetitions of each case")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit("ended"))  # so that peers are ended too
    compare(options.workers, options.peers, rounds=options.rounds, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
