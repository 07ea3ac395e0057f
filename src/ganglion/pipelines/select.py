"""`select`: the best of several trained models."""

from __future__ import annotations

from collections.abc import Sequence

from ganglion.core.errors import UserError, suggest
from ganglion.pipelines.train import Candidate
from ganglion.workflow import Host, operation

_LOWER_IS_BETTER = ("loss", "error")


@operation(kind="selection", cache=False)
def select(
    host: Host, /, candidates: Sequence[Candidate], k: int = 1, metric: str = "accuracy", minimum: float | None = None
) -> list[Candidate]:
    """Choose the best `k` by a metric on held-out records, best first.

    With `as_completed` candidates it chooses among those that have finished, again with each further one. Metrics
    whose names end in `loss` or `error` are better when lower. Equal ones keep the order in which they are given.

    Args:
        host: given by the engine.
        candidates: what to choose from.
        k: how many.
        metric: what to compare.
        minimum: what a candidate must reach (`at most`, for metrics that are better when lower) to be chosen.

    Raises:
        UserError: a candidate lacks the metric, or, when all have finished, none reaches the minimum.
    """
    if k < 1:
        raise UserError(f"select was asked for the best {k}; at least 1 is needed.")
    sign = -1.0 if metric.endswith(_LOWER_IS_BETTER) else 1.0
    for candidate in candidates:
        if metric not in candidate.metrics:
            raise UserError(f"{candidate.name} has no metric {metric!r}. {suggest(metric, candidate.metrics)}")
    good = [c for c in candidates if minimum is None or sign * c.metrics[metric] >= sign * minimum]
    if not good and host.call.final:
        reached = ", ".join(f"{candidate.name} {candidate.metrics[metric]:.4f}" for candidate in candidates)
        raise UserError(f"No model reaches {metric} {minimum}: {reached or 'there are none'}.")
    chosen = sorted(good, key=lambda candidate: -sign * candidate.metrics[metric])[:k]
    for place, candidate in enumerate(chosen, start=1):
        host.report({f"{metric}_{place}": candidate.metrics[metric]})
    return chosen
