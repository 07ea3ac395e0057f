"""The model repository: `models/<name>/<version>/`, one immutable model package for each version.

A version appears complete or not at all: it is copied beside its place and renamed into it. Aliases are movable names
for versions, kept in `aliases.json` beside them and replaced in one step.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec

from ganglion.artifacts.files import copy_durably, sync_folder, sync_tree, write_durably
from ganglion.artifacts.package import MANIFEST, PackageManifest, read_package
from ganglion.artifacts.store import Artifact, FolderStore
from ganglion.artifacts.trees import files_below
from ganglion.core import faults
from ganglion.core.errors import DataError, ModelError, NotFoundError, suggest

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")
_ALIASES = "aliases.json"
_MOST_ALIASES = 2**20
"""Bytes of the largest file of aliases."""

_Alias = Annotated[str, msgspec.Meta(pattern=f"^{_NAME.pattern}$")]


class ModelRepository:
    """Published models in a folder; any number of threads and processes may use it at the same time.

    Args:
        root: the folder that holds one folder for each model; created by the first publication.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def publish(self, name: str, package: Path | tuple[FolderStore, Artifact | str]) -> int:
        """Make a model package the next version of `name`.

        Args:
            name: of the model: letters, digits, `.`, `_` and `-`, beginning with a letter or digit.
            package: a folder, or a tree in a store.

        Returns:
            The new version; publishers at the same time get different ones.

        Raises:
            ModelError: the name or the package is invalid; nothing was published.
            NotFoundError: the store does not hold the artifact.
            IntegrityError: the store's copy is damaged.
        """
        folder = self._folder(name)
        if isinstance(package, Path):
            read_package(package)
        self.root.mkdir(parents=True, exist_ok=True)
        incoming = self.root / f".incoming-{secrets.token_hex(8)}"
        try:
            if isinstance(package, Path):
                _copy_package(package, incoming)
            else:
                store, artifact = package
                store.copy_tree(artifact, incoming)
            read_package(incoming)
            faults.point("serving.publish", model=name, incoming=str(incoming))
            folder.mkdir(exist_ok=True)
            version = _place(folder, incoming)
        except BaseException:
            shutil.rmtree(incoming, ignore_errors=True)
            raise
        sync_folder(folder)
        return version

    def names(self) -> tuple[str, ...]:
        """Models that have at least one complete version, sorted."""
        if not self.root.is_dir():
            return ()
        found = (path.name for path in self.root.iterdir() if _NAME.fullmatch(path.name) and path.is_dir())
        return tuple(sorted(name for name in found if self.versions(name)))

    def versions(self, name: str, known: Collection[int] = ()) -> tuple[int, ...]:
        """Complete versions of a model, oldest first; empty for a model that does not exist.

        Args:
            name: of the model.
            known: versions that were complete before, and so still are if they are there; they are not looked into.
        """
        return tuple(version for version, problem in self._examine(name, known) if not problem)

    def problems(self, name: str) -> dict[int, str]:
        """Why versions that have a folder are not among `versions`: half written, damaged, a symbolic link."""
        return {version: problem for version, problem in self._examine(name) if problem}

    def latest(self, name: str) -> int:
        """The newest complete version.

        Raises:
            NotFoundError: the model does not exist or has no complete version.
        """
        versions = self.versions(name)
        if versions:
            return versions[-1]
        problems = self.problems(name)
        if problems:
            details = "; ".join(f"version {version}: {problem}" for version, problem in problems.items())
            raise NotFoundError(f"Model {name!r} has no complete version. {details}")
        raise NotFoundError(f"There is no model {name!r} in {self.root}. {suggest(name, self.names())}")

    def path(self, name: str, version: int) -> Path:
        """The folder of a complete version.

        Raises:
            NotFoundError: there is no such version.
            ModelError: the version is half written or invalid.
        """
        for found, problem in self._examine(name):
            if found == version:
                if problem:
                    raise ModelError(f"Version {version} of model {name!r} cannot be used: {problem}")
                return self._folder(name) / str(version)
        self.latest(name)
        known = ", ".join(map(str, self.versions(name)))
        raise NotFoundError(f"Model {name!r} has no version {version}. Allowed: {known}.")

    def manifest(self, name: str, version: int, *, verify: bool = False) -> PackageManifest:
        """What a version is; with `verify` its files are read through and compared with their digests."""
        return read_package(self.path(name, version), verify=verify)

    def aliases(self, name: str) -> dict[str, int]:
        """Aliases of a model and the versions that they point to.

        Raises:
            ModelError: the file of aliases is none, or does not parse.
        """
        path = self._folder(name) / _ALIASES
        try:
            return msgspec.json.decode(_read_file(path), type=dict[_Alias, int])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ModelError(f"{path} cannot be read: {error}. Delete it and set the aliases again.") from error

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Let `alias` point to a complete version; readers see the old version or the new one.

        Raises:
            ModelError: the alias is not a name, or the version is invalid.
            NotFoundError: there is no such version.
        """
        check_alias(alias)
        self.path(name, version)
        folder = self._folder(name)
        with _locked(folder):
            aliases = self.aliases(name) | {alias: version}
            temporary = folder / f".{_ALIASES}-{secrets.token_hex(8)}"
            try:
                write_durably(temporary, (msgspec.json.encode(dict(sorted(aliases.items()))), b"\n"))
                temporary.rename(folder / _ALIASES)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        sync_folder(folder)

    def resolve(self, reference: str) -> tuple[str, int]:
        """Read `name`, `name:version` or `name:alias`; a name alone means its newest complete version.

        Raises:
            ModelError: the reference is malformed, or the version is invalid.
            NotFoundError: the model, the version or the alias does not exist.
        """
        name, separator, selector = reference.partition(":")
        if not separator:
            return name, self.latest(name)
        if _VERSION.fullmatch(selector):
            version = int(selector)
        else:
            self.latest(name)
            aliases = self.aliases(name)
            if selector not in aliases:
                known = f"{suggest(selector, aliases)} " if aliases else ""
                raise NotFoundError(
                    f"Model {name!r} has no alias {selector!r}. {known}"
                    f"'ganglion models alias {name}:VERSION {selector}' gives it to a version."
                )
            version = aliases[selector]
        self.path(name, version)
        return name, version

    def _folder(self, name: str) -> Path:
        check_name(name)
        folder = self.root / name
        if folder.is_symlink():
            raise ModelError(f"{folder} is a symbolic link; models have to lie in {self.root}.")
        return folder

    def _examine(self, name: str, known: Collection[int] = ()) -> list[tuple[int, str]]:
        """Every folder of a version, oldest first, with what is wrong with it; nothing is with those that are known."""
        folder = self._folder(name)
        if not folder.is_dir():
            return []
        numbers = sorted(int(path.name) for path in folder.iterdir() if _VERSION.fullmatch(path.name))
        return [(number, "" if number in known else _problem(folder / str(number))) for number in numbers]


_NAMING = "Names are letters, digits, '.', '_' and '-', begin with a letter or digit and have at most 128 characters."


def check_name(name: str) -> None:
    """Refuse what cannot be the name of a model.

    Raises:
        ModelError: it cannot.
    """
    if not _NAME.fullmatch(name):
        raise ModelError(f"{name!r} cannot be the name of a model. {_NAMING}")


def check_alias(alias: str) -> None:
    """Refuse what cannot be an alias.

    Raises:
        ModelError: it cannot.
    """
    if not _NAME.fullmatch(alias) or alias.isdigit():
        raise ModelError(f"{alias!r} cannot be an alias. {_NAMING} A number is a version.")


def _problem(folder: Path) -> str:
    if folder.is_symlink():
        return f"{folder} is a symbolic link; versions have to lie in the repository."
    try:
        read_package(folder, verify=False)
    except ModelError as error:
        return str(error)
    return ""


def _copy_package(source: Path, destination: Path) -> None:
    """Copy the files that a package describes, its description last."""
    try:
        listed = files_below(source)
    except DataError as error:
        raise ModelError(f"The model package {source} cannot be published: {error}") from error
    described = {*read_package(source, verify=False).files, MANIFEST}
    for path in sorted(described.intersection(listed), key=lambda path: path == MANIFEST):
        target = destination / path
        target.parent.mkdir(parents=True, exist_ok=True)
        copy_durably(source / path, target)
    sync_tree(destination)


def _place(folder: Path, incoming: Path) -> int:
    """Rename a complete copy to the next free version."""
    with _locked(folder):
        taken = [int(path.name) for path in folder.iterdir() if _VERSION.fullmatch(path.name)]
        version = max(taken, default=0) + 1
        incoming.rename(folder / str(version))
        return version


def _read_file(path: Path) -> bytes:
    """The content of a file that lies here and is small; a link, a pipe or a device could keep its reader for ever.

    Raises:
        OSError: it is none.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode) or about.st_size > _MOST_ALIASES:
            raise OSError(f"it is no file of at most {_MOST_ALIASES} bytes")
        return file.read(_MOST_ALIASES)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a model's folder; the kernel gives it up with the process."""
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
