"""The quarantine of a dataset, or of a preparation that gave up: what was set aside, where, and why."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from ganglion.cli.data_dataset import record_text
from ganglion.cli.output import make_table
from ganglion.core.errors import DataError

if TYPE_CHECKING:
    from ganglion.data.records.bad_record import BadRecord

LISTED = 20
"""Records that are listed one by one for people; `--json` lists all."""

_LINE, _LINES = 16, 16


def records_in(path: Path) -> Iterator[BadRecord]:
    """The bad records that a preparation has left in a file or in a folder of such files.

    Raises:
        DataError: there is no such file, or it does not list bad records.
    """
    from ganglion.data.dataset.quarantine import read_quarantine

    files = [path] if path.is_file() else sorted(path.glob("*.jsonl"))
    if not files:
        raise DataError(f"{path} has no lists of bad records (*.jsonl).")
    for file in files:
        yield from read_quarantine(file)


def describe_quarantine(records: list[BadRecord], *, payloads: int) -> dict[str, Any]:
    """Bad records as plain data: counted by source and reason, and one by one.

    Args:
        records: all of them.
        payloads: how many are given with their bytes, in Base64.
    """
    from ganglion.data.dataset.quarantine import count_bad

    counts = [
        {"source": count.source, "stage": count.stage, "reason": count.reason, "count": count.count}
        for count in count_bad(records)
    ]
    described = []
    for number, record in enumerate(records):
        one: dict[str, Any] = {
            "id": record.id,
            "source": record.source,
            "path": record.path,
            "offset": record.offset if record.offset >= 0 else None,
            "stage": record.stage,
            "reason": record.reason,
            "digest": record.digest,
        }
        if number < payloads:
            one["payload"] = base64.b64encode(record.payload).decode("ascii")
        described.append(one)
    return {"count": len(records), "kinds": counts, "records": described}


def print_quarantine(records: list[BadRecord], out: Console, *, payloads: int) -> None:
    """Show bad records: by source and reason, then one by one, some with their bytes."""
    if not records:
        out.print("Nothing was set aside.")
        return
    from ganglion.data.dataset.quarantine import count_bad

    table = make_table(">count", "source", "stage", "reason", title=f"{len(records):,} records set aside")
    for count in count_bad(records):
        table.add_row(f"{count.count:,}", escape(count.source), escape(count.stage), escape(count.reason))
    out.print(table)
    listed = make_table(">unit:record", "source", ">byte", "stage", "reason", title="\nOne by one")
    shown = max(LISTED, payloads)
    for record in islice(records, shown):
        offset = f"{record.offset:,}" if record.offset >= 0 else ""
        listed.add_row(
            record_text(record.id),
            escape(record.path or record.source),
            offset,
            escape(record.stage),
            escape(record.reason),
        )
    out.print(listed)
    if len(records) > shown:
        out.print(f"... and {len(records) - shown:,} more; --json lists all.")
    for record in islice(records, payloads):
        size = f"{len(record.payload):,} bytes" if record.payload else "no bytes were kept"
        out.print(
            f"\n[bold]record {record_text(record.id)}[/]  {escape(record.reason)}  [dim]{size}[/]", soft_wrap=True
        )
        for line in _payload_lines(record.payload):
            out.print(f"  {escape(line)}", soft_wrap=True)


def _payload_lines(payload: bytes) -> list[str]:
    """The beginning of some bytes for people: text as it is, other bytes as hexadecimal digits beside characters."""
    try:
        text = payload[: _LINE * _LINES * 4].decode()
    except UnicodeDecodeError:
        text = "\0"
    if text.isprintable() or all(character.isprintable() or character in "\t\r\n" for character in text):
        return text.splitlines()[:_LINES]
    lines = []
    for start in range(0, min(len(payload), _LINE * _LINES), _LINE):
        part = payload[start : start + _LINE]
        characters = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        lines.append(f"{start:08x}  {part.hex(' '):<{3 * _LINE}} {characters}")
    return lines
