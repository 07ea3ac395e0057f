"""What there is to see of a source or a prepared dataset: fields, counts, a sample, statistics, a contact sheet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ganglion.cli.data_dataset import describe_dataset, describe_schema, record_text
from ganglion.core.errors import ConfigurationError, UserError

if TYPE_CHECKING:
    from ganglion.cli.data_sample import Look
    from ganglion.data import PlainSource, PreparedDataset
    from ganglion.data.records.batch import Batch
    from ganglion.data.records.schema import Schema
    from ganglion.data.statistics import ColumnStatistics, Statistics

SHEET = 100
"""Images of a contact sheet."""

_WORDS = 10


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be looked at.

    Attributes:
        sample: records to show.
        sheet: file for a contact sheet.
        shards: shares of the workers that a dataset would be divided among.
        hash_key: column by which it would be divided.
    """

    sample: int = 5
    sheet: Path | None = None
    shards: tuple[float, ...] = ()
    hash_key: str | None = None

    @property
    def drawn(self) -> int:
        """Records that are needed in all."""
        return max(self.sample, SHEET if self.sheet else 0, 1)


def parse_shards(text: str) -> tuple[float, ...]:
    """Read `4` as four equal workers, `2,1,1` as the shares of three.

    Raises:
        ConfigurationError: it is neither.
    """
    try:
        shares = tuple(float(part) for part in text.split(","))
    except ValueError:
        shares = ()
    if len(shares) == 1 and shares[0] == int(shares[0]) and 1 <= shares[0] <= 2**16:
        return (1.0,) * int(shares[0])
    if len(shares) > 1 and min(shares) > 0:
        return shares
    raise ConfigurationError(f"--shards {text!r} is neither a number of workers such as 4 nor shares such as 2,1,1.")


def inspect_source(source: PlainSource, wish: Wish, tell: Callable[[Look, int], None]) -> dict[str, Any]:
    """Read a source through and describe it, as plain data.

    Args:
        source: the source.
        wish: what is wanted.
        tell: told now and then what was read, and of how many records if that is known.

    Raises:
        UserError: shards were asked for, or a contact sheet of what has no images.
    """
    from ganglion.cli.data_sample import Look, WatchedSource
    from ganglion.data.preparation.identity import describe_source
    from ganglion.data.statistics import source_statistics

    if wish.shards or wish.hash_key:
        raise UserError("--shards and --hash-key are for prepared datasets; make one with ganglion data prepare.")
    with source.snapshot() as snapshot:
        units = snapshot.units()
        known = sum(unit.records or 0 for unit in units)
        look = Look(wish.drawn, lambda look: tell(look, known))
        found = source_statistics(WatchedSource(source=snapshot, watch=look.take), set_aside=look.refuse)
    drawn = look.sampler.records(wish.drawn)
    return {
        "source": describe_source(source),
        "count": look.records,
        "set_aside": look.set_aside,
        "size": sum(unit.size for unit in units),
        "schema": describe_schema(source.schema),
        "units": [
            {"name": unit.name, "size": unit.size, "records": unit.records, "start": unit.start, "stop": unit.stop}
            for unit in units
        ],
        "bad": [_bad(record) for record in look.bad],
        **_seen(
            wish, source.schema, drawn, look.sampler.records(wish.sample), found, _class_names(source), record_text
        ),
    }


def inspect_dataset(dataset: PreparedDataset, wish: Wish) -> dict[str, Any]:
    """Describe a prepared dataset, as plain data.

    Raises:
        UserError: there is no such column, or a contact sheet was asked for of what has no images.
    """
    import numpy as np

    from ganglion.data.parts.part import whole
    from ganglion.data.records.batch import Batch
    from ganglion.data.statistics import statistics_of

    def draw(count: int) -> Batch:
        places = np.unique(np.linspace(0, dataset.count - 1, min(count, dataset.count)).astype(np.int64))
        return Batch(dataset.take(places), places)

    shards = {"shards": _shards(dataset, wish)} if wish.shards or wish.hash_key else {}
    found = statistics_of(dataset, whole(dataset.generations))
    return {
        **describe_dataset(dataset),
        **shards,
        **_seen(wish, dataset.schema, draw(wish.drawn), draw(wish.sample), found, (), str),
    }


def _seen(
    wish: Wish,
    schema: Schema,
    drawn: Batch | None,
    sample: Batch | None,
    statistics: Statistics,
    classes: Sequence[str],
    name_of: Callable[[int], str],
) -> dict[str, Any]:
    """Sample, statistics and contact sheet; `name_of` writes the id of a record for people."""
    from ganglion.cli.data_sample import plain_value, value_text
    from ganglion.data.records.single import records_from

    fields = {field.name: field for field in schema}
    records = [] if sample is None else list(zip(sample.ids.tolist(), records_from(sample.columns), strict=True))
    found: dict[str, Any] = {
        "sample": [
            {"record": number, "values": {name: plain_value(value) for name, value in record.items()}}
            for number, record in records[: wish.sample]
        ],
        "sample_texts": [
            [name_of(number), *(value_text(fields[name], record[name]) for name in fields)]
            for number, record in records[: wish.sample]
        ],
        "statistics": [describe_column(name, column) for name, column in statistics.columns.items()],
        "contact_sheet": None,
    }
    if wish.sheet is not None:
        found["contact_sheet"] = write_sheet(wish.sheet, schema, drawn, classes)
    return found


def describe_column(name: str, column: ColumnStatistics) -> dict[str, Any]:
    """Statistics of a column as plain data; what it cannot have is `None`."""
    values, lengths = column.values, column.lengths
    numbers = values.count > 0
    counted = bool(column.vocabulary)
    return {
        "name": name,
        "count": values.count if numbers else lengths.count,
        "missing": column.missing,
        "infinite": column.infinite,
        "mean": values.mean if numbers else None,
        "std": values.deviation if numbers else None,
        "min": values.minimum if numbers else None,
        "max": values.maximum if numbers else None,
        "channels": [{"mean": one.mean, "std": one.deviation} for one in column.channels],
        "lengths": {"mean": lengths.mean, "min": lengths.minimum, "max": lengths.maximum} if lengths.count else None,
        "distinct": len(column.vocabulary) if counted else None,
        "distinct_is_exact": column.undercount == 0 if counted else None,
        "most_frequent": [{"value": value, "count": count} for value, count in column.vocabulary[:_WORDS]],
    }


def write_sheet(file: Path, schema: Schema, drawn: Batch | None, classes: Sequence[str]) -> dict[str, Any]:
    """Write the contact sheet of some records as a PNG file; captions are labels, if there are any.

    Raises:
        UserError: they have no images, or the file cannot be written.
    """
    from ganglion.data.contact_sheet import contact_sheet, find_images, images_of

    if drawn is None:
        raise UserError("There is no record, and so no image for a contact sheet.")
    field = find_images(schema, drawn.columns)
    images = images_of(drawn.columns[field.name])
    page = contact_sheet(images, _captions(schema, drawn.columns, classes))
    try:
        page.save(file, "PNG")
    except OSError as error:
        raise UserError(f"The contact sheet cannot be written to {file}: {error.strerror}.") from error
    return {"file": str(file), "field": field.name, "images": len(images), "width": page.width, "height": page.height}


def check_sheet(file: Path) -> Path:
    """A place that a PNG file can be written to.

    Raises:
        ConfigurationError: its name has another ending, or its folder does not exist.
    """
    if file.suffix.lower() != ".png":
        raise ConfigurationError(f"--contact-sheet {file}: a PNG file is written; give a name that ends in .png.")
    if not file.parent.is_dir():
        raise ConfigurationError(f"--contact-sheet {file}: there is no folder {file.parent}; make it first.")
    return file


def _captions(schema: Schema, columns: Mapping[str, Any], classes: Sequence[str]) -> list[str]:
    """Labels of records: of the field `label`, or of none."""
    label = next((field for field in schema if field.name in ("label", "class", "caption") and not field.shape), None)
    if label is None or label.sequence:
        return []
    values = columns[label.name]
    listed = values.tolist() if hasattr(values, "tolist") else values.to_pylist()
    return [classes[value] if isinstance(value, int) and 0 <= value < len(classes) else str(value) for value in listed]


def _class_names(source: Any) -> Sequence[str]:
    """Names of the numbers of classes, where a source knows them."""
    while hasattr(source, "source"):
        source = source.source
    return source.class_names() if hasattr(source, "class_names") else ()


def _bad(record: Any) -> dict[str, Any]:
    return {
        "source": record.path or record.source,
        "offset": record.offset if record.offset >= 0 else None,
        "stage": record.stage,
        "reason": record.reason,
    }


def _shards(dataset: PreparedDataset, wish: Wish) -> list[dict[str, Any]]:
    """How many records workers of given shares would get."""
    shares = wish.shards or (1.0, 1.0)
    if wish.hash_key:
        counts = [len(records) for records in dataset.shards_by_key(wish.hash_key, shares)]
    else:
        counts = [shard.count for shard in dataset.shards(shares)]
    whole = sum(shares)
    return [
        {
            "share": share / whole,
            "records": count,
            "of_its_share": count / (dataset.count * share / whole),
        }
        for share, count in zip(shares, counts, strict=True)
    ]
