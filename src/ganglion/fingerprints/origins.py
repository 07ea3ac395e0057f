"""Where a module comes from: the standard library, an installed distribution, Ganglion, or the user's project.

Code of the project takes part in fingerprints instruction by instruction; everything else by its version.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import json
import sys
import sysconfig
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from ganglion.core.registry import load_modules


class Origin(enum.Enum):
    """The three ways in which code is accounted for."""

    STANDARD = "standard library"
    INSTALLED = "installed"
    PROJECT = "project"


_FOLDERS = {"site-packages", "dist-packages"}


@functools.cache
def origin_of(module: str) -> Origin:
    """Where the module of this dotted name comes from; it is imported only if nothing installed claims it.

    Raises:
        ImportError: it belongs to the project and cannot be imported.
    """
    top = module.partition(".")[0]
    if top == "ganglion":
        return Origin.INSTALLED
    if top not in sys.modules:
        if top in sys.stdlib_module_names:
            return Origin.STANDARD
        if any(not _is_editable(name) for name in _distributions().get(top, ())):
            return Origin.INSTALLED
        load_modules((top,))
    loaded = sys.modules[top]
    file = getattr(loaded, "__file__", None)
    places = [Path(file)] if file else [Path(place) for place in getattr(loaded, "__path__", ())]
    if not places:
        return Origin.STANDARD if top in sys.stdlib_module_names or top == "builtins" else Origin.PROJECT
    if any(_FOLDERS & set(place.parts) for place in places):
        return Origin.INSTALLED if versions_of(top) else Origin.PROJECT
    standard = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")}
    resolved = places[0].resolve()
    if top in sys.stdlib_module_names and any(folder in resolved.parents for folder in standard):
        return Origin.STANDARD
    return Origin.PROJECT


@functools.cache
def versions_of(module: str) -> dict[str, str]:
    """Versions of the distributions that a module belongs to, by distribution; empty when none claims it."""
    top = module.partition(".")[0]
    if top == "ganglion":
        return {"ganglion": ganglion_version()}
    found = {name: metadata.version(name) for name in _distributions().get(top, ())}
    if not found and isinstance(version := getattr(sys.modules.get(top), "__version__", None), str):
        found = {top: version}
    return found


@functools.cache
def ganglion_version() -> str:
    """The version of Ganglion; of a source tree also a digest of its files, because they change under one version."""
    version = metadata.version("ganglion")
    package = Path(__file__).resolve().parent.parent
    if _FOLDERS & set(package.parts):
        return version
    state = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        state.update(f"{file.relative_to(package)}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return f"{version}+{state.hexdigest()[:12]}"


def project_folders(function: Callable[..., Any]) -> tuple[str, ...]:
    """The folder from which the project's module of `function` is imported, so that other processes find it too."""
    module = sys.modules.get(function.__module__)
    file = getattr(module, "__file__", None)
    if file is None or origin_of(function.__module__) is not Origin.PROJECT:
        return ()
    path = Path(file).resolve()
    depth = 0 if function.__module__ == "__main__" else function.__module__.count(".")
    return (str(path.parents[depth + (path.name == "__init__.py")]),)


@functools.cache
def _distributions() -> dict[str, list[str]]:
    return {top: list(dict.fromkeys(names)) for top, names in metadata.packages_distributions().items()}


@functools.cache
def _is_editable(distribution: str) -> bool:
    """Whether pip installed a link to the project's own source (https://peps.python.org/pep-0610/)."""
    text = metadata.distribution(distribution).read_text("direct_url.json")
    return bool(text and json.loads(text).get("dir_info", {}).get("editable"))
