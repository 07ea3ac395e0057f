"""Digests of code: a function together with everything it calls.

Functions are read as the bytecode that is loaded, not as source that may have changed since; comments, formatting,
docstrings and line numbers do not take part. From a function the walk goes to its defaults, its closure, the globals
it names (through modules of the project: `helpers.scale`) and the modules it imports; from a class to its bases,
methods and attributes. Code of the standard library is covered by the Python version, installed code by the versions of
its distributions.
"""

from __future__ import annotations

import builtins
import dis
import importlib
import sys
import types
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from ganglion.artifacts.files import digest_file
from ganglion.core.registry import load_modules, load_object
from ganglion.fingerprints.canonical import ImportPath, NoDigestError, digest, mix
from ganglion.fingerprints.origins import Origin, origin_of, versions_of

UNKNOWN = "unknown"
"""Stands for the digest of what has none."""

_OPAQUE = (eval, exec, compile, __import__, importlib.import_module, globals, locals, vars)
"""What these do is decided by text or names that the bytecode does not show."""

_IGNORED_OPERATIONS = {"NOP", "RESUME", "CACHE", "EXTENDED_ARG", "PRECALL"}
_GLOBAL = {"LOAD_GLOBAL", "LOAD_NAME"}
_ATTRIBUTE = {"LOAD_ATTR", "LOAD_METHOD"}
_LOADING = {*_ATTRIBUTE, "IMPORT_FROM"}
_DERIVED_ATTRIBUTES = {
    "__abstractmethods__",
    "__annotations_cache__",
    "__dataclass_fields__",
    "__dataclass_params__",
    "__dict__",
    "__doc__",
    "__firstlineno__",
    "__module__",
    "__static_attributes__",
    "__weakref__",
    "_abc_impl",
}


class CodeWalk:
    """Collects the parts of a fingerprint that are code.

    Attributes:
        parts: digest (or version) by what it is of: `code helpers.scale`, `value helpers.FACTOR`, `version numpy`.
        problems: why some parts have no digest.
    """

    def __init__(self) -> None:
        self.parts: dict[str, str] = {}
        self.problems: list[str] = []
        self._labels: dict[int, str] = {}
        self._alive: list[Any] = []
        self._taken: set[str] = set()
        self._waiting: deque[tuple[str, Any]] = deque()

    def include(self, part: str, value: Any) -> None:
        """Account for a value, and for all code that it leads to, under the name `part`."""
        self._record(part, lambda: digest(value, self.refer))
        while self._waiting:
            label, found = self._waiting.popleft()
            self._record(f"code {label}", partial(self._definition, found))

    def refer(self, found: Any) -> str:
        """The name of a function, class or module (or of what an `ImportPath` leads to); its code joins the walk."""
        if isinstance(found, ImportPath):
            return self._refer_by_path(found.path)
        module = found.__name__ if isinstance(found, types.ModuleType) else getattr(found, "__module__", None)
        name = module if isinstance(found, types.ModuleType) else f"{module}.{getattr(found, '__qualname__', '?')}"
        if isinstance(module, str) and self._is_covered(module):
            return str(name)
        label = self._labels.get(id(found))
        if label is None:
            label = str(name)
            number = 1
            while label in self._taken:
                number += 1
                label = f"{name} ({number})"
            self._taken.add(label)
            self._labels[id(found)] = label
            self._alive.append(found)  # an id is unique only while its object lives
            self._waiting.append((label, found))
        return label

    def _refer_by_path(self, path: str) -> str:
        module = path.partition(":")[0]
        if self._is_covered(module):
            return path.replace(":", ".")
        found = load_object(path)
        return self.refer(found.__dict__.get("__wrapped__", found) if not isinstance(found, type) else found)

    def _is_covered(self, module: str) -> bool:
        """Whether a version covers the code of a module; if so, the version is recorded."""
        try:
            origin = origin_of(module)
        except ImportError:  # a name without a module, such as those of generated functions
            return False
        if origin is Origin.INSTALLED:
            for name, version in versions_of(module).items():
                self.parts[f"version {name}"] = version
        return origin is not Origin.PROJECT

    def _record(self, part: str, compute: Callable[[], str]) -> None:
        try:
            self.parts[part] = compute()
        except Exception as error:  # noqa: BLE001  # whatever an object does when it is read: it has no digest then
            self.parts[part] = UNKNOWN
            kind, _, name = part.partition(" ")
            place = f"{kind} of `{name}`" if kind in ("code", "value") else f"{kind} `{name}`"
            known = isinstance(error, NoDigestError)
            self.problems.append(f"{place}: {error}" if known else f"{place}: {type(error).__name__}: {error}")

    def _definition(self, found: Any) -> str:
        if isinstance(found, types.FunctionType):
            return self._function(found)
        return self._class(found) if isinstance(found, type) else self._module(found)

    def _function(self, function: types.FunctionType) -> str:
        cells: dict[str, Any] = {}
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                cells[name] = cell.cell_contents
            except ValueError:
                cells[name] = NotImplemented  # not assigned yet
        values = (function.__defaults__, function.__kwdefaults__, cells, _own_attributes(function))
        parts = (self._code(function.__code__, function), bytes.fromhex(digest(values, self.refer)))
        return mix("function", parts).hex()

    def _class(self, cls: type) -> str:
        members: dict[str, Any] = {}
        for name in sorted(vars(cls)):
            value = vars(cls)[name]
            if name not in _DERIVED_ATTRIBUTES and not isinstance(value, types.MemberDescriptorType):
                members[name] = value
        if issubclass(cls, msgspec.Struct):  # kept where no class attribute shows them
            members["defaults"] = _struct_defaults(cls.__struct_defaults__)
            config = cls.__struct_config__
            members["config"] = [(name, getattr(config, name)) for name in dir(config) if not name.startswith("_")]
        home = sys.modules.get(cls.__module__)
        compiled = home if home is not None and _is_compiled(home) else None
        return digest((cls.__bases__, type(cls), members, compiled), self.refer)

    def _module(self, module: types.ModuleType) -> str:
        names = sorted(name for name in vars(module) if not name.startswith("__"))
        compiled = [digest_file(Path(module.__file__))] if _is_compiled(module) and module.__file__ else []
        return digest([*compiled, *((name, vars(module)[name]) for name in names)], self.refer)

    # instructions

    def _code(self, code: types.CodeType, function: types.FunctionType) -> bytes:
        instructions = [found for found in dis.get_instructions(code) if found.opname not in _IGNORED_OPERATIONS]
        places = _places(code, instructions)
        parts = [repr((code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)).encode()]
        parts += [name.encode() for name in code.co_varnames[: _argument_count(code)]]
        for index, instruction in enumerate(instructions):
            parts.append(instruction.opname.encode())
            parts.append(self._operand(instruction, places, function))
            if instruction.opname in _GLOBAL:
                parts.append(self._follow(instructions, index, function).encode())
            elif instruction.opname == "IMPORT_NAME":
                parts.append(self._follow_import(instructions, index, function).encode())
            elif instruction.opname in _LOADING and instruction.argval == importlib.import_module.__name__:
                raise _opaque("importlib.import_module")
        entries = getattr(dis.Bytecode(code), "exception_entries", ())
        parts += [repr((places[e.start], places[e.end], places[e.target], e.depth, e.lasti)).encode() for e in entries]
        return mix("bytecode", parts)

    def _operand(self, found: dis.Instruction, places: dict[int, int], function: types.FunctionType) -> bytes:
        if found.arg is None:
            return b""
        if isinstance(found.argval, types.CodeType):
            return self._code(found.argval, function)
        if found.opcode in dis.hasconst:
            return bytes.fromhex(digest(found.argval, self.refer))
        if found.opcode in dis.hasjrel or found.opcode in dis.hasjabs:
            return str(places[found.argval]).encode()
        if found.opcode in dis.hasname or found.opcode in dis.haslocal or found.opcode in dis.hasfree:
            return found.argrepr.encode()
        if found.opcode in dis.hascompare:
            return str(found.argval).encode()
        return str(found.arg).encode()

    def _follow(self, instructions: list[dis.Instruction], index: int, function: types.FunctionType) -> str:
        """Account for the global that an instruction loads, through attributes of modules of the project."""
        name = str(instructions[index].argval)
        if name not in function.__globals__ and not hasattr(builtins, name):
            return "undefined"
        value = function.__globals__.get(name, getattr(builtins, name, None))
        for opaque in _OPAQUE:
            if value is opaque:
                raise _opaque(opaque.__name__)
        if name not in function.__globals__:
            return "builtin"
        owner = function.__module__
        for following in instructions[index + 1 :]:
            if not isinstance(value, types.ModuleType) or following.opname not in _ATTRIBUTE:
                break
            attribute = str(following.argval)
            if self._is_covered(value.__name__) or not hasattr(value, attribute):
                break
            owner, name, value = value.__name__, attribute, getattr(value, attribute)
        return self._global(owner, name, value)

    def _follow_import(self, instructions: list[dis.Instruction], index: int, function: types.FunctionType) -> str:
        """Account for what an import inside a function brings in."""
        name, names, level = (
            str(instructions[index].argval),
            instructions[index - 1].argval,
            instructions[index - 2].argval,
        )
        if level:
            package = str(function.__globals__.get("__package__") or "").rsplit(".", level - 1)[0]
            name = f"{package}.{name}" if name else package
        try:
            if self._is_covered(name):
                return name
            load_modules((name,))
        except Exception as error:
            raise NoDigestError(f"it imports {name}, which cannot be loaded ({error})") from error
        module = sys.modules[name]
        if not names:
            return self.refer(module)
        return " ".join(self._imported(module, attribute) for attribute in names)

    def _imported(self, module: types.ModuleType, attribute: str) -> str:
        if not hasattr(module, attribute):
            try:
                load_modules((f"{module.__name__}.{attribute}",))
            except ImportError:
                return "undefined"
        return self._global(module.__name__, attribute, getattr(module, attribute))

    def _global(self, owner: str, name: str, value: Any) -> str:
        if isinstance(value, (types.FunctionType, types.ModuleType, type)):
            return self.refer(value)
        part = f"value {owner}.{name}"
        if part not in self.parts:
            self.parts[part] = UNKNOWN  # ends the recursion of a value that leads back to itself
            self._record(part, lambda: digest(value, self.refer))
        return part


def _opaque(name: str) -> NoDigestError:
    return NoDigestError(f"it calls {name}(), and what that does cannot be followed")


def _places(code: types.CodeType, instructions: list[dis.Instruction]) -> dict[int, int]:
    """Number of the first instruction that counts at or after every offset of the bytecode."""
    places: dict[int, int] = {}
    number = len(instructions)
    numbers = {found.offset: index for index, found in enumerate(instructions)}
    for offset in range(len(code.co_code), -2, -2):
        number = numbers.get(offset, number)
        places[offset] = number
    return places


def _is_compiled(module: types.ModuleType) -> bool:
    """Whether a module has no bytecode to read, so that its file stands for it."""
    file = getattr(module, "__file__", None)
    return file is not None and not file.endswith(".py")


def _argument_count(code: types.CodeType) -> int:
    variadic = bool(code.co_flags & 0x04) + bool(code.co_flags & 0x08)  # CO_VARARGS, CO_VARKEYWORDS
    return code.co_argcount + code.co_kwonlyargcount + variadic


def _own_attributes(function: types.FunctionType) -> dict[str, Any]:
    return {name: value for name, value in vars(function).items() if name != "__wrapped__"}


def _struct_defaults(defaults: tuple[Any, ...]) -> list[Any]:
    """Defaults of a struct's fields, in which the sentinel of msgspec for "none" becomes comparable."""
    return [
        ("factory", value.factory) if hasattr(value, "factory") else ("none",) if value is msgspec.NODEFAULT else value
        for value in defaults
    ]
