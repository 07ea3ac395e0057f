"""One digest of a value, a function or a class with all code that it leads to."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from types import FunctionType
from typing import Any

import msgspec

from ganglion.fingerprints.canonical import NoDigestError
from ganglion.fingerprints.code import CodeWalk


def digest_code(value: Any) -> str:
    """Digest a value, or a function or class, with all code that it leads to.

    Returns:
        64 hexadecimal digits, the same in every process with the same versions of Python and of what is installed.

    Raises:
        NoDigestError: a part of it has no digest; the message says which, and why.
    """
    walk = CodeWalk()
    named = value if isinstance(value, (type, FunctionType)) else type(value)
    walk.include(f"value {named.__qualname__}", value)
    if walk.problems:
        raise NoDigestError("; ".join(dict.fromkeys(walk.problems)))
    return digest_parts({**walk.parts, "version Python": ".".join(map(str, sys.version_info[:3]))})


def digest_parts(parts: Mapping[str, str]) -> str:
    """One digest of all parts that a `CodeWalk` collects; those that have no digest count as the same."""
    return hashlib.sha256(msgspec.json.encode(sorted(parts.items()))).hexdigest()
