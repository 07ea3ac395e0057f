"""What a run did, as tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from rich.markup import escape
from rich.table import Table

from ganglion.cli.output import duration_text, make_table, metrics_text, state_text, time_text
from ganglion.metadata.views import ModelVersionInfo, RunDetail, StepDetail


def steps_table(detail: RunDetail) -> Table:
    """The steps of a run: when, how long, how often, how they went and why they were skipped or not."""
    table = make_table("step", "state", "started", ">time", ">tries", "metrics", "")
    for step in detail.steps:
        spent = step.end - step.start if step.end is not None and step.start is not None else None
        table.add_row(
            step.name,
            state_text(step.state),
            time_text(step.start)[11:],
            duration_text(spent),
            str(len(step.attempts)) if step.attempts else "",
            metrics_text(step.metrics),
            f"[dim]{escape(_note(step))}[/]",
        )
    return table


def _note(step: StepDetail) -> str:
    """Why a step failed, or why it was skipped or not."""
    return step.message.partition("\n")[0] if step.state in ("failed", "cancelled") else step.cache


def models_table(models: Sequence[ModelVersionInfo]) -> Table:
    """Versions that were published, with their metrics on held-out records."""
    table = make_table("published", ">version", "alias", "held-out metrics")
    for model in models:
        table.add_row(model.model, str(model.version), ", ".join(model.aliases), metrics_text(model.metrics))
    return table


def services_table(services: Mapping[str, Any]) -> Table:
    """What a model server serves: models with their replicas, and what is combined of them."""
    table = make_table("served", ">version", ">replicas", "", title=f"Served at {services['url']}")
    for name, model in services["models"].items():
        for version, run in model["versions"].items():
            table.add_row(name, str(version), f"{run['ready']}/{run['replicas']}", run["state"].lower())
    for name, ensemble in services["ensembles"].items():
        table.add_row(name, "", "", f"{ensemble['how']} of {', '.join(ensemble['members'])}")
    return table


def returned_table(value: Any) -> Table | str:
    """What a pipeline returned: a list of structs as a table, anything else as text."""
    values = value if isinstance(value, list) and value else [value]
    if not all(isinstance(row, msgspec.Struct) for row in values):
        return escape(str(value))
    names = values[0].__struct_fields__
    table = make_table(*names, title="Returned")
    for row in values:
        cells = [getattr(row, name) for name in names]
        table.add_row(*(f"{cell:.3f}" if isinstance(cell, float) else escape(str(cell)) for cell in cells))
    return table
