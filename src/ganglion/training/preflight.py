"""Everything about a training that can be found wrong before its first step."""

from __future__ import annotations

import torch

from ganglion.core.errors import ConfigurationError, DataError, ModelError
from ganglion.training.losses import Loss
from ganglion.training.plan import TrainingPlan
from ganglion.training.source import BatchSource, Columns, present, records_of
from ganglion.training.tensors import Columnizer


def check_source(source: BatchSource, plan: TrainingPlan, logical: int, world: int = 1) -> None:
    """Refuse a training source that is empty or does not go with the plan, or a plan that does not go with the workers.

    Raises:
        DataError: there are no records, or fewer than one batch.
        ConfigurationError: the global batch is another one, or too small for the logical workers, or these are fewer
            than the processes.
    """
    if source.count < 1 or source.steps_per_epoch < 1:
        raise DataError(f"The training source has {source.count} records in {source.steps_per_epoch} batches.")
    if plan.global_batch is not None and plan.global_batch != source.global_batch:
        raise ConfigurationError(
            f"The plan has a global batch of {plan.global_batch} records, its training source one of "
            f"{source.global_batch}; give both the same."
        )
    if logical < world:
        raise ConfigurationError(
            f"{logical} logical workers cannot occupy {world} workers; use at most as many workers as logical workers."
        )
    if source.count < source.global_batch:
        raise DataError(
            f"The training source has {source.count} records, fewer than one global batch of {source.global_batch}; "
            f"use a global batch of at most {source.count}, or more data."
        )
    if source.global_batch < logical:
        raise ConfigurationError(
            f"A global batch of {source.global_batch} records cannot be cut into slices for {logical} logical workers; "
            "use a larger batch or fewer logical workers."
        )


def check_model(model: object, *, exact: bool = True) -> torch.nn.Module:
    """Refuse what cannot be trained.

    Args:
        model: what the model entry returned.
        exact: whether the result must not depend on the number of processes.

    Raises:
        ModelError: it is not a module, or has no parameters to train, or they have different types, or it normalises
            over processes although it must not depend on them.
    """
    if not isinstance(model, torch.nn.Module):
        raise ModelError(f"The model entry returned a {type(model).__name__}; a torch.nn.Module is expected.")
    kinds = {str(parameter.dtype) for parameter in model.parameters() if parameter.requires_grad}
    if not kinds:
        raise ModelError(f"{type(model).__name__} has no parameters to train.")
    if len(kinds) > 1:
        raise ModelError(
            f"The parameters of {type(model).__name__} have the types {', '.join(sorted(kinds))}; use one."
        )
    synchronised = [name for name, part in model.named_modules() if isinstance(part, torch.nn.SyncBatchNorm)]
    if exact and synchronised:
        raise ModelError(
            f"{type(model).__name__} has SyncBatchNorm in {', '.join(synchronised)}: it adds up over processes in an "
            "order that depends on their number, and cannot be interrupted when one is lost. Use BatchNorm, whose "
            "statistics are those of each logical worker's slice, or train with exact=False."
        )
    return model


def first_records(source: BatchSource, most: int) -> Columns:
    """Up to `most` records from the first batch of `source`."""
    columns = next(iter(source.batches(0, first=0, last=1, of=1)), {})
    if records_of(columns) == 0:
        raise DataError("The source gave no records in its first batch.")
    found = {name: column[:most] for name, column in present(columns).items()}
    if records_of(found) == 0:
        raise DataError("All records of the first batch are bad.")
    return found


def check_precision(plan: TrainingPlan, model: torch.nn.Module) -> None:
    """Refuse a type of numbers that the processor has no instructions for: it would be emulated, and slower.

    Raises:
        ConfigurationError: it has none.
    """
    device = next(model.parameters()).device.type
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if plan.precision == "bfloat16" and device == "cpu" and not native:
        raise ConfigurationError(
            "precision is bfloat16, and this processor has no instructions for it (AVX512_BF16 or AMX), so it would "
            "only be slower; use float32."
        )


@torch.no_grad()
def check_outputs(
    model: torch.nn.Module, columns: Columns, *, columnizer: Columnizer, loss: Loss, plan: TrainingPlan
) -> None:
    """Run `model` on some records and refuse outputs that the loss or the plan cannot use.

    Raises:
        ModelError: the outputs are not one row for each record, or not one column for each class.
        DataError: a label is out of range, or a column is missing.
    """
    inputs, targets = columnizer(columns)
    model.eval()
    outputs = model(inputs)
    model.train()
    if not isinstance(outputs, torch.Tensor) or outputs.dim() < 1 or len(outputs) != len(inputs):
        shape = list(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
        raise ModelError(f"The model returned {shape} for {len(inputs)} records; one row for each is expected.")
    if plan.classifies and outputs.dim() != 2:
        raise ModelError(f"The model returned {list(outputs.shape)}; cross_entropy needs logits [records, classes].")
    if plan.classes and outputs.shape[-1] != len(plan.classes):
        raise ModelError(f"The model has {outputs.shape[-1]} outputs, but the plan names {len(plan.classes)} classes.")
    loss(outputs, targets)
