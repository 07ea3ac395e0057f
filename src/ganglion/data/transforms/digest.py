"""Digests of transforms: what they say, and the code that they run."""

from __future__ import annotations

import hashlib
import secrets
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from ganglion.data.transform import Transform
from ganglion.data.transforms.function import Function
from ganglion.fingerprints import NoDigestError, digest_code


def digest_transforms(transforms: Iterable[Transform]) -> str:
    """Digest transforms in order: their options, their own code, and that of functions they are given.

    Where some code has no digest the result is another one each time, so that nothing made earlier is taken for what
    these transforms make.

    Returns:
        64 hexadecimal digits.
    """
    state = hashlib.sha256()
    for transform in transforms:
        try:
            for part in _parts(transform):
                state.update(hashlib.sha256(part).digest())
        except NoDigestError:
            state.update(secrets.token_bytes(32))
    return state.hexdigest()


def _parts(transform: Transform) -> Iterator[bytes]:
    cls = type(transform)
    yield f"{cls.__module__}:{cls.__qualname__}".encode()
    if cls.__module__.partition(".")[0] == "ganglion":
        yield _own_code(cls.__module__)
    else:
        yield digest_code(cls).encode()
    for name in transform.__struct_fields__:
        value = getattr(transform, name)
        yield name.encode()
        if isinstance(value, Function):
            yield value.entry.path.encode()
            yield digest_code(value.callable).encode()
            value = value.arguments
        yield _encoded(value)


def _encoded(value: Any) -> bytes:
    try:
        return msgspec.msgpack.encode(value, order="deterministic")
    except (TypeError, ValueError):
        return digest_code(value).encode()


@cache
def _own_code(module: str) -> bytes:
    """The file of a module of this package, as it was when it was first asked for."""
    file = getattr(sys.modules[module], "__file__", None)
    if file is None:
        raise NoDigestError(f"the module {module} has no file")
    return hashlib.sha256(Path(file).read_bytes()).digest()
