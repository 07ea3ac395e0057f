"""Who may ask the gateway how much: the limits of callers without and with an API key.

A key is a random secret. Only its digest is kept; what a caller sends is digested and looked up.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Annotated

import msgspec

from ganglion.core.config import Config
from ganglion.core.errors import ConfigurationError

ANONYMOUS = "anonymous"
"""What callers without a key are called."""

KEY_PREFIX = "gk_"
_KEY_BYTES = 32
_ID = 12

Positive = Annotated[int, msgspec.Meta(ge=1)]


class CallerLimit(Config, frozen=True, kw_only=True):
    """What one caller may ask for; callers without a key are one caller together.

    Attributes:
        concurrency: prediction requests in hand at once; further ones wait. `None` for no limit.
        waiting: requests that may wait; further ones are refused.
        waiting_bytes: bytes of the bodies that may wait.
        rate: prediction requests a second in the long run; beyond it they are refused. `None` for no limit.
        burst: requests that may come at once after a pause.
    """

    concurrency: Positive | None = None
    waiting: Annotated[int, msgspec.Meta(ge=0)] = 100
    waiting_bytes: Annotated[int, msgspec.Meta(ge=0)] = 64 * 2**20
    rate: Annotated[float, msgspec.Meta(gt=0.0)] | None = None
    burst: Positive = 10


class ApiKey(Config, frozen=True, kw_only=True):
    """A caller that has a key.

    Attributes:
        name: what the caller is called in metrics and in the log.
        digest: of the key, as `digest_of` gives it.
        limit: of this caller; `None` for what is said for all that have a key.
        created: when the key was made, for a person.
    """

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    digest: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    limit: CallerLimit | None = None
    created: str = ""

    @property
    def id(self) -> str:
        """What the key is called in logs: of the digest as much as tells keys apart."""
        return self.digest[:_ID]

    @property
    def caller(self) -> str:
        """What the caller is called in metrics; not what those without a key are."""
        return f"key {self.name}"


class Callers(Config, frozen=True, kw_only=True):
    """Everybody who may ask.

    Attributes:
        anonymous: limit of all callers without a key together; `None` refuses them.
        authenticated: limit of each caller that has a key.
        keys: callers that have one, of different names and keys.
    """

    anonymous: CallerLimit | None = CallerLimit()
    authenticated: CallerLimit = CallerLimit()
    keys: tuple[ApiKey, ...] = ()

    @property
    def names(self) -> list[str]:
        """What the callers are called in metrics."""
        return [ANONYMOUS, *(key.caller for key in self.keys)]

    def __post_init__(self) -> None:
        for what in ("name", "digest"):
            values = [getattr(key, what) for key in self.keys]
            if len(set(values)) < len(values):
                twice = next(key.name for key in self.keys if values.count(getattr(key, what)) > 1)
                raise ConfigurationError(f"Two API keys have the same {what} as {twice!r}; give each its own.")


def new_key() -> str:
    """A new key, to be shown to its caller once and kept by nobody else."""
    return KEY_PREFIX + secrets.token_urlsafe(_KEY_BYTES)


def digest_of(key: str | bytes) -> str:
    """What is kept of a key: SHA-256, which is enough for a secret of 256 random bits."""
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).hexdigest()
