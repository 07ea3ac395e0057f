"""Measures of a model, kept as sums that can be merged: over slices, over processes, in any grouping."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch

Sums = dict[str, float]
"""The sum of each measure over some records, and under `records` how many there are."""

_Measure = Callable[[torch.Tensor, torch.Tensor, float], float]


def _correct(outputs: torch.Tensor, targets: torch.Tensor, _loss: float) -> float:
    return float((outputs.argmax(dim=1) == targets).sum())


def _loss(_outputs: torch.Tensor, targets: torch.Tensor, loss: float) -> float:
    return loss * len(targets)


MEASURES: dict[str, _Measure] = {"accuracy": _correct, "loss": _loss}
"""The sum over the records, from outputs [records, ...], targets [records, ...] and their mean loss."""


def measure(names: Sequence[str], outputs: torch.Tensor, targets: torch.Tensor, loss: float) -> Sums:
    """Sums of the measures `names` over one slice of records, at least one."""
    return {"records": float(len(targets)), **{name: MEASURES[name](outputs, targets, loss) for name in names}}


def merge(parts: Iterable[Mapping[str, float]]) -> Sums:
    """Add sums up, in the order given."""
    merged: Sums = {}
    for part in parts:
        for name, value in part.items():
            merged[name] = merged.get(name, 0.0) + value
    return merged


def means(sums: Mapping[str, float]) -> dict[str, float]:
    """The measures themselves: sums divided by the number of records."""
    return {name: value / sums["records"] for name, value in sums.items() if name != "records"}
