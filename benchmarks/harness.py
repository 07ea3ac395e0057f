"""What every benchmark shares: interleaved repetitions, medians, a table for people and a document for programs."""

from __future__ import annotations

import os
import platform
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, kw_only=True)
class Case:
    """One way of doing something.

    Attributes:
        name: what is done, for a person.
        run: does it once and returns how long it took, in seconds.
        against: name of the case that it is compared with.
        note: what has to be known to read the figure, such as a target.
    """

    name: str
    run: Callable[[], float]
    against: str | None = None
    note: str = ""


@dataclass
class Measurement:
    """The times of one case, in seconds, in the order in which they were taken."""

    case: Case
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The middle of all times: one disturbed repetition does not move it."""
        return statistics.median(self.seconds)


def measure(cases: Sequence[Case], repetitions: int) -> list[Measurement]:
    """Run every case once per round, round after round, so that a disturbance meets all of them alike.

    Args:
        cases: what to run; each is run once beforehand, uncounted, so that files and caches are warm.
        repetitions: how many rounds count.
    """
    measurements = [Measurement(case) for case in cases]
    for round_ in range(repetitions + 1):
        for measurement in measurements:
            seconds = measurement.case.run()
            if round_:
                measurement.seconds.append(seconds)
    return measurements


def environment(packages: Sequence[str]) -> dict[str, Any]:
    """What the figures depend on: versions, cores, and how busy the machine was."""
    found: dict[str, Any] = {"python": platform.python_version(), "platform": platform.platform()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    return found | {"cores": cores, "load": [round(load, 2) for load in os.getloadavg()]}


def show(title: str, measurements: Sequence[Measurement], context: Mapping[str, Any], *, as_json: bool) -> None:
    """Write the result to standard output: a table, or one JSON document."""
    medians = {measurement.case.name: measurement.median for measurement in measurements}

    def ratio(case: Case) -> float | None:
        return medians[case.against] / medians[case.name] if case.against else None

    if as_json:
        rows = [
            {
                "name": measurement.case.name,
                "median": measurement.median,
                "seconds": measurement.seconds,
                "against": measurement.case.against,
                "ratio": ratio(measurement.case),
                "note": measurement.case.note,
            }
            for measurement in measurements
        ]
        document = {"benchmark": title, "environment": dict(context), "cases": rows}
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(document)).decode() + "\n")
        return
    console = Console(width=max(Console().width, 160))  # wide enough for a table in a file
    console.print(", ".join(f"{name} {value}" for name, value in context.items()), highlight=False)
    table = Table("case", title=title)
    for heading in ("median", "fastest", "slowest", "ratio"):
        table.add_column(heading, justify="right")
    table.add_column("compared with")
    table.add_column("note")
    for measurement in measurements:
        case = measurement.case
        times = (measurement.median, min(measurement.seconds), max(measurement.seconds))
        times_as_fast = ratio(case)
        table.add_row(
            case.name,
            *(f"{1000 * seconds:.1f} ms" for seconds in times),
            f"{times_as_fast:.1f}x" if times_as_fast is not None else "",
            case.against or "",
            case.note,
        )
    console.print(table)
