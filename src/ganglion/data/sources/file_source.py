"""What sources over files have in common: which files there are, their division into units, their fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import msgspec

from ganglion.core.errors import DataError
from ganglion.data.files.access import DataFile, fingerprints, list_files
from ganglion.data.files.retry import Retry
from ganglion.data.records.schema import Field, Schema
from ganglion.data.records.unit import Unit
from ganglion.data.source import PlainSource, source_data

_NOT_CONTENT = {"paths", "retry"}  # where the files are, and how they are waited for, changes no record


class FileSource(PlainSource, frozen=True):
    """Records in files that all have the same fields; subclasses give `schema` and `read_unit`.

    Attributes:
        paths: of files, folders, or patterns, here or elsewhere, as for `list_files`; read in the order of their paths.
        retry: how long files elsewhere are waited for.
    """

    suffixes: ClassVar[tuple[str, ...]] = ()
    """Endings of the files that are taken from folders; empty for all."""

    paths: str | tuple[str, ...]
    retry: Retry = msgspec.field(default_factory=Retry)

    def files(self) -> tuple[DataFile, ...]:
        """The files that there are now, in the order in which they are read.

        Raises:
            DataError: a path matches nothing.
            OutageError: files are elsewhere, and away.
        """
        return list_files(self.paths, self.suffixes, retry=self.retry)

    def divide(self, file: DataFile) -> Iterable[Unit]:
        """The units of one file, in order, numbered anyhow and without fingerprints; one unit by default.

        Raises:
            DataError: the file is not what it should be.
        """
        return (Unit(number=0, name=file.path, path=file.path, stop=file.size, size=file.size),)

    def units(self) -> Sequence[Unit]:
        """The units of all files, in the order of the files.

        Raises:
            DataError: a file is missing, or is not what it should be.
        """
        files = self.files()
        with ThreadPoolExecutor(1, thread_name_prefix="fingerprints") as executor:
            digests = executor.submit(fingerprints, files)
            divided = [tuple(self.divide(file)) for file in files]  # meanwhile, since it may take as long
        found: list[Unit] = []
        for units, fingerprint in zip(divided, digests.result(), strict=True):
            for unit in units:
                found.append(msgspec.structs.replace(unit, number=len(found), fingerprint=fingerprint))
        return tuple(found)

    def fingerprint(self) -> str:
        """Digest of the options and of the contents of the files, in order; their places do not matter."""
        digest = hashlib.sha256(options_of(self))
        for file in fingerprints(self.files()):
            digest.update(file.encode())
        return f"sha256:{digest.hexdigest()}"


def options_of(source: FileSource) -> bytes:
    """What a source's records depend on besides its files, as bytes to digest."""
    options = {name: value for name, value in source_data(source).items() if name not in _NOT_CONTENT}
    return msgspec.json.encode(options, order="deterministic")


def select(known: Schema, wanted: Schema, place: str) -> Schema:
    """The fields to read, where a person may have said which.

    Args:
        known: those that there are.
        wanted: those asked for, in order; empty for all.
        place: the file, for messages.

    Raises:
        DataError: a field that was asked for is not there.
    """
    names = [field.name for field in known]
    for field in wanted:
        if field.name not in names:
            raise DataError(f"{place} has no field {field.name!r}; it has {', '.join(names) or 'none'}.")
    return wanted or known


def check_required(schema: Schema, required: Sequence[str]) -> None:
    """See that the fields in which a missing value makes a record bad exist.

    Raises:
        DataError: one does not.
    """
    names = [field.name for field in schema]
    for name in required:
        if name not in names:
            raise DataError(f"The field {name!r} is required; there are {', '.join(names) or 'none'}.")


def plain_field(field: Field) -> Field:
    """The field itself, if it can be read from a value in a text file.

    Raises:
        DataError: it holds arrays or sequences.
    """
    if field.shape or field.sequence:
        raise DataError(f"The field {field} was asked for; a value in a line of text is one number or one text.")
    return field
