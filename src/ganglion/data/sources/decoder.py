"""Files in a format of the user's own: a function decodes them."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import Any, BinaryIO

import msgspec
import numpy as np

from ganglion.core.errors import DataError, OutageError
from ganglion.core.registry import load_object
from ganglion.data.files.access import open_file
from ganglion.data.files.compression import TruncatedError, is_empty
from ganglion.data.records.bad_record import BadRecord, SetAside
from ganglion.data.records.batch import Batch
from ganglion.data.records.columns import Columns, records_of
from ganglion.data.records.schema import Schema
from ganglion.data.records.unit import Unit
from ganglion.data.records.values import checked_columns, checked_record, columns_from
from ganglion.data.sources.file_source import FileSource


class Unusable(msgspec.Struct, frozen=True, kw_only=True):
    """What a decoder yields in place of a record that it cannot decode.

    Attributes:
        reason: what is wrong, for people.
        offset: of the record's first byte in the file; -1 where not known.
        payload: its bytes.
    """

    reason: str
    offset: int = -1
    payload: bytes = b""


class DecodedSource(FileSource, frozen=True, kw_only=True, tag="ganglion.data.sources.decoder:DecodedSource"):
    """Records that a function of the user's finds in files; each file is one unit.

    The function is called with an open file (decompressed where it is compressed), its `Unit`, and the options as named
    arguments. It returns an iterator of records: mappings from the names of fields to values, or with `batches` from
    names to arrays of several records. A record that does not have the fields is set aside; so is what it yields as
    `Unusable`, and, where it raises, the rest of the file.

    Attributes:
        decoder: the function, or its import path, `module:function`.
        fields: of every record.
        options: plain data that the function gets besides.
        batches: whether it yields several records at once.
        version: say another one where records change though neither the text of the function nor options do.

    Raises:
        DataError: there is no field, or the function has no import path.
    """

    decoder: Any
    fields: Schema
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    batches: bool = False
    version: str = ""

    def __post_init__(self) -> None:
        if not self.fields:
            raise DataError("A decoder yields records of stated fields; give them as `fields`.")
        if callable(self.decoder):
            function = self.decoder
            path = f"{function.__module__}:{function.__qualname__}"
            if "<" in path or function.__module__ == "__main__":
                raise DataError(f"The decoder {path} cannot be imported elsewhere; put it at the top of a module.")
            msgspec.structs.force_setattr(self, "decoder", path)

    @property
    def schema(self) -> Schema:
        """The fields of every record."""
        return self.fields

    def read_unit(self, unit: Unit, size: int, set_aside: SetAside) -> Iterator[Batch]:
        """The records of one file, in order."""
        waiting: list[list[Any]] = []
        ids: list[int] = []
        taken = 0
        with closing(open_file(unit.path, decompress=True, retry=self.retry)) as file:
            if is_empty(file):
                set_aside(BadRecord.at(unit, 0, "the file is empty", offset=0))
                return
            for number, found in self._decoded(file, unit):
                if isinstance(found, BadRecord):
                    set_aside(found)
                elif isinstance(found, dict):
                    yield from Batch(found, unit.ids(number, number + records_of(found))).pieces(size)
                else:
                    waiting.append(found)
                    ids.append(unit.id(number))
                    taken += sum(value.nbytes if isinstance(value, np.ndarray) else len(value) for value in found)
                    if taken >= size:
                        yield Batch(columns_from(self.fields, waiting), np.array(ids))
                        waiting, ids, taken = [], [], 0
        if waiting:
            yield Batch(columns_from(self.fields, waiting), np.array(ids))

    def fingerprint(self) -> str:
        """Digest of the options, the files, and the text of the function; what the function calls is not seen."""
        try:
            text = inspect.getsource(self._function())
        except (OSError, TypeError):  # a function without a text, such as one in C
            text = ""
        return f"sha256:{hashlib.sha256(f'{super().fingerprint()}{text}'.encode()).hexdigest()}"

    def _decoded(self, file: BinaryIO, unit: Unit) -> Iterator[tuple[int, list[Any] | Columns | BadRecord]]:
        """The values of records, batches, or bad records, with the number of the (first) record."""
        number = 0
        try:
            for found in self._function()(file, unit, **self.options):
                result = self._checked(unit, number, found)
                yield number, result
                number += records_of(result) if isinstance(result, dict) else 1
        except (OutageError, GeneratorExit):
            raise
        except TruncatedError as error:
            yield number, BadRecord.at(unit, number, f"the rest of the file: {error}")
        except Exception as error:  # noqa: BLE001  # a decoder is a stranger's code
            reason = f"the rest of the file: the decoder raised {type(error).__name__}: {error}"
            yield number, BadRecord.at(unit, number, reason)

    def _checked(self, unit: Unit, number: int, found: Any) -> list[Any] | Columns | BadRecord:
        if isinstance(found, Unusable):
            return BadRecord.at(unit, number, found.reason, offset=found.offset, payload=found.payload)
        try:
            return checked_columns(self.fields, found) if self.batches else checked_record(self.fields, found)
        except DataError as error:
            return BadRecord.at(unit, number, f"the decoder's {'batch' if self.batches else 'record'}: {error}")

    def _function(self) -> Callable[..., Iterable[Any]]:
        function: Callable[..., Iterable[Any]] = load_object(self.decoder)
        if not callable(function):
            raise DataError(f"{self.decoder} is not a function that decodes files.")
        return function
