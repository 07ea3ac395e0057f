"""What a checkpoint says of itself: where the training stood, what it was, and the checksums of the files.

The manifest is checked by itself: it is written in one way only, so any other bytes are damage, and it carries a
checksum of its content.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import google_crc32c
import msgspec

from ganglion.core.errors import ConfigurationError, IntegrityError, ModelError
from ganglion.training.checkpoints.settings import Difference

FORMAT = 1
"""Number of this format; it grows when readers of the old one would misread the new one."""

NAME = "manifest.json"
"""Of the file."""

SHOWN = 5
"""Of many differences, how many a message tells."""

FREE = frozenset({"callbacks", "export", "held_out", "metrics", "classes", "max_time", "patience", "checkpoints"})
"""Fields of a plan that the trained weights do not depend on."""


class Form(msgspec.Struct, frozen=True, array_like=True):
    """A tensor of a model: its name, type (as `float32`) and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of a checkpoint.

    Attributes:
        name: in its folder.
        size: bytes.
        crc32c: CRC-32C of the bytes. It finds every burst of errors of up to 32 bits, and other damage with a
            probability of 1 - 2^-32, at a small part of the time that SHA-256 takes; it is no protection against
            somebody who forges checkpoints.
    """

    name: str
    size: int
    crc32c: int


class Progress(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a training stands.

    Attributes:
        step: committed steps; with the seed in the plan this is all the randomness there is.
        epoch: from 0.
        batch: steps taken in this epoch; with `epoch` the whole cursor of the data.
        metrics: what was measured of exactly this state; empty unless it was.
    """

    step: int
    epoch: int
    batch: int
    metrics: dict[str, float] = {}


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the result of a training depends on.

    Attributes:
        plan: the `TrainingPlan` as plain data, with its seed and the recorded number of logical workers.
        arithmetic: the `Arithmetic` of the processes as plain data.
    """

    plan: dict[str, Any]
    arithmetic: dict[str, Any]


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A checkpoint.

    Attributes:
        format: of the folder.
        progress: where the training stood.
        recipe: what it was.
        model: the parameters and buffers of the model.
        files: everything in the folder but the manifest.
        saved: wall time in seconds since the epoch.
        seconds: that the training had run, over all of its lives.
        losses: how often it had lost all of its workers.
    """

    format: int = FORMAT
    progress: Progress
    recipe: Recipe
    model: tuple[Form, ...]
    files: tuple[File, ...]
    saved: float
    seconds: float = 0.0
    losses: int = 0


class _Sealed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    content: msgspec.Raw
    crc32c: int


def encode(manifest: Manifest) -> bytes:
    """The bytes of the file; metrics that are not finite have no place in JSON and are left out."""
    metrics = {name: value for name, value in manifest.progress.metrics.items() if math.isfinite(value)}
    progress = msgspec.structs.replace(manifest.progress, metrics=metrics)
    content = msgspec.json.encode(msgspec.structs.replace(manifest, progress=progress))
    return _seal(msgspec.json.format(content))


def decode(data: bytes) -> Manifest:
    """Read the bytes of the file.

    Raises:
        IntegrityError: they are not what was written.
        ConfigurationError: they are of another format.
    """
    try:
        sealed = msgspec.json.decode(data, type=_Sealed)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise IntegrityError(f"{NAME} does not parse: {error}.") from error
    content = bytes(sealed.content)
    if _seal(content) != data:
        raise IntegrityError(f"{NAME} is not what was written: its checksum or its form differs.")
    number = msgspec.json.decode(content, type=dict[str, Any]).get("format")
    if number != FORMAT:
        raise ConfigurationError(
            f"The checkpoint has format {number}; this version of Ganglion reads format {FORMAT}. Use the version that "
            "wrote it."
        )
    return msgspec.json.decode(content, type=Manifest)


def check_model(there: Sequence[Form], here: Sequence[Form], who: str) -> None:
    """Refuse the checkpoint of another model.

    Args:
        there: the tensors in the checkpoint.
        here: the tensors of the model that is trained.
        who: which checkpoint, for the message.

    Raises:
        ModelError: names, types or shapes differ; the message has the differing ones.
    """
    theirs, ours = ({form.name: form for form in forms} for forms in (there, here))
    problems = []
    for what, names in (
        ("missing in the checkpoint", [name for name in ours if name not in theirs]),
        ("unexpected in the checkpoint", [name for name in theirs if name not in ours]),
    ):
        if names:
            problems.append(f"{what}: {_some(names)}")
    others = [
        f"{name} is {form.dtype}{list(form.shape)} here, {theirs[name].dtype}{list(theirs[name].shape)} there"
        for name, form in ours.items()
        if name in theirs and theirs[name] != form
    ]
    if others:
        problems.append(f"different: {_some(others)}")
    if problems:
        raise ModelError(
            f"{who} is of another model ({'; '.join(problems)}). Train the model that it was saved from, or choose "
            "another folder for the checkpoints of this one."
        )


def check_recipe(there: Recipe, here: Recipe, who: str, allow: Sequence[Difference] = ()) -> None:
    """Refuse to go on with another training, or in another arithmetic.

    Args:
        there: what the checkpoint was saved by.
        here: what would go on.
        who: which checkpoint, for the message.
        allow: what may differ.

    Raises:
        ConfigurationError: they differ; the message says in what.
    """
    _check("plan", _bound(there.plan), _bound(here.plan), who, allow, "Use the plan that it was saved with")
    _check(
        "arithmetic",
        there.arithmetic,
        here.arithmetic,
        who,
        allow,
        "Results would not be the same to the last bit: use the same PyTorch, number of threads and instructions",
    )


def _check(
    what: Difference,
    there: Mapping[str, Any],
    here: Mapping[str, Any],
    who: str,
    allow: Sequence[Difference],
    remedy: str,
) -> None:
    differences = [
        f"{name}: {here.get(name)!r} here, {there.get(name)!r} there"
        for name in sorted({*there, *here})
        if here.get(name) != there.get(name)
    ]
    if differences and what not in allow:
        raise ConfigurationError(
            f"{who} was saved with another {what} ({_some(differences)}). {remedy}, choose another folder for the "
            f"checkpoints, or allow it with allow=[{what!r}]."
        )


def _bound(plan: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that trained weights depend on, as JSON has them: a tuple is a list."""
    bound = {name: value for name, value in plan.items() if name not in FREE}
    return msgspec.json.decode(msgspec.json.encode(bound), type=dict[str, Any])


def _seal(content: bytes) -> bytes:
    checksum = google_crc32c.value(content)
    return msgspec.json.encode(_Sealed(content=msgspec.Raw(content), crc32c=checksum)) + b"\n"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
