"""Which checkpoints are kept; pure."""

from __future__ import annotations

from collections.abc import Mapping

from ganglion.training.checkpoints.settings import Checkpointing


def kept(metrics: Mapping[int, Mapping[str, float]], settings: Checkpointing) -> set[int]:
    """The steps whose checkpoints stay: the last ones, and the one with the best metric.

    Args:
        metrics: what was measured of each checkpoint, by its step; of two that are equally good the older is the best.
        settings: how many, and which metric.
    """
    stay = set(sorted(metrics)[-settings.keep_last :])
    best = best_of(metrics, settings)
    return stay if best is None else stay | {best}


def best_of(metrics: Mapping[int, Mapping[str, float]], settings: Checkpointing) -> int | None:
    """The step with the best metric; `None` where it was not measured, or is not asked for."""
    name = settings.keep_best
    measured = {step: found[name] for step, found in metrics.items() if name in found} if name else {}
    if not measured:
        return None
    sign = 1 if settings.maximizes else -1
    return max(sorted(measured), key=lambda step: sign * measured[step])
