"""Contestants side by side: the best of each one's grid is found first, then the best run round after round in turn."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from benchmarks.data.peers.process import PeerFailedError, PeerProcess
from benchmarks.harness import Case


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How long a measurement takes.

    Attributes:
        seconds: whole epochs are run until these are over.
        limit: seconds after which an epoch is broken off.
        rounds: how often everything is measured in turn.
    """

    seconds: float
    limit: float
    rounds: int


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """One that takes part.

    Attributes:
        name: for people.
        grid: its configurations.
        run: measures one of them, under an effort, and returns records per second.
    """

    name: str
    grid: tuple[dict[str, Any], ...]
    run: Callable[[dict[str, Any], Effort], float]


@dataclass
class Standing:
    """What a contestant did.

    Attributes:
        contestant: whose standing it is.
        searched: records per second of each configuration of the grid, or why there are none.
        best: number of the configuration that was fastest; `None` if none ran.
        rates: records per second of the best, one for each round.
        problem: why there are no rates, or fewer than rounds.
    """

    contestant: Contestant
    searched: list[float | str] = field(default_factory=list)
    best: int | None = None
    rates: list[float] = field(default_factory=list)
    problem: str = ""

    @property
    def rate(self) -> float | None:
        """The middle of all rounds, in records per second."""
        return statistics.median(self.rates) if self.rates else None

    def ratio(self, other: Standing) -> float | None:
        """How many times as fast this one was, round by round; the middle of that."""
        pairs = list(zip(self.rates, other.rates, strict=False))
        return statistics.median(own / others for own, others in pairs) if pairs else None


def of_process(process: PeerProcess, what: str, batch: int) -> list[Contestant]:
    """The contestants of a peer's program: one for each name that its grid has."""
    grids: dict[str, list[dict[str, Any]]] = {}
    for configuration in process.grid(what, batch):
        grids.setdefault(configuration["as"], []).append(configuration)

    def run(configuration: dict[str, Any], effort: Effort) -> float:
        answer = process.measure(what, batch, configuration, effort.seconds, effort.limit)
        return float(answer["records"]) / float(answer["seconds"])

    return [Contestant(name=name, grid=tuple(grid), run=run) for name, grid in grids.items()]


def of_case(case: Case, records: int) -> Contestant:
    """A contestant that runs in the measuring process and has nothing to choose."""

    def run(_configuration: dict[str, Any], _effort: Effort) -> float:
        return records / case.run()

    return Contestant(name=case.name, grid=({},), run=run)


def compete(
    contestants: Sequence[Contestant], search: Effort, final: Effort, say: Callable[[str], None]
) -> list[Standing]:
    """Run everything.

    Args:
        contestants: who takes part.
        search: effort for the grids; of several rounds the best figure of a configuration counts.
        final: effort for the best configuration of everybody.
        say: told what is going on.

    Returns:
        The standings, in the order of the contestants.
    """
    standings = [Standing(contestant) for contestant in contestants]
    for standing in standings:
        standing.searched = [""] * len(standing.contestant.grid)
    for _round in range(search.rounds):
        for standing in standings:
            for number, configuration in enumerate(standing.contestant.grid):
                found = _attempt(partial(standing.contestant.run, configuration, search))
                standing.searched[number] = _better(standing.searched[number], found)
                say(f"{standing.contestant.name} {_options(configuration)}: {_shown(found)}")
    for standing in standings:
        ran = [(rate, number) for number, rate in enumerate(standing.searched) if isinstance(rate, float)]
        standing.best = max(ran)[1] if ran else None
        if not ran:
            standing.problem = str(standing.searched[0])
    for round_ in range(final.rounds):
        say(f"round {round_ + 1} of {final.rounds}")
        for standing in standings:
            if standing.best is None or standing.problem:
                continue
            rate = _attempt(partial(standing.contestant.run, standing.contestant.grid[standing.best], final))
            if isinstance(rate, float):
                standing.rates.append(rate)
            else:
                standing.problem = rate
    return standings


def _attempt(run: Callable[[], float]) -> float | str:
    try:
        return run()
    except PeerFailedError as error:
        return str(error)


def _better(before: float | str, found: float | str) -> float | str:
    if isinstance(before, float) and isinstance(found, float):
        return max(before, found)
    return before if isinstance(before, float) else found


def _options(configuration: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in configuration.items() if name != "as")


def _shown(rate: float | str) -> str:
    return f"{rate:,.0f}/s" if isinstance(rate, float) else rate


def described(standing: Standing) -> str:
    """The best configuration, for people."""
    return "" if standing.best is None else _options(standing.contestant.grid[standing.best])
