"""Standings and scores, as tables for people and as plain data for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.data.peers.contest import Standing, described
from benchmarks.data.peers.scoreboard import Score


def standings_data(standings: Sequence[Standing], ours: str, targets: Mapping[str, float]) -> list[dict[str, Any]]:
    """One row for each contestant.

    Args:
        standings: of everybody.
        ours: name of the contestant that the others are compared with.
        targets: how many times as fast it is meant to be, by the name of the other.
    """
    own = next(standing for standing in standings if standing.contestant.name == ours)
    return [
        {
            "name": standing.contestant.name,
            "records_per_second": standing.rate,
            "rounds": standing.rates,
            "ratio": own.ratio(standing),
            "target": targets.get(standing.contestant.name),
            "best": described(standing),
            "problem": standing.problem,
            "grid": [
                {"configuration": configuration, "found": found}
                for configuration, found in zip(standing.contestant.grid, standing.searched, strict=False)
            ],
        }
        for standing in standings
    ]


def show_standings(title: str, rows: Sequence[Mapping[str, Any]], absent: Mapping[str, str]) -> None:
    """Print the rows of `standings_data`, and below them who could not take part and why."""
    table = Table("contestant", title=title)
    for heading in ("records/s", "slowest", "fastest", "ours is", "target"):
        table.add_column(heading, justify="right")
    table.add_column("best of its grid, or what went wrong")
    for row in rows:
        rates = row["rounds"]
        figures = (
            [f"{rate:,.0f}" for rate in (row["records_per_second"], min(rates), max(rates))] if rates else [""] * 3
        )
        ratio, target = (f"{row[name]:.2f}x" if row[name] is not None else "" for name in ("ratio", "target"))
        table.add_row(row["name"], *figures, ratio, target, row["problem"] or row["best"])
    for name, reason in absent.items():
        table.add_row(name, "", "", "", "", "", f"not measured: {reason}")
    _console().print(table)


def show_scores(title: str, scores: Mapping[str, Score | str]) -> None:
    """Print what each one's elastic epoch delivered, or why there was none."""
    table = Table("way", title=title)
    for heading in ("lost", "duplicated", "hung ranks", "identical batches"):
        table.add_column(heading, justify="right")
    table.add_column("refused")
    for way, score in scores.items():
        if isinstance(score, str):
            table.add_row(way, "", "", "", "", score)
        else:
            lost = "-" if score.lost is None else str(score.lost)
            identical = f"{score.identical} of {score.batches}"
            table.add_row(way, lost, str(score.duplicated), str(score.hung), identical, score.refused or "no")
    _console().print(table)


def show_context(context: Mapping[str, Any]) -> None:
    """Print versions and the like."""
    _console().print(", ".join(f"{name} {value}" for name, value in context.items()), highlight=False)


def _console() -> Console:
    return Console(width=max(Console().width, 180))
