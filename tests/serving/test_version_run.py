from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from serving_samples import write_classifier

from ganglion.artifacts.package import PackageManifest
from ganglion.core.events import Exit, ExitKind, JobAdmitted, MemberExited, MemberReady, MemberSampled
from ganglion.core.resources import Resources
from ganglion.serving.hanging import Hanging
from ganglion.serving.load import Load
from ganglion.serving.options import ServingOptions
from ganglion.serving.routes import ReplicaEnd
from ganglion.serving.version_run import ROOM_PATIENCE, START_PAUSE, VersionRun


@pytest.fixture
def manifest(classifier: Path) -> PackageManifest:
    return write_classifier(classifier.parent / "other")


def admitted(run: VersionRun, *members: str) -> None:
    for member in members:
        run.observe(JobAdmitted(at=0, job=run.job, members=(member,)))


def ready(run: VersionRun, *members: str, attempt: int = 1) -> None:
    for member in members:
        run.observe(MemberReady(at=0, job=run.job, member=member, attempt=attempt, endpoint=f"unix:/{member}"))


def gone(run: VersionRun, member: str, attempt: int = 1, kind: ExitKind = ExitKind.EXCEPTION) -> None:
    ended = Exit(kind=kind, message="ModelError: the package is damaged")
    run.observe(MemberExited(at=0, job=run.job, member=member, attempt=attempt, exit=ended))


def routed(run: VersionRun) -> list[str]:
    return [replica.endpoint for replica in run.route().replicas]


def elastic(**fields: Any) -> ServingOptions:
    return ServingOptions(**{"scale_target": 1.0, "min_replicas": 0, **fields})


def load(concurrency: float = 0.0, *, requests: int = 0, seconds: float = 0.5) -> Load:
    waiting = round(concurrency)
    return Load(model="m", version=1, seconds=seconds, concurrency=concurrency, requests=requests, waiting=waiting)


def started(manifest: PackageManifest, replicas: int) -> VersionRun:
    run = VersionRun("job", 1, manifest, replicas, least=1)
    members = [f"replica-{index}" for index in range(replicas)]
    admitted(run, *members)
    ready(run, *members)
    assert run.state == "AVAILABLE"
    return run


@pytest.mark.parametrize(
    ("kind", "signal_", "outside"),
    [
        (ExitKind.KILLED, signal.SIGKILL, True),
        (ExitKind.KILLED, signal.SIGTERM, True),
        (ExitKind.KILLED, signal.SIGSEGV, False),
        (ExitKind.OUT_OF_MEMORY, signal.SIGKILL, False),
        (ExitKind.LOST, signal.SIGKILL, False),
        (ExitKind.EXCEPTION, None, False),
    ],
)
def test_gateways_hear_which_ends_no_request_can_be_the_cause_of(
    manifest: PackageManifest, kind: ExitKind, signal_: int | None, outside: bool
) -> None:
    run = started(manifest, 1)
    ended = Exit(kind=kind, message="", signal=signal_)
    run.observe(MemberExited(at=0, job=run.job, member="replica-0", attempt=1, exit=ended))
    assert run.route().ends == (ReplicaEnd("job/replica-0/1", outside),)


def test_gateways_hear_that_a_replica_was_ended_because_it_hung(manifest: PackageManifest) -> None:
    run = started(manifest, 2)
    assert run.describe()["hung"] == ""
    assert run.give_up(Hanging("job/replica-1/1", 7.0)) == ("replica-1", 1)
    assert run.give_up(Hanging("job/replica-1/1", 7.5)) is None
    for member in ("replica-0", "replica-1"):
        ended = Exit(kind=ExitKind.LOST, message="", signal=signal.SIGKILL)
        run.observe(MemberExited(at=0, job=run.job, member=member, attempt=1, exit=ended))
    assert run.route().ends == (
        ReplicaEnd("job/replica-0/1", outside=False),
        ReplicaEnd("job/replica-1/1", outside=False, hanging=True),
    )
    assert run.failed_starts == 0, "they had started"


def test_the_last_replica_that_works_is_not_ended_for_hanging(manifest: PackageManifest) -> None:
    run = started(manifest, 2)
    assert run.give_up(Hanging("job/replica-1/1", 7.0)) == ("replica-1", 1)
    assert run.give_up(Hanging("job/replica-0/1", 7.0)) is None
    alone = started(manifest, 1)
    assert alone.give_up(Hanging("job/replica-0/1", 7.0)) == ("replica-0", 1), "nothing is left to lose"


def test_a_replica_that_goes_leaves_the_routes_before_the_job(manifest: PackageManifest) -> None:
    run = started(manifest, 3)
    run.resize(1)
    assert routed(run) == ["unix:/replica-0"]
    assert run.members == ["replica-0", "replica-1", "replica-2"], "the job has not been told yet"
    run.drop()
    assert run.members == ["replica-0"]
    ready(run, "replica-2", attempt=2)
    assert routed(run) == ["unix:/replica-0"], "what has been dropped does not come back"


def test_replicas_that_are_leaving_stay_when_they_are_needed_again(manifest: PackageManifest) -> None:
    run = started(manifest, 3)
    run.resize(1)
    run.resize(4)
    assert run.members == ["replica-0", "replica-1", "replica-2", "replica-3"]
    assert routed(run) == ["unix:/replica-0", "unix:/replica-1", "unix:/replica-2"]
    run.resize(1)
    run.drop()
    run.resize(2)
    assert run.members == ["replica-0", "replica-4"], "names are not used twice"


def test_a_version_takes_over_with_those_that_have_room(manifest: PackageManifest) -> None:
    run = VersionRun("job", 2, manifest, 3, least=1)
    admitted(run, "replica-0", "replica-1")
    ready(run, "replica-0")
    assert run.state == "LOADING", "the other one that has room is on its way"
    ready(run, "replica-1")
    assert run.state == "AVAILABLE"
    fixed = VersionRun("job", 2, manifest, 3)
    admitted(fixed, "replica-0", "replica-1")
    ready(fixed, "replica-0", "replica-1")
    assert fixed.state == "LOADING", "a fixed number is a promise"


def test_while_there_is_no_room_one_replica_waits_for_it(manifest: PackageManifest) -> None:
    run, chosen = started(manifest, 1), elastic()
    run.resize(run.follow(load(5), chosen, now=1.0, ceiling=100))
    assert run.wanted == 5
    admitted(run, "replica-1")
    assert run.describe()["waiting_for_room"] == 3
    assert run.follow(load(5), chosen, now=1.5, ceiling=100) == 5
    run.resize(run.follow(load(5), chosen, now=1.5 + ROOM_PATIENCE, ceiling=100))
    assert run.wanted == 3, "two that have room and one that waits"
    run.drop()
    assert run.follow(load(5), chosen, now=2.0 + ROOM_PATIENCE, ceiling=100) == 3
    admitted(run, "replica-2")
    assert run.follow(load(5), chosen, now=2.5 + ROOM_PATIENCE, ceiling=100) == 5, "there may be room again"


def test_failed_starts_from_zero_are_told_and_tried_again_after_a_pause(manifest: PackageManifest) -> None:
    run, chosen = started(manifest, 1), elastic()
    run.resize(0)
    run.drop()
    run.resize(run.follow(load(1, requests=1), chosen, now=1.0, ceiling=100))
    assert run.members == ["replica-1"]
    for attempt in (1, 2):
        gone(run, "replica-1", attempt)
    assert not run.failing
    assert run.route().error == ""
    gone(run, "replica-1", 3)
    assert run.failing
    assert run.route().error == "ModelError: the package is damaged"
    run.hold(2.0)
    run.resize(0)
    assert run.follow(load(1, requests=1), chosen, now=3.0, ceiling=100) == 0
    assert not run.release(3.0)
    assert run.route().error
    assert run.release(2.0 + START_PAUSE)
    assert run.route().error == ""
    assert run.follow(load(), chosen, now=3.0 + START_PAUSE, ceiling=100) == 0
    assert run.follow(load(1, requests=1), chosen, now=4.0 + START_PAUSE, ceiling=100) == 1


def test_what_waits_for_a_version_that_goes_from_zero_is_answered_first(manifest: PackageManifest) -> None:
    run, chosen = started(manifest, 1), elastic()
    run.resize(0)
    run.drop()
    run.state = "UNLOADING"
    assert run.follow(load(), chosen, now=1.0, ceiling=100) == 0
    run.resize(run.follow(load(2), chosen, now=2.0, ceiling=100))
    ready(run, "replica-1")
    assert routed(run) == ["unix:/replica-1"]


def test_replicas_that_die_at_work_are_no_failed_starts(manifest: PackageManifest) -> None:
    run = started(manifest, 1)
    for attempt in range(1, 10):
        ready(run, "replica-0", attempt=attempt)
        gone(run, "replica-0", attempt, ExitKind.KILLED)
    assert not run.failing


def test_what_a_version_is_scaled_by(manifest: PackageManifest) -> None:
    busy = load(7, requests=20)
    assert started(manifest, 1).follow(busy, elastic(), now=1.0, ceiling=100) == 7
    by_rate = elastic(scale_metric="rps", scale_target=10.0)
    assert started(manifest, 1).follow(busy, by_rate, now=1.0, ceiling=100) == 4, "40 a second"
    for metric, wanted in (("cpu", 3), ("memory", 2)):
        run = started(manifest, 2)
        for at, seconds in ((0.0, 10.0), (2.0, 10.6)):
            for member in ("replica-0", "replica-1"):
                sample = MemberSampled(
                    at=at, job="job", member=member, attempt=1, cpu_seconds=seconds, memory=50, threads=1
                )
                run.observe(sample)
        declared = Resources(cpu=0.25, memory=70)
        by_usage = ServingOptions(scale_metric=metric, max_replicas=9, resources=declared)  # type: ignore[arg-type]
        assert run.follow(busy, by_usage, now=1.0, ceiling=100) == wanted, "240 % of the cores, 143 % of the memory"


def test_the_usage_of_a_replica_that_is_gone_does_not_count(manifest: PackageManifest) -> None:
    run = started(manifest, 2)
    by_memory = ServingOptions(scale_metric="memory", max_replicas=9, resources=Resources(memory=100))
    for member in ("replica-0", "replica-1"):
        run.observe(MemberSampled(at=0, job="job", member=member, attempt=1, cpu_seconds=0, memory=160, threads=1))
    assert run.follow(load(), by_memory, now=1.0, ceiling=100) == 4
    gone(run, "replica-1")
    ready(run, "replica-1", attempt=2)
    run.resize(2)
    assert run.follow(load(), by_memory, now=100.0, ceiling=100) == 2


def test_what_keeps_a_version_from_starting_is_not_hidden_by_its_own_end(manifest: PackageManifest) -> None:
    run = VersionRun("job", 1, manifest, 2)
    for attempt in (1, 2, 3):
        gone(run, "replica-0", attempt)
    assert run.hopeless
    cancelled = Exit(kind=ExitKind.CANCELLED, message="cancelled")
    run.observe(MemberExited(at=0, job=run.job, member="replica-1", attempt=1, exit=cancelled))
    assert run.error == "ModelError: the package is damaged"
    assert run.failed_starts == 3
