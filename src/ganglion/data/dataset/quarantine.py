"""Quarantine: the bad records of a dataset, kept as lines of JSON, counted, and judged by a threshold."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from ganglion.core.errors import DataError
from ganglion.data.dataset.manifest import BadCount
from ganglion.data.records.bad_record import BadRecord

MAX_BAD = 0.01
"""Bad records that are tolerated where nothing else is said: one in a hundred."""

PAYLOADS = 64 * 2**20
"""Bytes of payload that one file of bad records keeps; further records are listed without theirs."""

_KINDS = 100
_NUMBER = re.compile(r"\b0x[0-9a-f]+|(?<!\w)[+-]?\d+(?:[.,]\d+)*(?:e[+-]?\d+)?", re.IGNORECASE)
_LONGEST = 300

MaxBad = int | float
"""How many bad records are tolerated: a count, or, as a float from 0 to 1, a share of the records that were read."""


def check_max_bad(max_bad: MaxBad) -> MaxBad:
    """Return a threshold that can be used.

    Raises:
        DataError: it is neither a count nor a share.
    """
    if max_bad < 0 or isinstance(max_bad, bool) or (isinstance(max_bad, float) and not max_bad <= 1):
        raise DataError(f"max_bad is {max_bad!r}; give a count such as 100, or a share from 0.0 to 1.0.")
    return max_bad


def too_many(bad: int, read: int, max_bad: MaxBad) -> bool:
    """Whether `bad` of `read` records are more than is tolerated."""
    return bad > (max_bad * read if isinstance(max_bad, float) else max_bad)


class QuarantineWriter:
    """Writes bad records to a file, one line of JSON each, payloads in Base64; each line is readable at once.

    Attributes:
        count: records written.

    Args:
        path: the file; created with the first record, replacing one that is there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._room = PAYLOADS
        self.count = 0
        path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.count:
            self._file.close()

    def write(self, record: BadRecord) -> None:
        """Append a record."""
        if self.count == 0:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("wb", buffering=0)
        if len(record.payload) > self._room:
            record = msgspec.structs.replace(record, payload=b"")
        self._room -= len(record.payload)
        self.count += 1
        self._file.write(msgspec.json.encode(record) + b"\n")


def read_quarantine(path: Path) -> Iterator[BadRecord]:
    """The bad records in a file, in order.

    Raises:
        DataError: a line is not a bad record.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield msgspec.json.decode(line, type=BadRecord)
            except msgspec.DecodeError as error:
                raise DataError(f"{path}, line {number} is not a bad record: {error}.") from error


def count_bad(records: Iterable[BadRecord]) -> tuple[BadCount, ...]:
    """Count bad records by source and reason, the most frequent first; at most 100 kinds, the others joined."""
    counts = Counter(
        (record.path or record.source, record.stage, _NUMBER.sub("#", record.reason)[:_LONGEST]) for record in records
    )
    return _limited(counts)


def add_counts(counts: Iterable[BadCount]) -> tuple[BadCount, ...]:
    """Join counts of several files of bad records."""
    total: Counter[tuple[str, str, str]] = Counter()
    for count in counts:
        total[count.source, count.stage, count.reason] += count.count
    return _limited(total)


def explain(bad: int, read: int, max_bad: MaxBad, counts: Sequence[BadCount], first: Sequence[BadRecord]) -> str:
    """Say why there are too many bad records: how many, of which kinds, and the first few."""
    allowed = f"{max_bad:.3%} of them" if isinstance(max_bad, float) else f"{max_bad}"
    reasons = Counter[str]()
    for count in counts:
        reasons[f"{count.stage}: {count.reason}"] += count.count
    kinds = "; ".join(f"{number} x {reason}" for reason, number in reasons.most_common(5))
    examples = "".join(f"\n  {record}" for record in first)
    return (
        f"{bad} of {read} records are bad, and max_bad tolerates {allowed}. Reasons: {kinds}. The first:{examples}\n"
        "Mend the source, or give a larger max_bad."
    )


def _limited(counts: Counter[tuple[str, str, str]]) -> tuple[BadCount, ...]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    kept = [BadCount(*key, count) for key, count in ordered[:_KINDS]]
    rest = sum(count for _, count in ordered[_KINDS:])
    return (*kept, BadCount("", "", "other reasons", rest)) if rest else tuple(kept)
