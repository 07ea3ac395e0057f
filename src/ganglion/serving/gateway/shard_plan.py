"""How one large request is cut: which instances go together, to which shard, and where their outputs belong; pure."""

from __future__ import annotations

from typing import NamedTuple

from ganglion.serving.gateway.errors import RequestError
from ganglion.serving.gateway.prediction import Cut
from ganglion.serving.payload import Payload
from ganglion.serving.sharding import (
    HASH,
    Indices,
    Rows,
    Sharding,
    bytes_parts,
    grouped_parts,
    hash_parts,
    range_parts,
)


class ShardPlan(NamedTuple):
    """A request, cut.

    Attributes:
        cuts: batches at most, part after part.
        sizes: instances of each part, in order.
    """

    cuts: list[Cut]
    sizes: list[int]


def plan_shards(payload: Payload, sharding: Sharding, max_batch: int, numbers: Indices | None = None) -> ShardPlan:
    """Cut a request.

    Args:
        payload: its instances.
        sharding: how.
        max_batch: instances that are asked together at most.
        numbers: the part of each instance, where the user's function has said so.

    Returns:
        The cuts. Where parts are merged, the outputs of each part are neighbours in the result; else every instance has
        its place.

    Raises:
        RequestError: the key is no input of the model.
    """
    parts: list[tuple[int, Rows]]
    if numbers is None and sharding.by == HASH:
        numbers = _hashed(payload, sharding)
    if numbers is None:
        parts = list(enumerate(range_parts(payload.rows, sharding.shards)))
    else:
        parts = [(number, _neighbours(rows)) for number, rows in grouped_parts(numbers)]
    cuts: list[Cut] = []
    sizes: list[int] = []
    position = 0
    for number, rows in parts:
        count = rows.stop - rows.start if isinstance(rows, slice) else len(rows)
        for start in range(0, count, max_batch):
            end = min(start + max_batch, count)
            chosen = slice(rows.start + start, rows.start + end) if isinstance(rows, slice) else rows[start:end]
            target = slice(position + start, position + end) if sharding.merge else chosen
            cuts.append(Cut(payload.select(chosen), chosen, target, number % sharding.shards))
        sizes.append(count)
        position += count
    return ShardPlan(cuts, sizes)


def _hashed(payload: Payload, sharding: Sharding) -> Indices:
    if payload.images:
        if sharding.key:
            raise RequestError(400, f"Requests are split by the input {sharding.key!r}; give it as numbers.")
        return bytes_parts(payload.images, sharding.shards)
    if sharding.key and sharding.key not in payload.tensors:
        names = ", ".join(payload.tensors)
        raise RequestError(500, f"Requests are split by the input {sharding.key!r}; the model has {names}.")
    columns = [payload.tensors[sharding.key]] if sharding.key else payload.tensors.values()
    return hash_parts(columns, payload.rows, sharding.shards)


def _neighbours(rows: Rows) -> Rows:
    """A slice where that says the same: it is a view, not a copy."""
    if isinstance(rows, slice) or rows[-1] - rows[0] + 1 != len(rows):
        return rows
    return slice(int(rows[0]), int(rows[-1]) + 1)
