"""A person's function as plain data: by import path, or, where it has none, pickled."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import msgspec

from ganglion.core.errors import DataError, UserError
from ganglion.core.registry import load_object
from ganglion.execution.entry import Entry, entry_of


class Function(msgspec.Struct, frozen=True, dict=True):
    """A callable that a transform applies.

    Attributes:
        entry: where it is.
        arguments: given to it by name in every call, beside the records: plain data, or structs that are tagged by
            their import path, such as `Statistics`.
    """

    entry: Entry
    arguments: dict[str, Any] = msgspec.field(default_factory=dict)

    @property
    def name(self) -> str:
        """What people call it."""
        return self.entry.path or str(getattr(self.callable, "__name__", "function"))

    @cached_property
    def callable(self) -> Callable[..., Any]:
        """The callable itself.

        Raises:
            UserError: it cannot be found, or cannot be called.
        """
        return self.entry.load()

    @cached_property
    def bound(self) -> dict[str, Any]:
        """The arguments, structs again where they were plain data."""
        return {name: _rebuilt(value) for name, value in self.arguments.items()}


def function_of(given: Any, arguments: dict[str, Any] | None = None) -> Function:
    """Describe what a person gives as a function: a callable, its import path, or its plain data.

    Raises:
        DataError: it is none of these.
    """
    if isinstance(given, Function):
        return given
    if isinstance(given, dict):
        return _converted(given)
    if isinstance(given, str):
        return Function(Entry(path=given), arguments or {})
    if not callable(given):
        raise DataError(f"A function was given as {given!r}; a callable or its import path module:name is needed.")
    entry = entry_of(given)
    if entry.path and not _leads_to(entry.path, given):
        import cloudpickle

        entry = Entry(pickled=cloudpickle.dumps(given))
    function = Function(entry, arguments or {})
    function.__dict__["callable"] = given  # in this process it need not be unpickled
    return function


def _converted(data: dict[str, Any]) -> Function:
    try:
        return msgspec.convert(data, Function)
    except msgspec.ValidationError as error:
        raise DataError(f"{data!r} does not describe a function: {error}.") from error


def _leads_to(path: str, given: Any) -> bool:
    """Whether an import path leads to this very object; that of a bound method, say, does not."""
    try:
        return load_object(path) is given
    except UserError:
        return False


def _rebuilt(value: Any) -> Any:
    path = value.get("type") if isinstance(value, dict) else None
    try:
        cls = load_object(path) if isinstance(path, str) else None
    except UserError:
        return value  # a dictionary of a person's own
    return msgspec.convert(value, cls) if isinstance(cls, type) and issubclass(cls, msgspec.Struct) else value
