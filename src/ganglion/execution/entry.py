"""What a process calls: an import path, or a pickled function where there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ganglion.core.errors import SpecError
from ganglion.core.registry import load_object


class Entry(msgspec.Struct, frozen=True):
    """A callable, as plain data.

    Attributes:
        path: `module:qualified.name`; readable in a record, a log and a manifest.
        pickled: cloudpickle of a function that has no import path (a notebook cell, a lambda); only for backends that
            run the same Python on the same code.
    """

    path: str = ""
    pickled: bytes = b""

    def __post_init__(self) -> None:
        if bool(self.path) == bool(self.pickled):
            raise SpecError("An entry has either an import path or a pickled function.")

    def load(self) -> Callable[..., Any]:
        """Import or unpickle the callable."""
        if self.path:
            loaded = load_object(self.path)
        else:
            import cloudpickle

            loaded = cloudpickle.loads(self.pickled)
        if not callable(loaded):
            raise SpecError(f"The entry {self} is a {type(loaded).__name__}, which cannot be called.")
        return loaded  # type: ignore[no-any-return]  # callable() does not narrow Any

    def __str__(self) -> str:
        return self.path or "a function without an import path"


def entry_of(function: Callable[..., Any]) -> Entry:
    """Describe a function: by import path where it has one, else pickled."""
    module = getattr(function, "__module__", "__main__")
    name = getattr(function, "__qualname__", "")
    if module != "__main__" and name and "<" not in name:
        return Entry(path=f"{module}:{name}")
    import cloudpickle

    return Entry(pickled=cloudpickle.dumps(function))
