"""What decides a preparation: the source by content and the code that reads it, not what only changes the speed."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ganglion.core.errors import UserError
from ganglion.core.registry import load_object
from ganglion.data.dataset.manifest import FORMAT
from ganglion.data.preparation.tally import sources_within
from ganglion.data.source import PlainSource, Source
from ganglion.fingerprints import NoDigestError, digest_code

_IMPORT_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def describe_source(source: Source) -> dict[str, Any]:
    """A source as plain data for a manifest: of arrays and bytes only what they are like."""
    if not isinstance(source, PlainSource):
        return {"type": f"{type(source).__module__}:{type(source).__qualname__}"}
    return _plain(msgspec.to_builtins(source, builtin_types=(bytes,), enc_hook=_summary))  # type: ignore[no-any-return]


def description_digest(source: Source, *options: Any) -> str:
    """Digest of a source as it is described, without looking at what it describes; arrays count with their values."""
    if isinstance(source, PlainSource):
        plain = _plain(msgspec.to_builtins(source, builtin_types=(bytes,), enc_hook=_summary_with_values))
    else:
        plain = describe_source(source)
    return hashlib.sha256(msgspec.msgpack.encode((FORMAT, plain, options), order="sorted")).hexdigest()[:32]


def preparation_key(source: Source, fingerprint: str, *options: Any) -> str:
    """Name of a preparation: the same for the same records, read by the same code, with the same options.

    Args:
        source: what is read.
        fingerprint: of it.
        options: what else decides the result: plain data.
    """
    material = (FORMAT, fingerprint, sorted({_code_digest(code) for code in _code(source)}), options)
    return hashlib.sha256(msgspec.msgpack.encode(material)).hexdigest()[:32]


def _code(source: Source) -> Iterator[Any]:
    """The classes and functions that a source consists of."""
    yield from map(type, sources_within(source))
    for path in _import_paths(describe_source(source)):
        with suppress(UserError):  # a text that only looks like an import path
            yield load_object(path)


def _code_digest(code: Any) -> str:
    """Digest of a class or function with all that it calls; of this package's own the file that it is in."""
    module = getattr(code, "__module__", None) or ""
    if module.partition(".")[0] != "ganglion":
        with suppress(NoDigestError):
            return digest_code(code)
    file = getattr(sys.modules.get(module), "__file__", None)
    return _file_digest(file) if file else module


def _import_paths(value: Any) -> Iterator[str]:
    match value:
        case str() if _IMPORT_PATH.fullmatch(value):
            yield value
        case dict():
            for key, inner in value.items():
                if key != "type":  # the class of an object, which is here already
                    yield from _import_paths(inner)
        case list() | tuple():
            for inner in value:
                yield from _import_paths(inner)


@lru_cache(maxsize=1024)
def _file_digest(path: str) -> str:
    """Digest of a module's file, as it was when it was first asked for: the code that this process has loaded."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _summary(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {"dtype": value.dtype.name, "shape": value.shape}
    return {"type": f"{type(value).__module__}:{type(value).__qualname__}"}


def _summary_with_values(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {**_summary(value), "digest": hashlib.sha256(np.ascontiguousarray(value).data).hexdigest()}
    return _summary(value)


def _plain(value: Any) -> Any:
    """Plain data that JSON can hold and that stays small."""
    match value:
        case bytes() | bytearray() | memoryview():
            return {"bytes": len(value), "digest": hashlib.sha256(value).hexdigest()}
        case dict():
            return {str(key): _plain(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_plain(inner) for inner in value]
    return value
