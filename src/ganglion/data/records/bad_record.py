"""Records that cannot be used: what is known of them, and how many are too many."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Self

import msgspec

from ganglion.core.errors import DataError
from ganglion.data.records.unit import Unit

PAYLOAD = 2**20
"""Bytes that are kept of a bad record, at most; its digest is of all of them."""


class BadRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One record that was set aside.

    Attributes:
        id: of the record.
        source: for people: where it comes from, such as the name of its unit.
        path: of the file; empty where there is none.
        offset: of its first byte in that file (in the uncompressed bytes of a compressed one); -1 where not known.
        stage: what it did not survive: `read`, or the name of a transform.
        reason: what is wrong, for people.
        digest: SHA-256 of its bytes, 64 hexadecimal digits; empty where there are none.
        payload: its bytes as they were read, cut off after `PAYLOAD`.
    """

    id: int
    source: str
    path: str = ""
    offset: int = -1
    stage: str
    reason: str
    digest: str = ""
    payload: bytes = b""

    @classmethod
    def at(
        cls, unit: Unit, record: int, reason: str, *, offset: int = -1, payload: bytes = b"", stage: str = "read"
    ) -> Self:
        """A bad record of a unit.

        Args:
            unit: where it was found.
            record: its number in the unit, from 0, counting good and bad ones.
            reason: what is wrong.
            offset: of its first byte in the file.
            payload: its bytes.
            stage: what it did not survive.
        """
        return cls(
            id=unit.id(record),
            source=unit.name,
            path=unit.path,
            offset=offset,
            stage=stage,
            reason=reason,
            digest=hashlib.sha256(payload).hexdigest() if payload else "",
            payload=payload[:PAYLOAD],
        )

    def __str__(self) -> str:
        place = f"{self.source}, byte {self.offset}" if self.offset >= 0 else self.source
        return f"{place}: {self.stage}: {self.reason}"


SetAside = Callable[[BadRecord], None]
"""Takes bad records, one after the other, from whoever finds them; raises `DataError` where that is one too many."""


def refuse(record: BadRecord) -> None:
    """A `SetAside` that accepts none.

    Raises:
        DataError: always; the message says what is wrong with the record.
    """
    raise DataError(f"{record}. Let bad records be set aside, or mend the source.")
