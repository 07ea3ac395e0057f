"""Digests of code: a function with everything of the project that it leads to, as it is loaded.

From a function the walk goes to its constants, defaults, closure, the globals that it names, what it takes from modules
of the project and the modules that it imports; from a class to its bases and members. Installed packages and the
standard library count with their versions.
"""

from __future__ import annotations

import builtins
import copyreg
import dis
import hashlib
import importlib.metadata
import struct
import sys
import sysconfig
import types
from collections.abc import Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ganglion.core.errors import GanglionError
from ganglion.core.registry import load_modules

_OPAQUE = {"eval", "exec", "compile", "__import__", "globals", "locals", "vars", "import_module"}
_NO_MEMBERS = {"__dict__", "__weakref__", "__doc__", "__module__", "__annotations__", "__firstlineno__", "_abc_impl"}
_DESCRIPTORS = (types.MemberDescriptorType, types.GetSetDescriptorType)
_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...), range)


class NoDigestError(GanglionError):
    """Something has no digest that would be the same in another process."""


def digest_code(value: Any) -> str:
    """Digest a value, or a function or class with all code that it leads to; 64 hexadecimal digits.

    Raises:
        NoDigestError: a part of it has no digest; the message says which.
    """
    walk = _Walk()
    try:
        return walk.digest(value).hex()
    except NoDigestError:
        raise
    except Exception as error:  # whatever objects do when they are taken apart
        raise NoDigestError(f"{type(value).__name__} has no digest ({type(error).__name__}: {error})") from error


class _Walk:
    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._alive: list[Any] = []  # an id is unique only while its object lives

    def digest(self, value: Any) -> bytes:
        if type(value) in _PLAIN:
            return _mix(type(value).__name__, [repr(value).encode(errors="surrogatepass")])
        if id(value) in self._numbers:
            return _mix("again", [str(self._numbers[id(value)]).encode()])
        self._numbers[id(value)] = len(self._numbers)
        self._alive.append(value)
        return _mix(type(value).__qualname__, self._parts(value))

    def _parts(self, value: Any) -> Iterable[bytes]:
        module = getattr(value, "__module__", None)
        match value:
            case types.ModuleType():
                return self._module(value)
            case type() | types.FunctionType() | types.BuiltinFunctionType() if isinstance(module, str):
                version = _version(module)
                if version is not None or isinstance(value, types.BuiltinFunctionType):
                    return [f"{module}.{value.__qualname__} {version}".encode()]
                return self._class(value) if isinstance(value, type) else self._function(value)
            case list() | tuple():
                return map(self.digest, value)
            case set() | frozenset():
                return map(self.digest, sorted(value, key=lambda item: (type(item).__name__, repr(item))))
            case dict() | types.MappingProxyType():
                return map(self.digest, (part for pair in value.items() for part in pair))
            case np.ndarray() if value.dtype != object:
                return [f"{value.dtype.str} {value.shape}".encode(), np.ascontiguousarray(value).tobytes()]
            case types.CodeType():
                return self._code(value)
            case types.MethodType():
                return map(self.digest, (value.__func__, value.__self__))
            case partial():
                return map(self.digest, (value.func, value.args, value.keywords))
            case staticmethod() | classmethod():
                return [self.digest(value.__func__)]
            case property():
                return map(self.digest, (value.fget, value.fset, value.fdel))
        return self._reduced(value)

    def _function(self, function: types.FunctionType) -> Iterator[bytes]:
        yield self.digest(function.__code__)
        yield self.digest(function.__defaults__)
        yield self.digest(function.__kwdefaults__)
        for cell in function.__closure__ or ():
            yield self.digest(cell.cell_contents)
        for code in _codes(function.__code__):
            yield from self._names(code, function.__globals__)

    def _names(self, code: types.CodeType, known: dict[str, Any]) -> Iterator[bytes]:
        """What the names in a piece of code stand for."""
        found: list[types.ModuleType] = []
        for name in code.co_names:
            if name in _OPAQUE and name not in known:
                raise NoDigestError(f"{code.co_qualname} uses {name}, and what that does cannot be followed")
            if name not in known:
                yield f"{name} {'builtin' if hasattr(builtins, name) else 'attribute'}".encode()
            elif isinstance(known[name], types.ModuleType):
                found.append(known[name])
            else:
                yield self.digest(known[name])
        found += _imports(code, known)
        for module in found:
            version = _version(module.__name__)
            yield f"{module.__name__} {version}".encode()
            if version is None:
                for name in sorted(set(code.co_names) & set(vars(module))):
                    value = vars(module)[name]
                    if not isinstance(value, types.ModuleType):
                        yield self.digest(value)
                    elif value not in found:
                        found.append(value)  # the loop goes on to it

    def _code(self, code: types.CodeType) -> Iterator[bytes]:
        yield code.co_code
        yield getattr(code, "co_exceptiontable", b"")
        yield repr((code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)).encode()
        yield repr((code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)).encode()
        for constant in code.co_consts:
            yield self.digest(constant)

    def _class(self, cls: type) -> Iterator[bytes]:
        yield cls.__qualname__.encode()
        if issubclass(cls, msgspec.Struct):
            yield repr([(field.name, field.type) for field in msgspec.structs.fields(cls)]).encode()
            for field in msgspec.structs.fields(cls):
                yield b"required" if field.required else self.digest(_default(field))
        yield from map(self.digest, cls.__bases__)
        for name in sorted(vars(cls)):
            member = vars(cls)[name]
            if name not in _NO_MEMBERS and not name.startswith("__struct_") and not isinstance(member, _DESCRIPTORS):
                yield name.encode()
                yield self.digest(member)

    def _module(self, module: types.ModuleType) -> list[bytes]:
        version = _version(module.__name__)
        if version is not None:
            return [f"{module.__name__} {version}".encode()]
        if not module.__file__:
            raise NoDigestError(f"the module {module.__name__} has no file")
        return [Path(module.__file__).read_bytes()]

    def _reduced(self, value: Any) -> Iterator[bytes]:
        """An object taken apart as pickle does it."""
        reducer = copyreg.dispatch_table.get(type(value))
        reduced = reducer(value) if reducer is not None else value.__reduce_ex__(4)
        if isinstance(reduced, str):
            raise NoDigestError(f"{type(value).__name__} {reduced} is known by its name alone")
        for part in reduced:
            yield self.digest(list(part) if isinstance(part, Iterator) else part)


def _default(field: msgspec.structs.FieldInfo) -> Any:
    return field.default if field.default is not msgspec.NODEFAULT else field.default_factory


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _imports(code: types.CodeType, known: dict[str, Any]) -> list[types.ModuleType]:
    """The modules that a piece of code imports while it runs, and those of them that are modules of a package."""
    found = []
    instructions = list(dis.get_instructions(code))
    for index, instruction in enumerate(instructions):
        if instruction.opname != "IMPORT_NAME":
            continue
        level, names = instructions[index - 2].argval, instructions[index - 1].argval or ()
        name = str(instruction.argval)
        if level:
            package = str(known.get("__package__") or "").rsplit(".", level - 1)[0]
            name = f"{package}.{name}" if name else package
        load_modules((name,))
        found.append(sys.modules[name])
        found += [sys.modules[f"{name}.{part}"] for part in names if f"{name}.{part}" in sys.modules]
    return found


@cache
def _version(module: str) -> str | None:
    """What stands for the code of a module that is not the project's: the version of Python or of a package."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names and top != "__main__":
        return ".".join(map(str, sys.version_info[:3]))
    file = getattr(sys.modules.get(module), "__file__", None) or getattr(sys.modules.get(top), "__file__", None)
    installed = {str(Path(sysconfig.get_path(name)).resolve()) for name in ("purelib", "platlib")}
    if file is None or not any(str(Path(file).resolve()).startswith(f"{folder}/") for folder in installed):
        return None
    names = importlib.metadata.packages_distributions().get(top)
    if not names:
        raise NoDigestError(f"the module {module} is installed, and it is not known which package it belongs to")
    return " ".join(f"{name} {importlib.metadata.version(name)}" for name in sorted(set(names)))


def _mix(tag: str, parts: Iterable[bytes]) -> bytes:
    state = hashlib.sha256(tag.encode() + b"\0")
    for part in parts:
        state.update(struct.pack(">Q", len(part)))
        state.update(part)
    return state.digest()
