"""From the path of some data to the source that reads it, by the endings of names."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import msgspec

from ganglion.core.errors import DataError, suggest
from ganglion.core.registry import load_object
from ganglion.data.files.access import list_files
from ganglion.data.files.retry import Retry
from ganglion.data.source import PlainSource

_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".pbm", ".tif", ".tiff", ".webp")
_SOURCES = {
    "csv": ("ganglion.data.sources.csv:CsvSource", (".csv", ".tsv")),
    "json lines": ("ganglion.data.sources.json_lines:JsonLinesSource", (".jsonl", ".ndjson")),
    "text": ("ganglion.data.sources.text:TextSource", (".txt",)),
    "parquet": ("ganglion.data.sources.parquet:ParquetSource", (".parquet", ".pq")),
    "arrow": ("ganglion.data.sources.arrow:ArrowSource", (".arrow", ".feather", ".arrows", ".ipc")),
    "tfrecord": ("ganglion.data.sources.tfrecord:TFRecordSource", (".tfrecord", ".tfrecords")),
    "images": ("ganglion.data.sources.images:ImageFolderSource", _IMAGES),
    "fixed length": ("ganglion.data.sources.fixed_length:FixedLengthSource", (".bin",)),
    "idx": ("ganglion.data.sources.idx:IdxSource", ("-ubyte", ".idx")),
}


def open_source(paths: str | tuple[str, ...], *, format: str | None = None, **options: Any) -> PlainSource:
    """The source for files, folders or patterns, here or elsewhere.

    Args:
        paths: as for `list_files`; of IDX, the two files of images and labels, or the folder that has them.
        format: one of `csv`, `json lines`, `text`, `parquet`, `arrow`, `tfrecord`, `images`, `fixed length` and `idx`;
            `None` goes by the endings of the files' names.
        options: those of the source's class.

    Raises:
        DataError: the files are of no format that is known, or of several; or the class does not have such an option.
        OutageError: they are elsewhere, and away.
    """
    given = (paths,) if isinstance(paths, str) else tuple(paths)
    if format is not None and format not in _SOURCES:
        raise DataError(f"The format {format!r} is unknown. {suggest(format, _SOURCES)}")
    if format is None or format == "idx":
        names = [file.path for file in list_files(given, retry=options.get("retry", Retry()))]
        format = format or _format_of(names, ", ".join(given))
        if format == "idx":
            return _make(format, {**_pair(names), **options})
    if format == "csv" and all(_ending(path) == ".tsv" for path in given):
        options = {"delimiter": "\t", **options}
    return _make(format, {"paths": paths if isinstance(paths, str) else given, **options})


def _format_of(names: list[str], given: str) -> str:
    found = {_known(name) for name in names}
    formats = found - {None}
    if len(formats) == 1:
        return str(formats.pop())
    known = "; ".join(f"{name}: {', '.join(endings)}" for name, (_, endings) in _SOURCES.items())
    if not formats:
        endings = ", ".join(sorted({_ending(name) or "no ending" for name in names})[:8])
        raise DataError(
            f"{given}: files of no known format ({endings}). Known are {known}; each may also be compressed. Say which "
            "`format` it is, or read it with a decoder of your own."
        )
    raise DataError(f"{given}: files of several formats ({', '.join(sorted(map(str, formats)))}). Say which to read.")


def _known(name: str) -> str | None:
    ending = _ending(name)
    for format, (_, endings) in _SOURCES.items():
        if ending in endings or (format == "idx" and name.removesuffix(".gz").endswith("-ubyte")):
            return format
    return None


def _ending(path: str) -> str:
    name = PurePosixPath(path.lower())
    return PurePosixPath(name.stem).suffix if name.suffix in _COMPRESSED else name.suffix


def _pair(names: list[str]) -> dict[str, str]:
    """Images and labels, told apart by their names."""
    found = {}
    for part in ("images", "labels"):
        matching = [name for name in names if part in PurePosixPath(name).name]
        if len(matching) != 1:
            raise DataError(
                f"IDX needs one file of images and one of labels, with these words in their names; with {part!r} there "
                f"are {', '.join(matching) or 'none'}. Name the two files."
            )
        found[part] = matching[0]
    return found


def _make(format: str, options: dict[str, Any]) -> PlainSource:
    cls = load_object(_SOURCES[format][0])
    names = [field.name for field in msgspec.structs.fields(cls)]
    if unknown := [name for name in options if name not in names]:
        raise DataError(f"{cls.__name__} has no option {unknown[0]!r}. {suggest(unknown[0], names)}")
    try:
        found: PlainSource = msgspec.convert(options, cls)
    except msgspec.ValidationError as error:
        raise DataError(f"{cls.__name__} cannot be made so: {error}.") from error
    return found
