"""Code that lies in a model package, imported as modules of its own, so that two models never share one."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ganglion.artifacts.files import digest_file
from ganglion.artifacts.package import MANIFEST, PackageManifest
from ganglion.core.errors import ModelError
from ganglion.core.registry import load_object


def load_entry(folder: Path, manifest: PackageManifest) -> Any:
    """What the entry of a package names.

    A module that is a file of the package is taken from there, and finds its neighbours relatively
    (`from . import vocabulary`).

    Args:
        folder: the package.
        manifest: its description.

    Raises:
        ModelError: there is no such module or name, or importing it failed.
    """
    module, _, name = manifest.entry.partition(":")
    path = module.replace(".", "/")
    inside = f"{path}.py" in manifest.files or f"{path}/__init__.py" in manifest.files
    entry = f"{_package(folder, manifest)}.{module}:{name}" if inside else manifest.entry
    try:
        with _no_bytecode():
            return load_object(entry)
    except Exception as error:  # the user's module may raise anything
        where = "the package" if inside else "this environment"
        raise ModelError(
            f"{manifest.entry!r} cannot be loaded from {where}: {type(error).__name__}: {error}"
        ) from error


@contextmanager
def _no_bytecode() -> Iterator[None]:
    """Write no compiled modules: the folder of a package is not changed by loading it."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


def _package(folder: Path, manifest: PackageManifest) -> str:
    """Make the folder a Python package whose name is its content; returns the name."""
    digest = digest_file(folder / MANIFEST)[0].removeprefix("sha256:")
    name = f"ganglion_model_{digest[:32]}"
    spec = importlib.util.spec_from_loader(name, loader=None, is_package=True)
    assert spec is not None, "a name was given"
    assert spec.submodule_search_locations is not None, "it is a package"
    spec.submodule_search_locations.append(str(folder))
    stale = [known for known in sys.modules if known == name or known.startswith(f"{name}.")]
    for known in stale:
        del sys.modules[known]
    sys.modules[name] = importlib.util.module_from_spec(spec)
    importlib.invalidate_caches()
    return name
