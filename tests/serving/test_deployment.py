from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from serving_samples import write_classifier

from ganglion.artifacts.package import PackageManifest
from ganglion.core.events import Exit, ExitKind, JobFinished, MemberExited, MemberReady
from ganglion.serving.deployment import Deployment
from ganglion.serving.options import ServingOptions
from ganglion.serving.policy import VersionPolicy
from ganglion.serving.rollout import Canary
from ganglion.serving.routes import CanaryRoute
from ganglion.serving.traffic import Traffic
from ganglion.serving.version_run import VersionRun


@pytest.fixture
def manifest(classifier: Path) -> PackageManifest:
    return write_classifier(classifier.parent / "other")


@pytest.fixture
def deployment() -> Deployment:
    return Deployment("m", ServingOptions.fixed(2), VersionPolicy())


def ready(run: VersionRun, member: str, attempt: int = 1) -> None:
    run.observe(MemberReady(at=0, job=run.job, member=member, attempt=attempt, endpoint=f"unix:/{member}.{attempt}"))


def gone(run: VersionRun, member: str, attempt: int = 1, **fields: Any) -> None:
    ended = Exit(kind=fields.pop("kind", ExitKind.KILLED), message="killed by SIGKILL")
    run.observe(MemberExited(at=0, job=run.job, member=member, attempt=attempt, exit=ended))


def shown(deployment: Deployment) -> tuple[int | None, list[tuple[int, str, list[str]]]]:
    route = deployment.route()
    return route.default, [
        (version.version, version.state, [replica.endpoint for replica in version.replicas])
        for version in route.versions
    ]


def test_a_version_is_available_once_all_its_replicas_are_ready(
    deployment: Deployment, manifest: PackageManifest
) -> None:
    run = VersionRun("job", 1, manifest, 2)
    deployment.add(run)
    assert shown(deployment) == (1, [(1, "LOADING", [])])
    ready(run, "replica-0")
    assert deployment.take_over(0.0) == []
    assert shown(deployment) == (1, [(1, "LOADING", ["unix:/replica-0.1"])])
    ready(run, "replica-1")
    assert shown(deployment) == (1, [(1, "AVAILABLE", ["unix:/replica-0.1", "unix:/replica-1.1"])])
    gone(run, "replica-0")
    assert shown(deployment) == (1, [(1, "AVAILABLE", ["unix:/replica-1.1"])])


def test_the_end_of_an_earlier_attempt_does_not_remove_a_later_one(
    deployment: Deployment, manifest: PackageManifest
) -> None:
    run = VersionRun("job", 1, manifest, 1)
    deployment.add(run)
    ready(run, "replica-0", attempt=2)
    gone(run, "replica-0", attempt=1)
    assert shown(deployment)[1] == [(1, "AVAILABLE", ["unix:/replica-0.2"])]
    assert run.route().replicas[0].id == "job/replica-0/2"


def test_the_old_version_goes_only_when_the_new_one_is_available(
    deployment: Deployment, manifest: PackageManifest
) -> None:
    old, new = VersionRun("old", 1, manifest, 1), VersionRun("new", 2, manifest, 1)
    deployment.add(old)
    ready(old, "replica-0")
    assert deployment.take_over(0.0) == []
    deployment.add(new)
    assert deployment.take_over(0.0) == []
    assert shown(deployment) == (1, [(1, "AVAILABLE", ["unix:/replica-0.1"]), (2, "LOADING", [])])
    ready(new, "replica-0")
    assert deployment.take_over(0.0) == [old]
    assert deployment.take_over(0.0) == []
    assert [state for _, state, _ in shown(deployment)[1]] == ["UNLOADING", "AVAILABLE"]
    old.observe(JobFinished(at=0, job="old", state="succeeded"))
    deployment.end(old)
    assert shown(deployment) == (2, [(1, "END", []), (2, "AVAILABLE", ["unix:/replica-0.1"])])
    assert old.route().error == ""


def test_a_version_that_cannot_start_is_given_up_and_the_old_one_stays(
    deployment: Deployment, manifest: PackageManifest
) -> None:
    old, new = VersionRun("old", 1, manifest, 1), VersionRun("new", 2, manifest, 2)
    deployment.add(old)
    ready(old, "replica-0")
    deployment.add(new)
    for attempt in (1, 2):
        gone(new, "replica-0", attempt, kind=ExitKind.EXCEPTION)
    assert not new.hopeless
    gone(new, "replica-1", 1, kind=ExitKind.EXCEPTION)
    assert new.hopeless
    new.observe(JobFinished(at=0, job="new", state="cancelled", message="cancelled"))
    deployment.end(new)
    assert shown(deployment)[0] == 1
    assert new.route().error == "killed by SIGKILL", "why its replicas ended, not that it was cancelled"


def test_when_the_first_version_fails_the_next_one_answers(deployment: Deployment, manifest: PackageManifest) -> None:
    bad, good = VersionRun("bad", 1, manifest, 1), VersionRun("good", 2, manifest, 1)
    deployment.add(bad)
    deployment.add(good)
    assert deployment.default == 1
    bad.observe(JobFinished(at=0, job="bad", state="failed", message="no resources"))
    deployment.end(bad)
    assert deployment.default == 2
    good.observe(JobFinished(at=0, job="good", state="failed"))
    deployment.end(good)
    assert deployment.default is None
    assert [run.version for run in deployment.runs] == [2], "only the last end is remembered"


def test_a_version_that_comes_again_while_it_goes_is_shown_once(
    deployment: Deployment, manifest: PackageManifest
) -> None:
    first, other, again = (VersionRun(job, number, manifest, 1) for job, number in (("a", 1), ("b", 2), ("c", 1)))
    for run in (first, other, again):
        deployment.add(run)
        ready(run, "replica-0")
        deployment.take_over(0.0)
    assert shown(deployment) == (1, [(1, "AVAILABLE", ["unix:/replica-0.1"]), (2, "UNLOADING", ["unix:/replica-0.1"])])


def test_going_back_before_the_next_version_is_ready_withdraws_it(
    deployment: Deployment, manifest: PackageManifest
) -> None:
    old, new = VersionRun("old", 1, manifest, 1), VersionRun("new", 2, manifest, 1)
    deployment.add(old)
    ready(old, "replica-0")
    deployment.add(new)
    assert deployment.withdraw_others(old) == [new]
    ready(new, "replica-0")
    assert deployment.take_over(0.0) == []
    assert shown(deployment) == (1, [(1, "AVAILABLE", ["unix:/replica-0.1"]), (2, "UNLOADING", ["unix:/replica-0.1"])])


def tried(deployment: Deployment, manifest: PackageManifest, canary: Canary) -> tuple[VersionRun, VersionRun]:
    """A version that answers and one that is tried."""
    old, new = VersionRun("old", 1, manifest, 1), VersionRun("new", 2, manifest, 1)
    deployment.add(old)
    ready(old, "replica-0")
    deployment.take_over(0.0)
    deployment.add(new)
    deployment.try_out(new, canary, VersionPolicy.of(2), 0.0)
    assert deployment.route().canary is None, "it is loading"
    ready(new, "replica-0")
    assert deployment.take_over(0.0) == []
    return old, new


def seen(deployment: Deployment, version: int, requests: int, errors: int = 0) -> None:
    deployment.take_traffic(
        Traffic(model="m", version=version, requests=requests, errors=errors, seconds={50: requests})
    )


def test_a_version_that_is_tried_gets_its_part_and_takes_over_at_the_end(
    deployment: Deployment, manifest: PackageManifest
) -> None:
    old, _new = tried(deployment, manifest, Canary(percent=10, steps=(40, 100), minimum_requests=10))
    assert deployment.route().default == 1
    assert deployment.route().canary == CanaryRoute(2, 10)
    seen(deployment, 1, 10)
    assert deployment.judge(20.0)[0].what == "wait"
    seen(deployment, 2, 10)
    assert deployment.judge(20.0)[0].what == "advance"
    assert deployment.route().canary == CanaryRoute(2, 40)
    assert deployment.judge(40.0)[0].what == "wait", "what was seen in the step before does not count"
    for version in (1, 2, 3):
        seen(deployment, version, 10)
    decision, leaving = deployment.judge(40.0)
    assert (decision.what, leaving) == ("promote", [old])
    assert deployment.route().default == 2
    assert deployment.route().canary is None
    assert deployment.policy == VersionPolicy.of(2)
    assert deployment.previous == 1


def test_a_version_that_fails_while_it_is_tried_goes_and_is_not_tried_by_itself_again(
    deployment: Deployment, manifest: PackageManifest
) -> None:
    _old, new = tried(deployment, manifest, Canary(percent=10))
    seen(deployment, 2, 3, errors=3)
    decision, leaving = deployment.judge(0.0)
    assert (decision.what, leaving) == ("roll back", [new])
    assert deployment.route().canary is None
    assert deployment.route().default == 1
    assert deployment.refused == {2}
    assert deployment.policy == VersionPolicy(), "as it was"
    assert deployment.describe()["last_rollout"].startswith("Version 2 was rolled back: 3 of its 3 answers were errors")


def test_when_the_version_that_answers_ends_the_one_that_is_tried_answers(
    deployment: Deployment, manifest: PackageManifest
) -> None:
    old, _new = tried(deployment, manifest, Canary(percent=10))
    old.observe(JobFinished(at=0, job="old", state="failed"))
    deployment.end(old)
    assert deployment.route().default == 2
    assert deployment.route().canary is None


def test_a_version_that_ends_while_it_is_tried_is_refused(deployment: Deployment, manifest: PackageManifest) -> None:
    _old, new = tried(deployment, manifest, Canary(percent=10))
    new.observe(JobFinished(at=0, job="new", state="failed", message="no room"))
    deployment.end(new)
    assert deployment.route().canary is None
    assert deployment.refused == {2}
    assert deployment.outcome == "Version 2 ended while it was tried: no room"


def test_a_third_version_ends_the_trial_when_it_is_available(deployment: Deployment, manifest: PackageManifest) -> None:
    old, new = tried(deployment, manifest, Canary(percent=10))
    third = VersionRun("third", 3, manifest, 1)
    deployment.add(third)
    assert deployment.take_over(1.0) == []
    assert deployment.route().canary == CanaryRoute(2, 10), "until then it goes on"
    ready(third, "replica-0")
    assert deployment.take_over(2.0) == [old, new]
    assert deployment.route().canary is None
    assert deployment.route().default == 3
