"""Folders as values: what lies in one, and the JSON blob that stands for it in a store.

The blob depends on relative paths and contents alone, so that equal folders have equal digests.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from ganglion.artifacts.files import path_clash, path_problem
from ganglion.core.errors import DataError, UserError

FORMAT = 1

PREFIX = b'{"ganglion_tree":'
"""What the blob of every tree begins with."""


class TreeFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of a tree.

    Attributes:
        path: relative to the folder, parts joined by `/`.
        digest: of its content.
        size: in bytes.
    """

    path: str
    digest: str
    size: int


class Tree(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the blob of a tree holds.

    Attributes:
        ganglion_tree: version of this form; the first key, by which a tree is told from other blobs.
        files: in order of path.
    """

    ganglion_tree: int = FORMAT
    files: tuple[TreeFile, ...]


def encode_tree(tree: Tree) -> bytes:
    """The blob of a tree; equal trees give equal bytes."""
    return msgspec.json.encode(tree)


def decode_tree(data: bytes) -> Tree | None:
    """The tree that a blob stands for; `None` for a blob that stands for itself.

    Raises:
        UserError: the tree is of a newer form, or cannot be laid out in a folder: a path leaves it, comes twice, or
            is both a file and a folder.
    """
    try:
        tree = msgspec.json.decode(data, type=Tree)
    except msgspec.DecodeError:
        return None
    if tree.ganglion_tree != FORMAT:
        raise UserError(f"A stored folder has the form {tree.ganglion_tree}; this version reads form {FORMAT}.")
    paths = [file.path for file in tree.files]
    for path in paths:
        if problem := path_problem(path):
            raise UserError(f"A stored folder lists the path {path!r}, which is refused: {problem}.")
    if clash := path_clash(paths):
        raise UserError(f"A stored folder lists {clash!r} both as a file and as a folder.")
    if len(set(paths)) != len(paths):
        raise UserError("A stored folder lists a path twice.")
    return tree


def files_below(folder: Path) -> list[str]:
    """Relative paths of the regular files in `folder` and below, sorted.

    Raises:
        DataError: `folder` is not a folder, or holds something else than folders and regular files (a symbolic link,
            a socket) or a name that is not Unicode.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} cannot be stored: it is {what_is(folder)}, not a folder.")
    found = []
    for parent, folders, names in os.walk(folder):
        for path in (Path(parent, name) for name in folders + names):
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise DataError(f"{path} cannot be stored: it is {what_is(path)}; only folders and files can be kept.")
            if path.is_file():
                found.append(_relative(path, folder))
    return sorted(found)


def what_is(path: Path) -> str:
    """Say for an error message what lies at `path`."""
    if path.is_symlink():
        return "a symbolic link"
    if not path.exists():
        return "missing"
    return "a folder" if path.is_dir() else "a file" if path.is_file() else "a special file"


def _relative(path: Path, folder: Path) -> str:
    relative = path.relative_to(folder).as_posix()
    try:
        relative.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{relative!r} in {folder} cannot be stored: its name is not Unicode.") from error
    return relative
