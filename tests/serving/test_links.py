"""What every link to a replica does, whether or not the gateway holds the model as well."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop
from gateway_samples import PATIENCE, ScriptedReplica
from serving_samples import write_sum

from ganglion.serving.gateway.errors import RequestError
from ganglion.serving.gateway.fused_link import LinkOpener
from ganglion.serving.gateway.prediction import Part, Prediction
from ganglion.serving.gateway.replica_link import ReplicaLink
from ganglion.serving.payload import Payload
from ganglion.serving.routes import ModelRoute
from ganglion.serving.runtime import Tensors
from ganglion.serving.wire import Failure


class Owner:
    """Notes what it is told, as `free`, `answered ROWS` and `lost BEGUN UNTOUCHED`."""

    def __init__(self) -> None:
        self.lone = True
        self.model = ModelRoute(name="m", default=1, versions=())
        self.told: list[str] = []
        self.news = asyncio.Event()

    def link_free(self, link: ReplicaLink) -> None:
        self._note("free")

    def link_answered(self, link: ReplicaLink, rows: int, seconds: float) -> None:
        assert seconds >= 0.0
        self._note(f"answered {rows}")

    def answered_here(self, rows: int, seconds: float) -> None:
        assert seconds >= 0.0
        self._note(f"answered here {rows}")

    def link_lost(self, link: ReplicaLink, parts: list[Part], untouched: list[Part]) -> None:
        self._note(f"lost {len(parts)} {len(untouched)}")

    def _note(self, what: str) -> None:
        self.told.append(what)
        self.news.set()

    async def until(self, count: int) -> list[str]:
        """All that it was told, once there is so much."""
        while len(self.told) < count:
            self.news.clear()
            await asyncio.wait_for(self.news.wait(), PATIENCE)
        return self.told


class Asked:
    """A request with one instance for each number; `result` is what came of it."""

    def __init__(self, *numbers: float) -> None:
        self.result: Any = None
        payload = Payload(tensors={"x": np.array([[number, 100.0] for number in numbers], np.float32)})
        (self.part,) = Prediction(self._finish, 0.0, float("inf")).add([payload])

    def _finish(self, result: Tensors | RequestError) -> None:
        assert self.result is None, "a request is finished once"
        self.result = result if isinstance(result, RequestError) else result["y"].tolist()


async def leave(link: ReplicaLink, owner: Owner) -> None:
    """Cut the connection; the loop does not close with one that is open."""
    link.abort()
    if link.connected:
        await owner.until(len(owner.told) + 1)


@pytest.fixture
def replica() -> Iterator[ScriptedReplica]:
    scripted = ScriptedReplica()
    yield scripted
    scripted.die()


@pytest.fixture(params=["replica", "fused"])
def package(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The folder of the model, where the gateway holds it as well."""
    if request.param == "replica":
        return ""
    write_sum(tmp_path / "sum")
    return str(tmp_path / "sum")


Scenario = Callable[[ReplicaLink, Owner], Coroutine[Any, Any, None]]
Play = Callable[[Scenario], None]


def player(replica: ScriptedReplica, package: str, *, loaded: bool = False) -> Play:
    """Plays scenarios on a loop, with a link that is connected; if wanted, not before the gateway has the model too."""

    async def run(scenario: Scenario) -> None:
        owner = Owner()
        link = LinkOpener(asyncio.get_running_loop(), owner).open(replica.route, package)
        if loaded:
            await link._model.loading  # type: ignore[attr-defined]  # it is a fused one
        await owner.until(1)
        assert owner.told == ["free"]
        assert link.connected
        owner.told.clear()
        try:
            await scenario(link, owner)
        finally:
            await leave(link, owner)

    return lambda scenario: uvloop.run(run(scenario))


@pytest.fixture
def play(replica: ScriptedReplica, package: str) -> Play:
    """With a plain link, and with one that holds the model as well."""
    return player(replica, package)


def test_a_batch_is_answered_and_every_request_gets_its_own(play: Play, replica: ScriptedReplica) -> None:
    async def scenario(link: ReplicaLink, owner: Owner) -> None:
        first, second = Asked(1.0, 2.0), Asked(3.0)
        link.send([first.part, second.part])
        assert (link.batches, link.rows, len(link.parts)) == (1, 3, 2)
        await asyncio.to_thread(replica.echo)
        assert await owner.until(2) == ["answered 3", "free"]
        await asyncio.sleep(0)
        assert (first.result, second.result) == ([1.0, 2.0], [3.0])
        assert (link.batches, link.rows, link.parts) == (0, 0, [])

    play(scenario)


def test_a_second_batch_may_lie_ready_and_they_are_answered_in_order(play: Play, replica: ScriptedReplica) -> None:
    async def scenario(link: ReplicaLink, owner: Owner) -> None:
        first, second = Asked(1.0), Asked(2.0)
        link.send([first.part])
        link.send([second.part])
        assert link.batches == 2
        await asyncio.to_thread(replica.echo)
        await owner.until(2)
        assert (first.result, second.result) == ([1.0], None)
        await asyncio.to_thread(replica.echo)
        assert await owner.until(4) == ["answered 1", "free"] * 2
        assert second.result == [2.0]

    play(scenario)


def test_a_death_tells_what_was_begun_and_what_was_not_and_the_link_comes_back(
    play: Play, replica: ScriptedReplica
) -> None:
    async def scenario(link: ReplicaLink, owner: Owner) -> None:
        for request in (Asked(1.0), Asked(2.0)):
            link.send([request.part])
        await asyncio.to_thread(replica.next)
        replica.cut()
        assert await owner.until(2) == ["lost 1 1", "free"]
        assert (link.batches, link.connected) == (0, True)

    play(scenario)


def test_an_instance_that_fails_fails_its_request_alone(play: Play, replica: ScriptedReplica) -> None:
    async def scenario(link: ReplicaLink, owner: Owner) -> None:
        good, bad = Asked(1.0), Asked(2.0, 3.0)
        link.send([good.part, bad.part])
        batch, x = await asyncio.to_thread(replica.next)
        replica.answer(batch, x[:, 0], [Failure(2, True, "No.")])
        await owner.until(2)
        assert good.result == [1.0]
        assert (bad.result.status, str(bad.result)) == (400, "Instance 1: No.")

    play(scenario)


def test_an_answer_of_another_size_ends_the_connection_not_the_request(play: Play, replica: ScriptedReplica) -> None:
    async def scenario(link: ReplicaLink, owner: Owner) -> None:
        request = Asked(1.0)
        link.send([request.part])
        batch, _x = await asyncio.to_thread(replica.next)
        replica.answer(batch, [1.0, 2.0])
        assert (await owner.until(1))[0] == "lost 1 0"
        assert request.result is None

    play(scenario)


def test_a_retired_link_answers_what_it_holds_then_leaves(play: Play, replica: ScriptedReplica) -> None:
    async def scenario(link: ReplicaLink, owner: Owner) -> None:
        request = Asked(1.0)
        link.send([request.part])
        link.retire()
        assert link.retired
        await asyncio.to_thread(replica.echo)
        assert await owner.until(2) == ["answered 1", "lost 0 0"]
        assert request.result == [1.0]
        assert not link.connected

    play(scenario)


def test_the_gateway_answers_only_while_there_was_one_batch_at_a_time(replica: ScriptedReplica, tmp_path: Path) -> None:
    write_sum(tmp_path / "sum")

    async def ask(link: ReplicaLink, owner: Owner) -> list[float]:
        """Send a batch and let the replica answer it, if it gets it."""
        asked, before = Asked(1.0), len(owner.told)
        here = link.send([asked.part])
        if not here:
            await asyncio.to_thread(replica.echo)
        await owner.until(before + (1 if here else 2))
        assert link.batches == 0
        result: list[float] = asked.result
        return result

    async def scenario() -> None:
        owner = Owner()
        link = LinkOpener(asyncio.get_running_loop(), owner).open(replica.route, str(tmp_path / "sum"))
        await owner.until(1)
        try:
            async with asyncio.timeout(PATIENCE):
                while await ask(link, owner) != [101.0]:  # until the model is loaded
                    await asyncio.sleep(0.001)
            assert owner.told[-1] == "answered here 1"
            owner.lone = False
            assert await ask(link, owner) == [1.0]
            owner.lone = True
            assert [await ask(link, owner) for _ in range(5)] == [[1.0]] * 3 + [[101.0]] * 2
        finally:
            await leave(link, owner)

    uvloop.run(scenario())


@pytest.fixture
def fused(replica: ScriptedReplica, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Play:
    """Plays a scenario with a link of one of as many gateways as cores, which holds the model."""
    monkeypatch.setattr("ganglion.serving.gateway.fused_link.CORES", 1)
    monkeypatch.setattr("ganglion.serving.gateway.fused_link.SHORT", PATIENCE)  # a core may be taken away meanwhile
    write_sum(tmp_path / "sum")

    return player(replica, str(tmp_path / "sum"), loaded=True)


def test_more_than_a_gateway_answers_at_once_is_answered_batch_after_batch(fused: Play) -> None:
    async def scenario(link: ReplicaLink, owner: Owner) -> None:
        asked = [Asked(float(number)) for number in range(25)] + [Asked(30.0, 31.0) for _ in range(5)]
        assert link.send([request.part for request in asked])
        assert owner.told == ["answered here 16", "answered here 15", "answered here 4"]
        assert [request.result for request in asked[:25]] == [[number + 100.0] for number in range(25)]
        assert [request.result for request in asked[25:]] == [[130.0, 131.0]] * 5

    fused(scenario)


def test_what_a_gateway_cannot_answer_and_all_behind_it_is_the_replicas(fused: Play, replica: ScriptedReplica) -> None:
    async def scenario(link: ReplicaLink, owner: Owner) -> None:
        asked = [Asked(1.0), Asked(*(float(number) for number in range(17))), Asked(2.0)]
        assert not link.send([request.part for request in asked])
        assert owner.told == ["answered here 1"]
        assert (asked[0].result, asked[1].result, link.batches, link.rows) == ([101.0], None, 1, 18)
        await asyncio.to_thread(replica.echo)
        await owner.until(3)
        assert asked[1].result == [float(number) for number in range(17)]
        assert (asked[2].result, link.batches, link.rows) == ([2.0], 0, 0)

    fused(scenario)
