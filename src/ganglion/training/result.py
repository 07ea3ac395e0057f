"""What a training gives."""

from __future__ import annotations

from typing import Any

import msgspec

from ganglion.artifacts.store import Artifact
from ganglion.training.diagnosis import Verdict


class TrainingResult(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a training; plain data once converted, so that it travels as the value of a gang.

    Attributes:
        artifact: the model package in the store; `None` when none was asked for.
        metrics: of the model that the training ended with: `train_loss` (mean over its last epoch) and the held-out
            metrics under their own names.
        history: the same for every epoch, with `epoch` (from 1) and `images_per_second`.
        parameters: how many numbers were trained.
        digest: SHA-256 over the weights, the state of the optimizer and the position in the data that it ended with. It
            is a function of plan and data: how many workers there were, and what became of them, has no part in it.
        arithmetic: what the bits depend on beside plan and data.
        stopped: why it ended before its last epoch; empty when it did not.
        bad_slices: how many slices were left out because they could not be used.
        checkpoint_problem: why the last checkpoint could not be saved; empty when it could, or none was asked for.
        diagnosis: what its speed was bound by, with evidence and remedies.
    """

    artifact: Artifact | None
    metrics: dict[str, float]
    history: list[dict[str, float]]
    parameters: int
    digest: str = ""
    arithmetic: dict[str, Any] = {}
    stopped: str = ""
    bad_slices: int = 0
    checkpoint_problem: str = ""
    diagnosis: Verdict = Verdict()
