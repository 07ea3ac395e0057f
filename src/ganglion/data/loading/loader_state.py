"""Where a loader is, in less than 256 bytes, and which loader that is.

The state is the same on every rank and says nothing of how many there are, so that any number of ranks can go on from
it. Digests say of what it is the state: a loader of other data or with other options refuses it and says what differs.
"""

from __future__ import annotations

import hashlib
from typing import Any, Self

import msgspec

from ganglion.core.errors import DataError

_DIGITS = 12

_ADVICE = {
    "dataset": "open the dataset, in the generation, that it is of",
    "part": "open the same part of the dataset",
    "global_batch": "use the same global batch",
    "seed": "use the same seed",
    "order": "use the same shuffle, blocks and drop_last",
    "transforms": "use the same transforms",
}


class LoaderState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The position of a loader, and its identity.

    Attributes:
        epoch: from 0.
        step: the global batch that comes next.
        seed: of the order and of random transforms.
        global_batch: records in a global batch.
        dataset: digest of the dataset.
        part: digest of the part.
        order: digest of everything else that decides which records a batch has.
        transforms: digest of the transforms.
    """

    epoch: int
    step: int
    seed: int
    global_batch: int
    dataset: str
    part: str
    order: str
    transforms: str

    @classmethod
    def from_plain(cls, data: dict[str, Any]) -> Self:
        """A state from plain data.

        Raises:
            DataError: it does not describe one.
        """
        try:
            return msgspec.convert(data, cls)
        except msgspec.ValidationError as error:
            raise DataError(f"{data!r} is not the state of a loader: {error}.") from error

    def check(self, given: LoaderState, steps: int) -> None:
        """Refuse a state of another loader than this one.

        Args:
            given: the state that is to be gone on from.
            steps: global batches in an epoch of this loader.

        Raises:
            DataError: it belongs to another dataset, part, seed, ...; the message names what differs.
        """
        for name, advice in _ADVICE.items():
            own, other = getattr(self, name), getattr(given, name)
            if own != other:
                raise DataError(
                    f"The state is of a loader with another {name} ({other}, not {own}); {advice}, or begin anew."
                )
        if given.epoch < 0 or not 0 <= given.step <= steps:
            raise DataError(f"The state is at step {given.step} of epoch {given.epoch}; an epoch has {steps} steps.")


def short_digest(data: bytes) -> str:
    """A digest of twelve hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()[:_DIGITS]
