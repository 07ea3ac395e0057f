"""The optimizers of `torch.optim`, by name."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

import torch

from ganglion.core.errors import ConfigurationError, suggest
from ganglion.training.plan import Optimizer

CLASSES: dict[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}

_OURS = {"params", "lr", "fused", "foreach", "capturable", "differentiable"}
"""Arguments that are no options: the last four choose between implementations that differ in speed and in their last
bits, so one is fixed, the fastest."""


def build_optimizer(
    plan: Optimizer, parameters: Iterable[torch.nn.Parameter], learning_rate: float
) -> torch.optim.Optimizer:
    """Build the optimizer of a plan.

    Raises:
        ConfigurationError: it has no such option, or refuses its value.
    """
    chosen = CLASSES[plan.name]
    allowed = set(inspect.signature(chosen).parameters) - _OURS
    for option in plan.options:
        if option not in allowed:
            raise ConfigurationError(
                f"The optimizer {plan.name!r} has no option {option!r}. {suggest(option, allowed)}"
            )
    arguments = {"params": list(parameters), "lr": learning_rate, "fused": True, **plan.options}
    try:
        return chosen(**arguments)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"The optimizer {plan.name!r} refuses its options {plan.options}: {error}.") from error
