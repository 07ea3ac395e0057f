"""Digests of values: the same value has the same digest in every process, different values have different ones.

Type and order count (`1`, `True`, `1.0` and `"1"` differ, so do `{"a": 1, "b": 2}` and `{"b": 2, "a": 1}`, because a
function may tell them apart); the order of a set, hash seeds and object identities do not. Objects are taken apart
the way pickle does it, unless they answer for themselves with a method `fingerprint()`, which returns another value to
digest in their place. What cannot be taken apart has no digest.
"""

from __future__ import annotations

import copyreg
import enum
import functools
import hashlib
import struct
import sys
import threading
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from ganglion.artifacts.files import digest_file
from ganglion.core.errors import GanglionError

_LOCKS = (type(threading.Lock()), type(threading.RLock()))
_DESCRIPTORS = (
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.ClassMethodDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
)

Refer = Callable[[Any], str]
"""Takes a function, class, module or `ImportPath` and returns the name under which its code is accounted for."""


class ImportPath(msgspec.Struct, frozen=True):
    """A function or class that a value needs, known by where it is: it is imported only if no version covers its code.

    Attributes:
        path: `module:qualified.name`.
    """

    path: str


class NoDigestError(GanglionError):
    """Something has no digest that is the same in every process; the message says what, and why."""


def digest(value: Any, refer: Refer) -> str:
    """Digest a value.

    Args:
        value: anything.
        refer: accounts for the code of functions, classes and modules that are part of the value.

    Returns:
        64 hexadecimal digits.

    Raises:
        NoDigestError: the value, or something within it, has no stable encoding.
    """
    try:
        return _Digester(refer).digest(value).hex()
    except RecursionError as error:
        raise NoDigestError(f"a {_name(type(value))} is nested too deeply") from error


def mix(tag: str, parts: Iterable[bytes]) -> bytes:
    """One digest of a tag and parts, unambiguous in where each ends."""
    state = hashlib.sha256(tag.encode() + b"\0")
    for part in parts:
        state.update(struct.pack(">Q", len(part)))
        state.update(part)
    return state.digest()


class _Digester:
    def __init__(self, refer: Refer) -> None:
        self.refer = refer
        self.open: list[int] = []
        self.cycles = 0
        self.known: dict[int, tuple[Any, bytes]] = {}  # with the value, because an id is unique only while it lives

    def digest(self, value: Any, *, lasting: bool = True) -> bytes:
        """Digest a value; what is `lasting`, not made for the digest, is remembered: it may be met again and again."""
        kind = type(value)
        plain = _PLAIN.get(kind)
        if plain is not None:
            return mix(kind.__name__, (plain(value),))
        if id(value) in self.known:
            return self.known[id(value)][1]
        if id(value) in self.open:
            self.cycles += 1
            return mix("cycle", (str(len(self.open) - self.open.index(id(value))).encode(),))
        cycles = self.cycles
        self.open.append(id(value))
        try:
            found = self.digest_container(value, kind)
        finally:
            self.open.pop()
        if lasting and self.cycles == cycles:  # a digest within a cycle depends on where the cycle was entered
            self.known[id(value)] = (value, found)
        return found

    def all(self, values: Iterable[Any], *, lasting: bool = True) -> list[bytes]:
        return [self.digest(value, lasting=lasting) for value in values]

    def name(self, value: Any) -> bytes:
        return self.refer(value).encode(errors="surrogatepass")

    def digest_container(self, value: Any, kind: type) -> bytes:
        if kind in (list, tuple):
            return mix(kind.__name__, self.all(value))
        if kind in (dict, types.MappingProxyType):
            return mix("dict", self.all(part for pair in value.items() for part in pair))
        if kind in (set, frozenset):
            return mix(kind.__name__, sorted(self.all(value)))
        if isinstance(value, (types.FunctionType, types.ModuleType, type, ImportPath)):
            return mix("code", (self.name(value),))
        return self.digest_code(value, kind) or self.digest_object(value, kind)

    def digest_code(self, value: Any, kind: type) -> bytes | None:
        """Callables and descriptors that stand for code without being functions."""
        if isinstance(value, types.MethodType):
            return mix("method", self.all((value.__func__, value.__self__)))
        if kind is functools.partial:
            return mix("partial", self.all((value.func, value.args, value.keywords)))
        if kind in (staticmethod, classmethod):
            return mix(kind.__name__, self.all((value.__func__,)))
        if kind is property:
            return mix("property", self.all((value.fget, value.fset, value.fdel)))
        if kind is functools.cached_property:
            return mix("cached_property", self.all((value.func,)))
        if isinstance(value, _DESCRIPTORS):
            return mix("descriptor", (self.name(value.__objclass__), value.__name__.encode()))
        if isinstance(value, types.CodeType):
            raise NoDigestError("a code object without its function has no stable encoding")
        if isinstance(value, types.BuiltinFunctionType):
            return mix("builtin", (value.__name__.encode(), *self.all((value.__self__, value.__module__))))
        if isinstance(value, types.MethodWrapperType):
            return mix("wrapper", (value.__name__.encode(), *self.all((value.__self__,))))
        if callable(value) and "__wrapped__" in getattr(value, "__dict__", ()):
            return mix("wrapped", [self.name(kind), *self.all((value.__dict__["__wrapped__"],))])
        return None

    def digest_object(self, value: Any, kind: type) -> bytes:
        if isinstance(value, Path):
            return mix("path", _content(value))
        if isinstance(value, enum.Enum):
            return mix("enum", [self.name(kind), *self.all((value.name, value.value))])
        if kind in _LOCKS:
            return mix("lock", ())
        if callable(getattr(kind, "fingerprint", None)):
            return mix("fingerprint", [self.name(kind), *self.all((self.own_fingerprint(value, kind),))])
        if isinstance(value, msgspec.Struct):
            fields = [(name, getattr(value, name)) for name in kind.__struct_fields__]  # type: ignore[attr-defined]  # of every struct
            return mix("struct", [self.name(kind), *self.all(fields)])
        return self.digest_reduced(value, kind)

    def own_fingerprint(self, value: Any, kind: type) -> Any:
        try:
            return value.fingerprint()
        except Exception as error:
            raise NoDigestError(f"{_name(kind)}.fingerprint() raised {type(error).__name__}: {error}") from error

    def digest_reduced(self, value: Any, kind: type) -> bytes:
        """Take an object apart as pickle does (https://docs.python.org/3/library/pickle.html#object.__reduce__)."""
        try:
            reducer = copyreg.dispatch_table.get(kind)
            reduced: Any = reducer(value) if reducer is not None else value.__reduce_ex__(4)
        except Exception as error:
            raise NoDigestError(f"a {_name(kind)} has no stable encoding ({error})") from error
        if isinstance(reduced, str):
            home = sys.modules.get(getattr(value, "__module__", None) or "")
            return mix("global", (self.name(kind), reduced.encode(), *([self.name(home)] if home else [])))
        function, arguments, *more = reduced
        state, items, pairs = (*more[:3], None, None, None)[:3]
        parts = (function, arguments, state, list(items) if items else None, list(pairs) if pairs else None)
        return mix("object", self.all(parts, lasting=False))  # copies of large arrays are not kept


def _content(path: Path) -> list[bytes]:
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return [
            part for file in files for part in (str(file.relative_to(path)).encode(), digest_file(file)[0].encode())
        ]
    return [digest_file(path)[0].encode()] if path.is_file() else [b"absent", str(path).encode()]


def _name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


_PLAIN: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda _value: b"",
    type(...): lambda _value: b"",
    type(NotImplemented): lambda _value: b"",
    bool: lambda value: b"1" if value else b"0",
    int: lambda value: b"%x" % value if value >= 0 else b"-%x" % -value,
    float: lambda value: b"nan" if value != value else struct.pack(">d", value),
    complex: lambda value: struct.pack(">dd", value.real, value.imag),
    str: lambda value: value.encode(errors="surrogatepass"),
    bytes: lambda value: value,
    bytearray: bytes,
    range: lambda value: f"{value.start},{value.stop},{value.step}".encode(),
    slice: lambda value: repr(value).encode(),
}
