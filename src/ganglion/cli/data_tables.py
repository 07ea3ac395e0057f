"""Tables of what was found of a source or a prepared dataset: for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape

from ganglion.cli.data_dataset import counted, source_text
from ganglion.cli.data_prepare import accounting_text
from ganglion.cli.output import make_table
from ganglion.core.resources import format_size

UNITS = 10
"""Units of a source that are listed, at most."""


def print_source(described: dict[str, Any], out: Console) -> None:
    """Show what was found of a source."""
    units = described["units"]
    bad = f", {described['set_aside']:,} set aside" if described["set_aside"] else ""
    _print_lines(
        source_text(described["source"]),
        (
            ("records", f"{described['count']:,}{bad}"),
            ("size", f"{format_size(described['size'])} in {counted(len(units), 'unit')}"),
            *(("", escape(unit["name"])) for unit in units[:UNITS] if len(units) > 1),
            ("", f"... and {len(units) - UNITS} more" if len(units) > UNITS else ""),
        ),
        out,
    )
    for record in described["bad"][:5]:
        place = f", byte {record['offset']:,}" if record["offset"] is not None else ""
        out.print(f"  [red]set aside[/] {escape(record['source'])}{place}: {escape(record['reason'])}", soft_wrap=True)
    _print_seen(described, out)


def print_dataset(described: dict[str, Any], out: Console) -> None:
    """Show what was found of a prepared dataset."""
    generations = described["generations"]
    _print_lines(
        described["dataset"],
        (
            ("records", f"{described['count']:,}"),
            ("of", accounting_text(described)),
            ("generations", ", ".join(f"{end:,}" for end in generations) if len(generations) > 1 else ""),
            ("size", f"{format_size(described['size'])} in {counted(described['segments'], 'segment')}"),
            ("source", escape(source_text(described["source"]))),
        ),
        out,
    )
    _print_seen(described, out)
    if described.get("shards"):
        table = make_table(">worker", ">share", ">records", ">of its share", title="\nShards")
        for worker, shard in enumerate(described["shards"]):
            table.add_row(str(worker), f"{shard['share']:.1%}", f"{shard['records']:,}", f"{shard['of_its_share']:.2%}")
        out.print(table)


def _print_lines(title: str, lines: Sequence[tuple[str, str]], out: Console) -> None:
    out.print(f"[bold]{escape(title)}[/]", soft_wrap=True)
    table = make_table("", "")
    table.show_header = False
    for name, text in lines:
        if text:
            table.add_row(f"[dim]{name}[/]", text)
    out.print(table)


def _print_seen(described: dict[str, Any], out: Console) -> None:
    names = [field["name"] for field in described["schema"]]
    columns = {column["name"]: column for column in described["statistics"]}
    table = make_table(
        "field", "type", ">mean", ">std", ">min", ">max", ">missing", ">distinct", "most frequent", title="\nFields"
    )
    for field in described["schema"]:
        table.add_row(escape(field["name"]), _type_text(field), *_column_texts(columns[field["name"]]))
    out.print(table)
    if described["sample_texts"]:
        sample = make_table(
            ">unit:record" if "units" in described else ">record", *map(escape, names), title="\nSample"
        )
        for row in described["sample_texts"]:
            sample.add_row(*map(escape, row))
        out.print(sample)
    if sheet := described["contact_sheet"]:
        out.print(
            f"\n{sheet['images']} images of {escape(sheet['field'])} in {escape(sheet['file'])} "
            f"({sheet['width']}x{sheet['height']} pixels)",
            soft_wrap=True,
        )


def _type_text(field: Mapping[str, Any]) -> str:
    shape = "..." if field["sequence"] else "x".join(map(str, field["shape"]))
    return f"{field['dtype']} {shape}".rstrip()


def _column_texts(column: Mapping[str, Any]) -> tuple[str, ...]:
    moments = [column[name] for name in ("mean", "std", "min", "max")]
    texts = [f"{value:.5g}" if isinstance(value, float) else "" if value is None else str(value) for value in moments]
    if column["lengths"] and column["mean"] is None:
        lengths = column["lengths"]
        texts = [f"length {lengths['mean']:.1f}", "", str(lengths["min"]), str(lengths["max"])]
    missing = f"{column['missing']:,}" if column["missing"] else ""
    if column["infinite"]:
        missing = f"{missing or 0} ({column['infinite']:,} infinite)"
    distinct = "" if column["distinct"] is None else f"{column['distinct']:,}"
    if column["distinct_is_exact"] is False:
        distinct = f"over {distinct}"
    frequent = "  ".join(
        f"{str(one['value'])[:16]} ({one['count']:,})" for one in column["most_frequent"][:3] if one["count"] > 1
    )
    return (*texts, missing, distinct, escape(frequent))
