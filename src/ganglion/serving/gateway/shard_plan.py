"""How one large request is cut: which instances go together, to which shard, and where their outputs belong; pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ganglion.serving.gateway.errors import RequestError
from ganglion.serving.gateway.prediction import Cut
from ganglion.serving.parts import Indices, Rows, bytes_parts, grouped_parts, hash_parts, range_parts
from ganglion.serving.payload import Payload
from ganglion.serving.sharding import HASH, Sharding

SHORT = 0.01
"""Seconds for which a replica may be at what is sent together, since others wait for it meanwhile.

For each frame the gateway takes the core from a replica, and if it is late the replica has nothing to do and goes to
sleep. Either may leave two shards on one core and another idle until the kernel notices: a tenth of the time at 3 ms.
"""

_BYTES = 2**18
"""Bytes of instances that are sent together at most where they are more than a batch."""

_FEWEST = 8
"""Pieces of a part at least, so that one replica that is lost or slow does not hold up much."""

_BATCHES = 32
"""Batches that are sent together at most."""


class ShardPlan(NamedTuple):
    """A request, cut.

    Attributes:
        cuts: batches at most, part after part.
        sizes: instances of each part, in order.
    """

    cuts: list[Cut]
    sizes: list[int]


def together(payload: Payload, sharding: Sharding, max_batch: int, seconds: Callable[[int], float]) -> int:
    """How many instances of a large request are sent together: several batches where a batch is short.

    A replica computes them batch by batch; what is saved is the gateway's work for each, which all shards wait for.

    Args:
        payload: all instances.
        sharding: how they are cut.
        max_batch: instances of the largest batch.
        seconds: for how long a replica is at so many instances, as far as is known.
    """
    if payload.images:
        return max_batch
    most = min(payload.rows // (sharding.shards * _FEWEST), _BYTES * payload.rows // max(payload.size, 1))
    batches = min(_BATCHES, most // max_batch)
    while batches > 1 and not seconds(batches * max_batch) <= SHORT:
        batches -= 1
    return max(1, batches) * max_batch


def plan_shards(payload: Payload, sharding: Sharding, most: int, numbers: Indices | None = None) -> ShardPlan:
    """Cut a request.

    Args:
        payload: its instances.
        sharding: how.
        most: instances that are asked together at most.
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
        for start in range(0, count, most):
            end = min(start + most, count)
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
