"""One digest of weights, optimizer state and data cursor, however many workers there are and whatever they suffer."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from ganglion.core.events import ExitKind, MemberExited
from ganglion.testing.faults import STEP, Fault, draw, happened
from ganglion.training import Optimizer

VARIANTS = {"plain": {}, "dropout": {"dropout": 0.5}, "batch-norm": {"batch_norm": True}}
STEPS = 6
HERE = str(Path(__file__).parent)


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
def digest_of(train, sample, small_plan):
    """Train a variant, disturbed as a schedule says."""

    def run(variant, workers, faults=(), events=None, min_workers=None, tcp=False, **fields):
        callbacks = (sample("OverTcp"),) if tcp else ()
        plan = known_plan(small_plan, sample, VARIANTS[variant], callbacks=callbacks)
        plan = replace(plan, **fields)
        outcome = train(plan, workers=workers, events=events, min_workers=min_workers, faults=faults)
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


@pytest.mark.parametrize("point", [*STEP, "load", "evaluated", "finish"])
def test_a_worker_killed_at_any_point(known, digest_of, point):
    events = []
    step = {"evaluated": 3, "finish": STEPS}.get(point, 2)
    fault = Fault(kind="kill", point=point, step=step, rank=0 if point == "finish" else 1)
    assert digest_of("batch-norm", 2, [fault], events) == undisturbed(known, digest_of, "batch-norm")
    assert ExitKind.KILLED in {event.exit.kind for event in events if isinstance(event, MemberExited)}


@pytest.mark.parametrize("workers", [2, 3])
def test_a_worker_killed_while_gradients_go_over_the_network(known, digest_of, workers):
    events = []
    script = [Fault(kind="kill", point=point, step=step, rank=1) for point, step in (("in_reduce", 2), ("commit", 4))]
    assert digest_of("dropout", workers, script, events, tcp=True) == undisturbed(known, digest_of, "dropout")
    assert ExitKind.KILLED in {event.exit.kind for event in events if isinstance(event, MemberExited)}


def test_rank_0_killed_and_replaced(known, digest_of, tmp_path):
    """The replacement takes part before the next epoch ends: rank 1 waits for it."""
    script = [
        Fault(kind="kill", rank=0, point="in_reduce", step=1),
        Fault(kind="release", rank=0, point="ready", attempt=2, gate="back"),
        Fault(kind="hold", rank=1, point="before_reduce", step=2, gate="back"),
        Fault(kind="mark", rank=0, point="commit", step=5, attempt=2),
    ]
    assert digest_of("dropout", 2, script) == undisturbed(known, digest_of, "dropout")
    assert [(entry.member, entry.attempt, entry.step) for entry in happened(tmp_path)][-1] == ("worker-0", 2, 5)


def test_a_worker_joins_in_the_middle(known, digest_of, tmp_path):
    script = [
        Fault(kind="join", rank=1, step=1),
        Fault(kind="hold", rank=0, point="before_reduce", step=3, gate="together"),
        Fault(kind="release", rank=1, point="before_reduce", step=3, gate="together"),
    ]
    assert digest_of("batch-norm", 2, script, min_workers=1) == undisturbed(known, digest_of, "batch-norm")
    assert {entry.member for entry in happened(tmp_path) if entry.fault.gate == "together"} == {"worker-0", "worker-1"}


def test_a_worker_that_was_stopped_is_replaced(known, digest_of):
    events = []
    stop = Fault(kind="stop", rank=1, step=2)
    assert digest_of("plain", 2, [stop], events) == undisturbed(known, digest_of, "plain")
    assert ExitKind.LOST in {event.exit.kind for event in events if isinstance(event, MemberExited)}


@pytest.mark.parametrize("tcp", [False, True])
def test_links_that_break_are_made_again_and_nobody_is_replaced(known, digest_of, tcp):
    events = []
    cut = Fault(kind="disconnect", rank=1, step=2)
    assert digest_of("dropout", 3, [cut], events, tcp=tcp) == undisturbed(known, digest_of, "dropout")
    assert {event.attempt for event in events if isinstance(event, MemberExited)} == {1}


def test_a_worker_that_stops_while_links_break_is_found_although_nobody_is_connected_with_it(known, digest_of):
    script = [Fault(kind="stop", rank=2, point="in_reduce", step=2), Fault(kind="disconnect", rank=0, step=2)]
    assert digest_of("plain", 3, script) == undisturbed(known, digest_of, "plain")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_worker_that_stops_as_the_other_dies_is_found_by_the_replacement(known, digest_of, rank):
    """Which has never met it."""
    events = []
    script = [
        Fault(kind="stop", rank=rank, point="after_reduce", step=2),
        Fault(kind="kill", rank=1 - rank, point="optimizer", step=2),
    ]
    assert digest_of("plain", 2, script, events) == undisturbed(known, digest_of, "plain")
    kinds = [event.exit.kind for event in events if isinstance(event, MemberExited)]
    assert ExitKind.LOST in kinds
    assert ExitKind.TIMED_OUT not in kinds


@pytest.mark.parametrize("point", ["before_reduce", "in_reduce", "commit"])
def test_a_worker_killed_where_only_a_network_connects_them(known, digest_of, point):
    script = [Fault(kind="kill", rank=0, point=point, step=2)]
    assert digest_of("batch-norm", 3, script, tcp=True) == undisturbed(known, digest_of, "batch-norm")


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


@pytest.mark.parametrize("seed", range(25))
def test_drawn_schedules(known, digest_of, seed):
    check_drawn(known, digest_of, seed)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(100, 600))
def test_more_drawn_schedules(known, digest_of, seed):
    check_drawn(known, digest_of, seed)


def check_drawn(known, digest_of, seed):
    variant = list(VARIANTS)[seed % 3]
    workers = (1, 2, 3, 4, 8)[seed // 3 % 5]
    script = draw(seed, workers=workers, steps=STEPS)
    tcp = seed % 2 == 1  # else through shared memory
    assert digest_of(variant, workers, script, tcp=tcp) == undisturbed(known, digest_of, variant), script
