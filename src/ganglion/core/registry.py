"""The one place that imports by name: entries (`module:function`), recipe files and optional parts."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ganglion.core.errors import UserError


def load_object(path: str) -> Any:
    """Import `module:qualified.name`.

    Raises:
        UserError: the text has another form, or there is no such module or name.
    """
    module_name, separator, qualified = path.partition(":")
    if not separator or not module_name or not qualified:
        raise UserError(f"{path!r} is not of the form module:name.")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise UserError(f"No module named {module_name!r} for the entry {path!r}.") from error
        raise
    for part in qualified.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            raise UserError(f"{module_name!r} has no {qualified!r}.") from error
    return found


def lazy_names(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """A module-level `__getattr__` that imports a public name when it is first used.

    Args:
        package: `__name__` of the module that it is for.
        homes: the module, relative to the package, in which each name lives.
    """

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return load_object(f"{package}.{homes[name]}:{name}")

    return load


def load_modules(names: tuple[str, ...]) -> None:
    """Import `names` for their effect (preloading)."""
    for name in names:
        importlib.import_module(name)


def add_to_path(folders: tuple[str, ...]) -> None:
    """Put `folders` at the front of the import path, in order, once."""
    for folder in reversed(folders):
        if folder not in sys.path:
            sys.path.insert(0, folder)


def load_file(file: Path) -> ModuleType:
    """Import a recipe file as the module named by its stem, with its folder on the import path.

    Raises:
        UserError: there is no such file, its stem is not a module name, or another module has that name.
    """
    resolved = file.resolve()
    if not resolved.is_file():
        raise UserError(f"There is no file {file}.")
    if resolved.suffix != ".py" or not resolved.stem.isidentifier():
        raise UserError(f"{file} cannot be imported: its name must be a Python identifier followed by .py.")
    add_to_path((str(resolved.parent),))
    module = importlib.import_module(resolved.stem)
    origin = getattr(module, "__file__", None)
    if origin is None or Path(origin).resolve() != resolved:
        raise UserError(f"{file} has the name of another module ({origin or 'built in'}); rename the file.")
    return module
