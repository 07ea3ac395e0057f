"""Images per second of two workers, ours and others': interleaved blocks of steps; see `python -m benchmarks.training`.

All train the reference model of 93,322 parameters on global batches of 128 images, one thread in each of two processes.
Ours keep the memory that passes free (`ganglion.training.allocation`); what that alone gains is told by a hand-written
loop whose environment asks the C library for the same.
Peers run in environments of their own, made on first use; one that cannot be installed is named with the reason.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.data.peers.environments import TORCH, Environment, NotInstallableError
from benchmarks.harness import Case, measure, show
from benchmarks.training_gangs import ROOT, Trainings
from benchmarks.training_recovery import TrainingEnvironment
from ganglion.core.events import MemberStarted
from ganglion.execution.entry import Entry
from ganglion.training import Factory

PEERS: Mapping[str, tuple[Environment, str]] = {
    "Lightning": (
        TrainingEnvironment(package="lightning", version="2.6.6", beside=(TORCH, "numpy")),
        "benchmarks.peers_training.lightning_fit",
    ),
    "Ray Train": (
        TrainingEnvironment(package="ray", version="2.60.0", extra="[train]", beside=(TORCH, "numpy")),
        "benchmarks.peers_training.ray_blocks",
    ),
    "TensorFlow Keras": (
        TrainingEnvironment(package="tensorflow-cpu", version="2.21.0", beside=("tf_keras==2.21.0",)),
        "benchmarks.peers_training.keras_fit",
    ),
}
"""What each runs in, and the module that does."""

FIRST = "DDP by hand, channels last"
"""What the others are compared with."""

KEPT = {"MALLOC_TRIM_THRESHOLD_": str(2**31 - 1), "MALLOC_MMAP_THRESHOLD_": str(2**30)}
"""What has the GNU C library keep memory that was freed."""

PATIENCE = 30.0
"""Seconds that a peer has to end."""


@contextmanager
def ours(trainings: Trainings, logical: int, steps: int, **fields: object) -> Iterator[Loop]:
    """A training of two workers, with some fields of its plan, that takes blocks of steps."""
    folder = trainings.folder / f"blocks-{trainings.count}"
    folder.mkdir()
    for member in ("worker-0", "worker-1"):
        for end in ("go", "done"):
            os.mkfifo(folder / f"{member}.{end}")
    blocks = Factory(
        entry=Entry(path="benchmarks.training_parts:Blocks"), arguments={"folder": str(folder), "steps": steps}
    )
    pids = {}

    def listen(event: object) -> None:
        if isinstance(event, MemberStarted):
            pids[event.member] = event.pid

    job, _ = trainings.submit(2, logical, steps=100, listener=listen, epochs=1000, callbacks=(blocks,), **fields)

    def block() -> tuple[float, float]:
        for member in ("worker-0", "worker-1"):
            (folder / f"{member}.go").write_bytes(b"")
        figures = [(folder / f"{member}.done").read_text().split() for member in ("worker-0", "worker-1")]
        return max(float(wall) for wall, _ in figures), sum(float(cpu) for _, cpu in figures)

    try:
        yield Loop(block, lambda: pids["worker-1"])
    finally:
        job.cancel()
        job.wait(20)


class Loop:
    """Something that takes a block of steps on two processes.

    Args:
        block: does it; wall seconds, and CPU seconds of both.
        second: the process id of one of them.
    """

    def __init__(self, block: Callable[[], tuple[float, float]], second: Callable[[], int]) -> None:
        self.block = block
        self.second = second
        self.cpu: list[float] = []

    def run(self) -> float:
        """One block; its wall seconds."""
        wall, cpu = self.block()
        self.cpu.append(cpu)
        return wall

    def run_slowed(self) -> float:
        """One block while one process gets a quarter of the time: it runs for 5 ms and is stopped for 15."""
        over = threading.Event()
        pid = self.second()

        def slow() -> None:
            while not over.wait(0.005):
                os.kill(pid, signal.SIGSTOP)
                over.wait(0.015)
                os.kill(pid, signal.SIGCONT)

        thread = threading.Thread(target=slow)
        thread.start()
        try:
            return self.run()
        finally:
            over.set()
            thread.join()


@contextmanager
def by_hand(layout: str, steps: int, environment: Mapping[str, str] | None = None) -> Iterator[Loop]:
    """Two processes of the hand-written loop, with something added to their environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "benchmarks.peers_training.ddp", layout, str(steps)]
    places = [{"RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port} for rank in "01"]
    processes = [
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | place | (environment or {}),
        )
        for place in places
    ]

    def block() -> tuple[float, float]:
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        figures = [process.stdout.readline().split() for process in processes]
        return max(float(wall) for wall, _ in figures), sum(float(cpu) for _, cpu in figures)

    try:
        yield Loop(block, lambda: processes[1].pid)
    finally:
        for process in processes:
            process.stdin.close()
            process.wait()


@contextmanager
def peer(name: str, steps: int) -> Iterator[Loop]:
    """Two processes of a peer.

    Raises:
        NotInstallableError: there is no environment for it.
    """
    environment, module = PEERS[name]
    python = str(environment.python())
    ports = [_free_port(), _free_port()]
    cluster = {"cluster": {"worker": [f"127.0.0.1:{port}" for port in ports]}}
    with tempfile.TemporaryDirectory(prefix="ganglion-bench-") as folder:
        for rank in range(2):
            for end in ("go", "done"):
                os.mkfifo(Path(folder) / f"{rank}.{end}")
        common = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}
        with (Path(folder) / "log").open("w") as log:
            processes = [
                subprocess.Popen(
                    [python, "-m", module, folder, str(steps)],
                    cwd=ROOT,
                    stdout=log,
                    stderr=log,
                    env=common
                    | {"NODE_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(ports[0])}
                    | {"TF_CONFIG": json.dumps(cluster | {"task": {"type": "worker", "index": rank}})},
                )
                for rank in range(1 if name == "Ray Train" else 2)  # which starts its workers itself
            ]

        done = [os.open(Path(folder) / f"{rank}.done", os.O_RDONLY | os.O_NONBLOCK) for rank in range(2)]

        def until(attempt: Callable[[], bytes | None]) -> bytes:
            """Try until it succeeds, unless the processes end before."""
            while (result := attempt()) is None:
                if any(process.poll() is not None for process in processes):
                    raise RuntimeError(f"{name} has ended: {(Path(folder) / 'log').read_text()[-2000:]}")
                time.sleep(0.002)
            return result

        def say(word: bytes) -> None:
            for rank in range(2):
                until(partial(_write, Path(folder) / f"{rank}.go", word))

        def block() -> tuple[float, float]:
            say(b"go")
            figures = [until(partial(_read, descriptor)).split() for descriptor in done]
            return max(float(wall) for wall, _ in figures), sum(float(cpu) for _, cpu in figures)

        try:
            yield Loop(block, lambda: processes[-1].pid)
        finally:
            if all(process.poll() is None for process in processes):
                say(b"")
            for process in processes:
                try:
                    process.wait(PATIENCE)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            for descriptor in done:
                os.close(descriptor)


def _write(path: Path, word: bytes) -> bytes | None:
    """Write to a FIFO, if somebody reads it."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return None
    os.write(descriptor, word)
    os.close(descriptor)
    return word


def _read(descriptor: int) -> bytes | None:
    """What was written to a FIFO, if something was."""
    try:
        return os.read(descriptor, 1000) or None
    except BlockingIOError:
        return None


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def show_throughput(
    trainings: Trainings,
    titles: Sequence[str],
    *,
    peers: Sequence[str],
    rounds: int,
    steps: int,
    context: Mapping[str, Any],
    as_json: bool,
) -> None:
    """Blocks of steps in turn; wall seconds in a table, images per second and CPU above it.

    Args:
        trainings: what ours run on.
        titles: `throughput`, `slow`, or both.
        peers: names of `PEERS` that take part beside the hand-written loops, where nobody is slowed.
        rounds: blocks of each.
        steps: in a block.
        context: what the figures depend on.
        as_json: one document instead of tables.
    """
    with ExitStack() as stack:
        loops = {
            FIRST: stack.enter_context(by_hand("nhwc", steps)),
            "DDP by hand, NCHW": stack.enter_context(by_hand("nchw", steps)),
            "DDP by hand, channels last, memory kept": stack.enter_context(by_hand("nhwc", steps, KEPT)),
            "ours, V=2": stack.enter_context(ours(trainings, 2, steps)),
            "ours, V=2, micro_batches=4": stack.enter_context(ours(trainings, 2, steps, micro_batches=4)),
            "ours, V=8": stack.enter_context(ours(trainings, 8, steps)),
        }
        missing = {}
        others = {}
        for name in peers:
            try:
                others[name] = stack.enter_context(peer(name, steps))
            except NotInstallableError as error:
                missing[name] = f"not installable: {error}"
        notes = {"ours, V=2": "0.95x; 1.2x NCHW", "ours, V=8": "0.9x"}
        for title in titles:
            slowed = title == "slow"
            taking = loops if slowed else loops | others
            cases = [
                Case(
                    name=name,
                    run=loop.run_slowed if slowed else loop.run,
                    against=None if name == FIRST else FIRST,
                    note="2x" if slowed and name == "ours, V=8" else notes.get(name, ""),
                )
                for name, loop in taking.items()
            ]
            measurements = measure(cases, rounds)
            images = 128 * steps
            summary = {}
            for taken in measurements:
                loop = taking[taken.case.name]
                cpu = statistics.median(loop.cpu[-rounds:])
                pairs = zip(measurements[0].seconds, taken.seconds, strict=True)
                summary[taken.case.name] = (
                    f"{images / taken.median:,.0f} images/s, {1e6 * cpu / images:.0f} us CPU per image, "
                    f"median of paired ratios {statistics.median(base / theirs for base, theirs in pairs):.2f}"
                )
            what = "a block, one of two workers slowed four times" if slowed else "a block of steps"
            show(what, measurements, {**context, **summary, **missing}, as_json=as_json)
