"""Measures of a model, kept as sums that can be merged: over slices, over processes, in any grouping."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import torch

from ganglion.core.errors import ConfigurationError, ModelError
from ganglion.core.registry import load_object
from ganglion.training.plan import check_metric

Sums = dict[str, list[float]]
"""The sums of each measure over some records, under `records` how many there are, and under `left_out` how many more
the source has masked."""


class Metric(Protocol):
    """A measure; for one of your own give the import path of a class, or of an object, with these two methods."""

    def sums(self, outputs: torch.Tensor, targets: torch.Tensor, loss: float) -> Sequence[float]:
        """What is added up over the records.

        Args:
            outputs: of the model, [records, ...].
            targets: [records, ...].
            loss: mean over these records.

        Returns:
            As many numbers for any records; exact where that is possible, such as counts.
        """
        ...

    def value(self, sums: Sequence[float], records: float) -> float:
        """The measure of all records, from the sums over them."""
        ...


class Mean:
    """The mean over the records.

    Args:
        total: (outputs, targets, mean loss) -> the sum over the records.
    """

    def __init__(self, total: Callable[[torch.Tensor, torch.Tensor, float], float]) -> None:
        self._total = total

    def sums(self, outputs: torch.Tensor, targets: torch.Tensor, loss: float) -> Sequence[float]:
        """One sum."""
        return [self._total(outputs, targets, loss)]

    def value(self, sums: Sequence[float], records: float) -> float:
        """The sum divided by the number of records."""
        return sums[0] / records


class RootMean(Mean):
    """The square root of the mean over the records."""

    def value(self, sums: Sequence[float], records: float) -> float:
        """The root of the mean."""
        return math.sqrt(super().value(sums, records))


class Determination:
    """R2: the share of the variance of the targets that the outputs explain, averaged over the outputs of a record."""

    def sums(self, outputs: torch.Tensor, targets: torch.Tensor, loss: float) -> Sequence[float]:
        """For each output: the sum of the targets, that of their squares and that of the squared errors."""
        given, wanted = _numbers(outputs, targets)
        return torch.cat([wanted.sum(0), wanted.square().sum(0), (given - wanted).square().sum(0)]).tolist()

    def value(self, sums: Sequence[float], records: float) -> float:
        """One minus the ratio of both sums of squares; 0 where the targets do not vary."""
        count = len(sums) // 3
        shares = []
        for total, squares, errors in zip(sums[:count], sums[count : 2 * count], sums[2 * count :], strict=True):
            variation = squares - total * total / records
            shares.append(1 - errors / variation if variation > 0 else 0.0)
        return math.fsum(shares) / count


class Confusion:
    """A measure of right and wrong decisions for each class (one label of several) or each label (any of several).

    Args:
        of: (hits, false alarms, misses) -> the measure, 0 to 1.
        micro: measure the sums over all classes; otherwise the mean over those that occur among targets or outputs.
    """

    def __init__(self, of: Callable[[float, float, float], float], *, micro: bool = False) -> None:
        self._of = of
        self._micro = micro

    def sums(self, outputs: torch.Tensor, targets: torch.Tensor, loss: float) -> Sequence[float]:
        """Hits of every class, then false alarms, then misses."""
        if outputs.dim() == 2 and targets.dim() == 1:
            classes = outputs.shape[1]
            said = torch.nn.functional.one_hot(outputs.argmax(dim=1), classes).bool()
            true = torch.nn.functional.one_hot(targets, classes).bool()
        else:
            said, true = _decisions(outputs, targets)
        return torch.cat([(said & true).sum(0), (said & ~true).sum(0), (~said & true).sum(0)]).double().tolist()

    def value(self, sums: Sequence[float], records: float) -> float:
        """The measure."""
        count = len(sums) // 3
        classes = list(zip(sums[:count], sums[count : 2 * count], sums[2 * count :], strict=True))
        if self._micro:
            return self._of(*(math.fsum(part) for part in zip(*classes, strict=True)))
        values = [self._of(*counts) for counts in classes if any(counts)]
        return math.fsum(values) / len(values) if values else 0.0


def find_metrics(names: Sequence[str]) -> dict[str, Metric]:
    """The measures of these names.

    Raises:
        ConfigurationError: there is no such measure, or what an import path names is none.
    """
    return {name.rpartition(":")[2] or name: _find(name) for name in names}


def measure(metrics: Mapping[str, Metric], outputs: torch.Tensor, targets: torch.Tensor, loss: float) -> Sums:
    """Sums of some measures over one slice of records, at least one.

    Raises:
        ModelError: outputs and targets are not what a measure needs.
    """
    sums = {name: [float(part) for part in metric.sums(outputs, targets, loss)] for name, metric in metrics.items()}
    return {"records": [float(len(targets))], "left_out": [0.0], **sums}


def merge(parts: Iterable[Mapping[str, Sequence[float]]]) -> Sums:
    """Add sums up, in the order given."""
    merged: Sums = {}
    for part in parts:
        for name, values in part.items():
            known = merged.setdefault(name, [0.0] * len(values))
            merged[name] = [one + other for one, other in zip(known, values, strict=True)]
    return merged


def values(metrics: Mapping[str, Metric], sums: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The measures themselves."""
    (records,) = sums["records"]
    return {name: metric.value(sums[name], records) for name, metric in metrics.items()}


def _find(name: str) -> Metric:
    check_metric(name)
    if ":" in name:
        loaded = load_object(name)
        found: Metric = loaded() if isinstance(loaded, type) else loaded
        if not (hasattr(found, "sums") and hasattr(found, "value")):
            raise ConfigurationError(
                f"The metric {name!r} is a {type(found).__name__} without the methods `sums` and `value`; see "
                "ganglion.training.metrics.Metric."
            )
        return found
    if (match := re.fullmatch(r"top_(\d+)_accuracy", name)) is not None:
        most = int(match[1])
        return Mean(lambda outputs, targets, _loss: _among_the_first(outputs, targets, most))
    return _METRICS[name]


def _numbers(outputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both as float64 of shape [records, numbers]."""
    given, wanted = (tensor.double().reshape(len(tensor), -1) for tensor in (outputs, targets))
    if given.shape != wanted.shape:
        raise ModelError(f"The model returned {list(outputs.shape)} for targets {list(targets.shape)}.")
    return given, wanted


def _decisions(outputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Which labels are said and which are true, both [records, labels]; a label is said where its logit is above 0."""
    given, wanted = _numbers(outputs, targets)
    return given > 0, wanted > 0.5


def _right(outputs: torch.Tensor, targets: torch.Tensor, _loss: float) -> float:
    if outputs.dim() == 2 and targets.dim() == 1 and outputs.shape[1] > 1:
        return float((outputs.argmax(dim=1) == targets).sum())
    said, true = _decisions(outputs, targets)
    return float((said == true).double().mean(1).sum())


def _all_right(outputs: torch.Tensor, targets: torch.Tensor, _loss: float) -> float:
    said, true = _decisions(outputs, targets)
    return float((said == true).all(1).sum())


def _among_the_first(outputs: torch.Tensor, targets: torch.Tensor, most: int) -> float:
    if outputs.dim() != 2 or targets.dim() != 1 or not 1 <= most <= outputs.shape[1]:
        raise ModelError(
            f"top_{most}_accuracy needs logits [records, classes] of at least {max(1, most)} classes and one label for "
            f"each record; the model returned {list(outputs.shape)} for targets {list(targets.shape)}."
        )
    return float((outputs.topk(most, dim=1).indices == targets[:, None]).any(1).sum())


def _squared(outputs: torch.Tensor, targets: torch.Tensor, _loss: float) -> float:
    given, wanted = _numbers(outputs, targets)
    return float((given - wanted).square().mean(1).sum())


def _absolute(outputs: torch.Tensor, targets: torch.Tensor, _loss: float) -> float:
    given, wanted = _numbers(outputs, targets)
    return float((given - wanted).abs().mean(1).sum())


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


_METRICS: dict[str, Metric] = {
    "accuracy": Mean(_right),
    "exact_match": Mean(_all_right),
    "f1": Confusion(lambda hits, alarms, misses: _share(2 * hits, 2 * hits + alarms + misses)),
    "f1_micro": Confusion(lambda hits, alarms, misses: _share(2 * hits, 2 * hits + alarms + misses), micro=True),
    "loss": Mean(lambda _outputs, targets, loss: loss * len(targets)),
    "mean_absolute_error": Mean(_absolute),
    "mean_squared_error": Mean(_squared),
    "precision": Confusion(lambda hits, alarms, _misses: _share(hits, hits + alarms)),
    "r2": Determination(),
    "recall": Confusion(lambda hits, _alarms, misses: _share(hits, hits + misses)),
    "root_mean_squared_error": RootMean(_squared),
}
