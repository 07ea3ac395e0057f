"""The order in which the gateway and the jobs are told; the jobs only note what they are told."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ganglion.core.errors import UserError
from ganglion.core.events import Event, JobAdmitted, MemberReady, MemberReported
from ganglion.core.ids import RandomIds
from ganglion.core.resources import Resources
from ganglion.execution.backend import Capacity
from ganglion.serving.fleet import Fleet, most_replicas
from ganglion.serving.gateway_control import GatewayControl
from ganglion.serving.gateway_watch import GatewayWatch
from ganglion.serving.hanging import HANGING, Hanging, hanging_to_data
from ganglion.serving.load import Load
from ganglion.serving.options import ServingOptions
from ganglion.serving.policy import VersionPolicy
from ganglion.serving.repository import ModelRepository
from ganglion.serving.rollout import Canary
from ganglion.serving.routes import SETTLED, CanaryRoute, Routes
from ganglion.serving.traffic import Traffic


class NotedJob:
    """Notes what it is told."""

    def __init__(self, listener: Callable[[Event], None]) -> None:
        self.listener = listener
        self.told: list[Any] = []

    def scale(self, replicas: int) -> None:
        self.told.append(replicas)

    def drain(self) -> None:
        self.told.append("drain")

    def accuse(self, member: str, attempt: int) -> None:
        self.told.append((member, attempt))


class Place:
    """A fleet, its gateway, and the jobs of its versions, in the order of their starts."""

    def __init__(self, repository: ModelRepository) -> None:
        self.jobs: list[NotedJob] = []
        self.gateway = GatewayControl(
            routes=lambda generation: Routes(generation=generation),
            settled=lambda: self.fleet.end_settled(),
            loads=lambda loads: self.fleet.take_loads(loads),
            traffic=lambda traffic: self.fleet.take_traffic(traffic),
            hanging=lambda hanging: self.fleet.replace_hanging(hanging),
            watch=GatewayWatch(dict, lambda _pid: None),
        )
        backend = SimpleNamespace(capacity=lambda: Capacity(nodes=(Resources(cpu=4),)))
        supervisor: Any = SimpleNamespace(backend=backend, submit=self._submit)
        self.fleet = Fleet(supervisor, repository, RandomIds(), self.gateway, lambda observe: observe)

    def _submit(self, _spec: Any, listener: Callable[[Event], None]) -> NotedJob:
        self.jobs.append(NotedJob(listener))
        return self.jobs[-1]

    def settle(self) -> None:
        values = {SETTLED: self.gateway.generation}
        self.gateway.observe(MemberReported(at=0, job="gateway", member="replica-0", attempt=1, values=values))

    def routed(self, model: str) -> list[int]:
        return [len(version.replicas) for version in self.fleet.deployments[model].route().versions]


@pytest.fixture
def place(repository: ModelRepository, classifier: Path) -> Place:
    for _ in range(2):
        repository.publish("m", classifier)
    return Place(repository)


def elastic(**fields: Any) -> ServingOptions:
    return ServingOptions(scale_target=1.0, resources=Resources(cpu=0.5), **fields)


def make_ready(place: Place, job: str, count: int, first: int = 0) -> None:
    for index in range(first, first + count):
        name = f"replica-{index}"
        place.jobs[-1].listener(JobAdmitted(at=0, job=job, members=(name,)))
        place.jobs[-1].listener(MemberReady(at=0, job=job, member=name, attempt=1, endpoint=f"unix:/{name}"))


def test_a_replica_is_ended_when_the_gateway_has_settled_on_routes_without_it(place: Place) -> None:
    run = place.fleet.serve("m", 1, elastic(min_replicas=3), VersionPolicy.of(1))
    make_ready(place, run.job, 3)
    place.fleet.serve("m", 1, ServingOptions.fixed(1), VersionPolicy.of(1))
    assert place.routed("m") == [1]
    assert place.jobs[0].told == [], "it may hold requests"
    place.settle()
    assert place.jobs[0].told == [1]


def test_a_replica_that_is_needed_again_before_it_is_ended_stays(place: Place) -> None:
    run = place.fleet.serve("m", 1, elastic(min_replicas=3), VersionPolicy.of(1))
    make_ready(place, run.job, 3)
    place.fleet.serve("m", 1, elastic(max_replicas=1), VersionPolicy.of(1))
    assert place.routed("m") == [1]
    place.fleet.serve("m", 1, elastic(min_replicas=3), VersionPolicy.of(1))
    place.settle()
    assert place.routed("m") == [3]
    assert place.jobs[0].told == [3], "nobody is ended"


def test_a_version_is_ended_when_the_gateway_has_settled_on_the_next(place: Place) -> None:
    options = elastic(min_replicas=2)
    old = place.fleet.serve("m", 1, options, VersionPolicy.of(1))
    make_ready(place, old.job, 2)
    new = place.fleet.serve("m", 2, options, VersionPolicy.of(1))
    assert new.wanted == 2
    place.settle()
    make_ready(place, new.job, 2)
    assert place.jobs[0].told == []
    place.settle()
    assert place.jobs[0].told == ["drain"]


def test_a_load_starts_what_the_machine_can_hold(place: Place) -> None:
    run = place.fleet.serve("m", 1, elastic(), VersionPolicy.of(1))
    make_ready(place, run.job, 1)
    load = Load(model="m", version=1, seconds=0.5, concurrency=20.0, requests=20, waiting=20)
    place.fleet.take_loads([load, Load(model="gone", version=1, seconds=1, concurrency=9, requests=9, waiting=9)])
    assert place.jobs[0].told == [8], "4 cores for half a core each"


def test_a_replica_that_a_gateway_says_hangs_is_ended_once_and_shown(place: Place) -> None:
    run = place.fleet.serve("m", 1, elastic(min_replicas=2), VersionPolicy.of(1))
    make_ready(place, run.job, 2)
    told = [Hanging(f"{run.job}/replica-1/1", 6.25), Hanging(f"{run.job}/replica-0/7", 9.0), Hanging("gone/r/1", 9.0)]
    for gateway in ("replica-0", "replica-1", "replica-0"):  # each says so, and again
        values = {HANGING: hanging_to_data(told)}
        place.gateway.observe(MemberReported(at=0, job="gateway", member=gateway, attempt=1, values=values))
    assert place.jobs[0].told == [("replica-1", 1)], "another attempt of a member is not meant"
    shown = place.fleet.deployments["m"].describe()["versions"][1]["hung"]
    assert shown == "1 replica was replaced for hanging; last, replica-1 had not come back from one batch for 6.25 s"


def test_how_many_a_backend_holds() -> None:
    nodes = Capacity(nodes=(Resources(cpu=3.9, memory=100), Resources(cpu=1, memory=1000)))
    assert most_replicas(nodes, Resources(cpu=1)) == 4, "a replica does not lie on two nodes"
    assert most_replicas(nodes, Resources(cpu=0.1, memory=50)) == 12
    assert most_replicas(nodes, Resources(cpu=0, gpu=1)) == 0
    assert most_replicas(nodes, Resources(cpu=0)) > 10**6


def test_newer_versions_are_tried_as_was_said_and_one_that_was_taken_back_is_not_tried_again(place: Place) -> None:
    options = ServingOptions(min_replicas=1, max_replicas=1, canary=Canary(percent=20))
    make_ready(place, place.fleet.serve("m", 1, options, VersionPolicy()).job, 1)
    place.settle()
    deployment = place.fleet.deployments["m"]
    place.fleet.look_around()
    assert len(place.jobs) == 2, "version 2 was there already"
    assert deployment.route().canary is None, "it is loading"
    make_ready(place, deployment.runs[-1].job, 1)
    assert (deployment.route().default, deployment.route().canary) == (1, CanaryRoute(2, 20))
    traffic = Traffic(model="m", version=2, requests=3, errors=3)
    place.fleet.take_traffic([traffic, Traffic(model="gone", version=1, requests=1)])
    assert (deployment.route().default, deployment.route().canary) == (1, None)
    assert place.jobs[1].told == [], "it may hold requests"
    place.settle()
    assert place.jobs[1].told == ["drain"]
    place.fleet.look_around()
    assert len(place.jobs) == 2
    assert deployment.policy == VersionPolicy(), "and a third one would be tried"


def test_versions_that_go_from_the_repository_are_served_no_longer_where_all_are(
    place: Place, repository: ModelRepository
) -> None:
    make_ready(place, place.fleet.serve("m", 2, ServingOptions.fixed(1), VersionPolicy.of(None, "all")).job, 1)
    place.fleet.look_around()
    deployment = place.fleet.deployments["m"]
    make_ready(place, deployment.runs[-1].job, 1)
    assert (deployment.default, len(place.jobs)) == (2, 2)
    shutil.rmtree(repository.root / "m" / "2")
    place.fleet.look_around()
    assert deployment.default == 1
    place.settle()
    assert [job.told for job in place.jobs] == [["drain"], []]


def test_from_all_versions_back_to_one(place: Place) -> None:
    make_ready(place, place.fleet.serve("m", 2, ServingOptions.fixed(1), VersionPolicy.of(None, "all")).job, 1)
    place.fleet.look_around()
    deployment = place.fleet.deployments["m"]
    make_ready(place, deployment.runs[-1].job, 1)
    place.fleet.serve("m", 1, ServingOptions.fixed(1), VersionPolicy.of(1))
    assert deployment.default == 1
    place.settle()
    assert [job.told for job in place.jobs] == [["drain"], []]


def test_back_to_the_version_before_and_not_forth_again(place: Place) -> None:
    make_ready(place, place.fleet.serve("m", 1, ServingOptions.fixed(1), VersionPolicy.of(1)).job, 1)
    make_ready(place, place.fleet.serve("m", 2, ServingOptions.fixed(1), VersionPolicy()).job, 1)
    deployment = place.fleet.deployments["m"]
    assert (deployment.default, deployment.previous) == (2, 1)
    make_ready(place, place.fleet.roll_back("m", "on request").job, 1)
    assert (deployment.default, deployment.policy) == (1, VersionPolicy.of(1))
    with pytest.raises(UserError, match="nothing to go back to"):
        place.fleet.roll_back("m", "on request")


def test_a_version_that_is_tried_has_the_replicas_that_its_part_of_the_requests_needs(place: Place) -> None:
    options = ServingOptions(min_replicas=4, max_replicas=4)
    first = place.fleet.serve("m", 1, options, VersionPolicy.of(1))
    make_ready(place, first.job, 4)
    canary = Canary(percent=25, steps=(50, 100), minimum_requests=10, step_seconds=0)
    run = place.fleet.serve("m", 2, options, VersionPolicy.of(2), canary=canary)
    deployment = place.fleet.deployments["m"]
    make_ready(place, run.job, 1)
    assert place.routed("m") == [4, 1]

    def as_good() -> None:
        for version in (1, 2):
            place.fleet.take_traffic([Traffic(model="m", version=version, requests=10, seconds={50: 10})])

    for percent, before, following in ((25, 1, 2), (50, 2, 4)):
        assert deployment.route().canary == CanaryRoute(2, percent)
        as_good()
        assert deployment.route().canary == CanaryRoute(2, percent), "its replicas come first"
        assert place.jobs[1].told[-1] == following
        make_ready(place, run.job, following - before, first=before)
    assert (deployment.route().default, deployment.route().canary) == (2, None)
    assert len(run.ready) == 4
    assert "drain" not in place.jobs[0].told, "it may hold requests"


def test_scaling_a_model_leaves_the_version_that_is_tried_its_share(place: Place) -> None:
    options = ServingOptions(min_replicas=2, max_replicas=2)
    make_ready(place, place.fleet.serve("m", 1, options, VersionPolicy.of(1)).job, 2)
    run = place.fleet.serve("m", 2, options, VersionPolicy.of(2), canary=Canary(percent=25))
    make_ready(place, run.job, 1)
    place.fleet.scale("m", ServingOptions(min_replicas=8, max_replicas=8))
    assert (place.jobs[0].told, place.jobs[1].told) == ([8], [2])


def test_a_version_that_takes_over_on_request_gets_all_replicas(place: Place) -> None:
    options = ServingOptions(min_replicas=3, max_replicas=3)
    make_ready(place, place.fleet.serve("m", 1, options, VersionPolicy.of(1)).job, 3)
    run = place.fleet.serve("m", 2, options, VersionPolicy.of(2), canary=Canary(percent=10))
    make_ready(place, run.job, 1)
    assert place.fleet.serve("m", 2, options, VersionPolicy.of(2)) is run
    assert place.jobs[1].told == [3]
    assert place.fleet.deployments["m"].default == 1, "the other two are not ready yet"
    make_ready(place, run.job, 3)
    assert place.fleet.deployments["m"].default == 2
