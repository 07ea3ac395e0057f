"""Requests too big for one replica: how they are split, and which replica serves which shard; pure.

A *part* is what a user's merge function sees (`ganglion.serving.parts`); a *shard* is what one replica serves. Cut by
range or by hash there is one part for each shard; a user's function makes as many parts as it likes, part p is of shard
p modulo shards.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Annotated

import msgspec

from ganglion.artifacts.package import Signature
from ganglion.core.config import Config
from ganglion.core.errors import ConfigurationError, UserError, suggest

RANGE = "range"
HASH = "hash"

_WORD = 8


class Sharding(Config, frozen=True, kw_only=True):
    """How a large request to a model is split over replicas and put together again.

    Attributes:
        shards: into how many; those of one number are served by one replica for as long as the replicas are the same.
        by: `range` (neighbours stay together), `hash` (equal keys meet the same shard), or the user's function as
            `module:function`: from the inputs by name (encoded images: a list of bytes) to one whole number for each
            instance, that of its part. It runs in a replica, never in the gateway.
        key: input by whose value is hashed; empty hashes the whole instance.
        limit: instances up to which a request is not split.
        merge: the user's function as `module:function`: from the list of the parts' outputs by name, in the order of
            parts, to outputs by name. It may drop parts. Empty puts every instance back in its place.
    """

    shards: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 2
    by: str = RANGE
    key: str = ""
    limit: Annotated[int, msgspec.Meta(ge=0)] = 1024
    merge: str = ""

    def __post_init__(self) -> None:
        if self.by not in (RANGE, HASH) and not is_function(self.by):
            raise ConfigurationError(
                f"Requests cannot be split by {self.by!r}; allowed: {RANGE}, {HASH}, or a function as module:function."
            )
        if self.key and self.by != HASH:
            raise ConfigurationError(f"The key {self.key!r} is only used to split by {HASH}; this splits by {self.by}.")
        if self.merge and not is_function(self.merge):
            raise ConfigurationError(f"{self.merge!r} is no function; give it as module:function.")

    def check(self, signature: Signature) -> None:
        """Refuse what does not fit the model.

        Raises:
            UserError: the key is none of its inputs.
        """
        names = [tensor.name for tensor in signature.inputs]
        if self.key and self.key not in names:
            raise UserError(f"Requests cannot be split by the input {self.key!r}. {suggest(self.key, names)}")

    @property
    def functions(self) -> tuple[str, ...]:
        """The user's functions that a replica needs."""
        return tuple(path for path in (self.by, self.merge) if is_function(path))


def is_function(path: str) -> bool:
    """Whether a text has the form `module:function`."""
    module, _, name = path.partition(":")
    return all(part.isidentifier() for part in (*module.split("."), *name.split(".")))


@lru_cache(maxsize=256)
def owners(shards: int, replicas: tuple[str, ...]) -> tuple[str, ...]:
    """The replica that serves each shard: highest random weight first, none more than its fair share.

    The same for the same replicas in any order, whoever asks. When one goes, mostly its own shards move. Rendezvous
    hashing (Thaler, Ravishankar 1998) with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2018).

    Args:
        shards: how many.
        replicas: ids as in the routes, `job/member/attempt`; two attempts of one member weigh the same.

    Returns:
        An id for each shard; empty where there is no replica.
    """
    if not replicas:
        return ()
    room = dict.fromkeys(sorted(replicas), -(-shards // len(replicas)))
    chosen = []
    for shard in range(shards):
        best = max((id_ for id_, free in room.items() if free), key=lambda id_: (_weight(shard, id_), id_))
        room[best] -= 1
        chosen.append(best)
    return tuple(chosen)


@lru_cache(maxsize=1024)
def shards_of(shards: int, replicas: tuple[str, ...], replica: str) -> frozenset[int]:
    """The shards that one of the replicas serves; see `owners`."""
    return frozenset(shard for shard, owner in enumerate(owners(shards, replicas)) if owner == replica)


def _weight(shard: int, replica: str) -> bytes:
    member = replica.split("/")[-2:][0]
    return hashlib.blake2b(f"{shard} {member}".encode(), digest_size=_WORD).digest()
