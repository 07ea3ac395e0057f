"""What each process of a training gang does: build, check, train, and, on rank 0, export.

`main` is the gang's entry; everything it needs comes as plain data and by import path.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from ganglion.core import config
from ganglion.core.errors import ConfigurationError
from ganglion.execution.member import current_member
from ganglion.training import export, preflight
from ganglion.training.callbacks import Callback, Deadline, History, Reporter
from ganglion.training.checkpoints.keeper import Keeper
from ganglion.training.checkpoints.manifest import Recipe
from ganglion.training.initial import load_initial
from ganglion.training.joining import join
from ganglion.training.loop import Loop
from ganglion.training.losses import load_loss
from ganglion.training.numerics import Arithmetic, arithmetic, settle
from ganglion.training.pauses import Pauses
from ganglion.training.plan import TrainingPlan
from ganglion.training.result import TrainingResult
from ganglion.training.slices import random_key
from ganglion.training.source import BatchSource
from ganglion.training.tensors import Columnizer

_PROBE = 64
"""Records on which the model is tried before the training and its export is compared after it."""


def main(*, plan: dict[str, Any], store: str | None = None) -> dict[str, Any]:
    """Train as one process of a gang.

    Args:
        plan: a `TrainingPlan` as plain data.
        store: folder of the artifact store that the model package goes to; without one none is written.

    Returns:
        A `TrainingResult` as plain data, the same on every process.
    """
    training_plan = config.convert(TrainingPlan, plan, where="training plan")
    return msgspec.msgpack.decode(_train(training_plan, Path(store) if store else None))  # type: ignore[no-any-return]  # a struct becomes a dictionary


def _train(plan: TrainingPlan, store: Path | None) -> bytes:
    member = current_member()
    logical = plan.logical_workers or member.world_size
    # A source may be away before there is anything to secure.
    opening = Pauses(patience=plan.patience, secure=lambda: None, report=member.report, leaving=member.draining)
    train: BatchSource = opening.read(plan.train.build, step=0, timed=False)
    held_out: BatchSource | None = opening.read(plan.held_out.build, step=0, timed=False) if plan.held_out else None
    preflight.check_source(train, plan, logical, member.world_size)
    loss = load_loss(plan.loss)
    model = _build_model(plan)
    device = next(model.parameters()).device
    settle(device)
    columnizer = Columnizer(
        input_column=plan.input_column,
        target_column=plan.target_column,
        channels_last=plan.channels_last,
        device=device,
    )
    first = opening.read(lambda: preflight.first_records(train, _PROBE), step=0, timed=False)
    probe = opening.read(lambda: preflight.first_records(held_out, _PROBE), step=0, timed=False) if held_out else first
    preflight.check_precision(plan, model)
    for columns in (probe, first):
        preflight.check_outputs(model, columns, columnizer=columnizer, loss=loss, plan=plan)
    history = History()
    here = arithmetic(device)
    keeper = _keeper(plan, logical, here, model)
    loop = Loop(
        plan,
        model=model,
        train=train,
        held_out=held_out,
        loss=loss,
        columnizer=columnizer,
        probe=first,
        logical=logical,
        callbacks=_callbacks(plan, history),
        keeper=keeper,
        member=member,
    )
    training = loop.training

    def publish(digest: str) -> bytes:
        artifact = export.publish(model, plan, probe=probe, metrics=training.metrics, store=store) if store else None
        result = TrainingResult(
            artifact=artifact,
            metrics=training.metrics,
            history=history.epochs,
            parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
            digest=digest,
            arithmetic=msgspec.to_builtins(here),
            stopped=training.stopped,
            bad_slices=training.bad_slices,
            checkpoint_problem=keeper.problem() if keeper is not None else "",
            diagnosis=loop.diagnosis(),
        )
        return msgspec.msgpack.encode(result)

    loop.warm_up(first)
    group = join(member, os.environ, loop.slots, logical=logical, arithmetic=here, exact=plan.exact)
    result = loop.run(group, publish)
    # Not after an error: the others then learn of it from the end of this process, which has said why it ended.
    group.close()
    return result


def _build_model(plan: TrainingPlan) -> torch.nn.Module:
    """Build the model; where it draws other weights on every process, those of one will be given to all."""
    key = random_key(plan.seed, "weights")
    random.seed(key)
    np.random.seed(key % 2**32)  # models of users may draw from it
    torch.manual_seed(key)
    model = preflight.check_model(plan.model.build(), exact=plan.exact)
    if plan.init_from is not None:
        load_initial(model, Path(plan.init_from))
    if plan.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
    return model


def _keeper(plan: TrainingPlan, logical: int, here: Arithmetic, model: torch.nn.Module) -> Keeper | None:
    if plan.checkpoints is None:
        return None
    recorded = msgspec.structs.replace(plan, logical_workers=logical)
    recipe = Recipe(plan=msgspec.to_builtins(recorded), arithmetic=msgspec.to_builtins(here))
    return Keeper(plan.checkpoints, recipe=recipe, model=model)


def _callbacks(plan: TrainingPlan, history: History) -> list[Callback]:
    chosen: list[Callback] = [Deadline(plan.max_time)] if plan.max_time is not None else []
    for factory in plan.callbacks:
        callback = factory.build()
        if not isinstance(callback, Callback):
            raise ConfigurationError(
                f"The callback {factory.entry} is a {type(callback).__name__}; a subclass of "
                "ganglion.training.callbacks.Callback is expected."
            )
        chosen.append(callback)
    return [history, *chosen, Reporter(current_member().report, history)]
