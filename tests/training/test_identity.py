"""One digest of weights, optimizer state and data cursor, however many workers there are and whatever they suffer."""

import os
import random
import socket
import subprocess
import sys

import msgspec
import pytest
from msgspec.structs import replace
from scripted_faults import POINTS, fault

from conftest import HERE
from ganglion.core.events import ExitKind, MemberExited
from ganglion.execution.entry import Entry
from ganglion.training import Factory, Optimizer

VARIANTS = {"plain": {}, "dropout": {"dropout": 0.5}, "batch-norm": {"batch_norm": True}}
STEPS = 6


def known_plan(small_plan, sample, model_arguments=VARIANTS["plain"], **fields):
    """8 logical workers and two epochs of three steps, the last of them short."""
    return small_plan(
        model=sample("ReferenceModel", **model_arguments),
        train=sample("squares", count=85),
        held_out=sample("squares", count=20, global_batch=16, seed=9, shuffle=False),
        optimizer=Optimizer(name="adamw"),
        schedule={"kind": "one_cycle"},
        logical_workers=8,
        epochs=2,
        **fields,
    )


@pytest.fixture(scope="module")
def known():
    """The digest of each variant, from one undisturbed worker."""
    return {}


@pytest.fixture
def digest_of(train, sample, small_plan, tmp_path):
    """Train a variant, disturbed as a schedule says."""

    def run(variant, workers, schedule=(), events=None, min_workers=None, tcp=False, **fields):
        arguments = {"schedule": list(schedule), "folder": str(tmp_path)}
        callbacks = [Factory(entry=Entry(path="scripted_faults:Faults"), arguments=arguments)]
        if tcp:
            callbacks.append(Factory(entry=Entry(path="scripted_faults:OverTcp")))
        plan = known_plan(small_plan, sample, VARIANTS[variant], callbacks=tuple(callbacks))
        outcome = train(replace(plan, **fields), workers=workers, events=events, min_workers=min_workers)
        outcome.raise_for_failure()
        return outcome.value["digest"]

    return run


def undisturbed(known, digest_of, variant):
    if variant not in known:
        known[variant] = digest_of(variant, 1)
    return known[variant]


@pytest.mark.parametrize("workers", [2, 3, 4, 8])
@pytest.mark.parametrize("variant", VARIANTS)
def test_any_number_of_workers(known, digest_of, variant, workers):
    assert digest_of(variant, workers) == undisturbed(known, digest_of, variant)


def test_the_variants_differ_so_that_the_digest_says_something(known, digest_of):
    assert len({undisturbed(known, digest_of, variant) for variant in VARIANTS}) == len(VARIANTS)


def test_a_planted_all_reduce_is_seen(known, digest_of):
    """What others use: four workers, and the sums in the order of the wire."""
    assert digest_of("plain", 4, exact=False) != undisturbed(known, digest_of, "plain")


@pytest.mark.parametrize("point", [*POINTS, "evaluated", "finish"])
def test_a_worker_killed_at_any_point(known, digest_of, point):
    events = []
    step = {"evaluated": 3, "finish": STEPS}.get(point, 2)
    member = "worker-0" if point == "finish" else "worker-1"
    assert digest_of("batch-norm", 2, [fault("kill", member, point, step)], events) == undisturbed(
        known, digest_of, "batch-norm"
    )
    assert ExitKind.KILLED in {event.exit.kind for event in events if isinstance(event, MemberExited)}


def test_rank_0_killed_and_replaced(known, digest_of, tmp_path):
    """The replacement takes part before the next epoch ends: rank 1 waits for it."""
    os.mkfifo(tmp_path / "back")
    schedule = [
        fault("kill", "worker-0", "in_reduce", 1),
        fault("release", "worker-0", "ready", attempt=2, gate="back"),
        fault("hold", "worker-1", "before_reduce", 2, gate="back"),
        fault("note", "worker-0", "commit", 5, attempt=2, file="commits"),
    ]
    assert digest_of("dropout", 2, schedule) == undisturbed(known, digest_of, "dropout")
    assert (tmp_path / "commits").read_text().split()[:3] == ["worker-0", "2", "5"]


def test_a_worker_joins_in_the_middle(known, digest_of, tmp_path):
    for gate in ("gate", "back"):
        os.mkfifo(tmp_path / gate)
    schedule = [
        fault("hold", "worker-1", "ready", gate="gate"),
        fault("release", "worker-0", "commit", 1, gate="gate"),
        fault("hold", "worker-0", "before_reduce", 3, gate="back"),
        fault("release", "worker-1", "before_reduce", 3, gate="back"),
    ]
    assert digest_of("batch-norm", 2, schedule, min_workers=1) == undisturbed(known, digest_of, "batch-norm")


def test_a_worker_that_was_stopped_is_replaced(known, digest_of):
    events = []
    assert digest_of("plain", 2, [fault("stop", "worker-1", "before_reduce", 2)], events) == undisturbed(
        known, digest_of, "plain"
    )
    assert ExitKind.LOST in {event.exit.kind for event in events if isinstance(event, MemberExited)}


@pytest.mark.parametrize("point", ["before_reduce", "in_reduce", "commit"])
def test_a_worker_killed_where_only_a_network_connects_them(known, digest_of, point):
    schedule = [fault("kill", "worker-0", point, 2)]
    assert digest_of("batch-norm", 3, schedule, tcp=True) == undisturbed(known, digest_of, "batch-norm")


@pytest.mark.soak
def test_processes_without_a_controller(known, digest_of, small_plan, sample):
    """As a training operator starts them: each knows its rank and the address of rank 0."""
    plan = known_plan(small_plan, sample)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    script = (
        f"import sys, json; sys.path.insert(0, {HERE!r}); from ganglion.training.worker import main;"
        "print(main(plan=json.load(sys.stdin))['digest'])"
    )
    processes = []
    for rank in "01":
        place = {
            "RANK": rank,
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "OMP_NUM_THREADS": "1",
        }
        process = subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | place
        )
        process.stdin.write(msgspec.json.encode(plan))
        process.stdin.close()
        processes.append(process)
    digests = set()
    for process in processes:
        with process:
            digests.add(process.stdout.read().decode().strip())
    assert digests == {undisturbed(known, digest_of, "plain")}


def drawn(seed, workers):
    """A schedule of up to four faults, the same for the same seed."""
    draw = random.Random(seed)
    schedule = []
    for _ in range(draw.randint(1, 4)):
        kind = draw.choice(["kill", "kill", "preempt", "stop"])
        member = f"worker-{draw.randrange(workers)}"
        schedule.append(fault(kind, member, draw.choice(POINTS), draw.randrange(STEPS), attempt=draw.choice([1, 1, 2])))
    return schedule


@pytest.mark.parametrize("seed", range(4))
def test_drawn_schedules(known, digest_of, seed):
    check_drawn(known, digest_of, seed)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(100, 600))
def test_more_drawn_schedules(known, digest_of, seed):
    check_drawn(known, digest_of, seed)


def check_drawn(known, digest_of, seed):
    variant = list(VARIANTS)[seed % 3]
    workers = (2, 3, 4, 8)[seed // 3 % 4]
    schedule = drawn(seed, workers)
    assert digest_of(variant, workers, schedule) == undisturbed(known, digest_of, variant), schedule
