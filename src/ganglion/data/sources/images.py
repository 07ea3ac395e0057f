"""Folders of images, one folder for each class."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import lru_cache
from pathlib import PurePosixPath
from typing import ClassVar, Literal, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
from PIL import Image, UnidentifiedImageError

from ganglion.core.errors import DataError, suggest
from ganglion.data.files.access import DataFile, fingerprints, open_file
from ganglion.data.records.bad_record import BadRecord, SetAside
from ganglion.data.records.batch import Batch
from ganglion.data.records.columns import Array
from ganglion.data.records.schema import BYTES, Field, Schema
from ganglion.data.records.unit import Unit
from ganglion.data.sources.file_source import FileSource

_FORMATS = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg"),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "PPM": (".ppm", ".pgm", ".pbm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
_UNIT_BYTES, _UNIT_FILES = 32 * 2**20, 2048
_CHANNELS = {"RGB": (3,), "L": ()}


class ImageFolderSource(FileSource, frozen=True, kw_only=True, tag="ganglion.data.sources.images:ImageFolderSource"):
    """Image files as records, with the number of their class: `<folder>/<class>/<any>.png`.

    A file that is damaged, cut off, no image, too large, or not of the right size is set aside.

    Attributes:
        size: height and width of all images, as the field `image` of type uint8; `None` keeps the bytes of the files,
            after a look at their headers, as a field of type `bytes`.
        mode: `RGB` (shape height x width x 3) or `L`, gray (shape height x width).
        fit: what is done with an image of another size: it is `resize`d, whatever its proportions, or `refuse`d.
        labels: whether the folder of a file is its class, as the field `label` of type int64.
        classes: names of the classes, in the order of their numbers; empty for the names of all folders, sorted.
        most_pixels: of an image as it is decoded (a JPEG is decoded no larger than it has to be); it then takes up to
            four bytes for each.

    Raises:
        DataError: an option is not possible.
    """

    suffixes: ClassVar[tuple[str, ...]] = tuple(
        ending for endings in _FORMATS.values() for lower in endings for ending in (lower, lower.upper())
    )

    size: tuple[int, int] | None = None
    mode: Literal["RGB", "L"] = "RGB"
    fit: Literal["resize", "refuse"] = "resize"
    labels: bool = True
    classes: tuple[str, ...] = ()
    most_pixels: int = 2**25

    def __post_init__(self) -> None:
        if self.size is not None and min(self.size) < 1:
            raise DataError(f"Images of size {self.size} were asked for; height and width are 1 or more.")
        if len(set(self.classes)) < len(self.classes):
            raise DataError(f"A class is named twice: {', '.join(self.classes)}.")

    @property
    def schema(self) -> Schema:
        """The fields `image` and, with labels, `label`."""
        if self.size is None:
            image = Field("image", BYTES)
        else:
            image = Field("image", "uint8", (*self.size, *_CHANNELS[self.mode]))
        return (image, Field("label", "int64")) if self.labels else (image,)

    def class_names(self) -> tuple[str, ...]:
        """The names of the classes; a label is an index into them.

        Raises:
            DataError: there are no files.
        """
        return self.classes or _classes(self.files())

    def units(self) -> Sequence[Unit]:
        """Groups of files that follow each other, of 32 MiB or 2,048 files at most."""
        files = self.files()
        contents = fingerprints(files)
        found = []
        for number, (start, stop) in enumerate(_groups(files)):
            digest = hashlib.sha256("".join(contents[start:stop]).encode()).hexdigest()
            unit = _unit(number, files, start, stop)
            found.append(msgspec.structs.replace(unit, records=None, fingerprint=f"sha256:{digest}"))
        return tuple(found)

    def read_unit(self, unit: Unit, size: int, set_aside: SetAside) -> Iterator[Batch]:
        """The images of one unit, in order; one at a time is decoded."""
        found = _listing(self)
        if not found.has(unit):
            _listing.cache_clear()  # it was made when there were other files
            found = _listing(self)
        if not found.has(unit):
            raise DataError(f"{unit.name}: files were added or removed after the source was divided; divide it again.")
        waiting: list[tuple[int, Array | bytes, int]] = []
        taken = 0
        for record, file in enumerate(found.files[unit.start : unit.stop]):
            data = b""
            try:
                label = found.label(file) if self.labels else 0
                if file.size > 8 * self.most_pixels:
                    raise _BadImageError(f"the file has {file.size} bytes, more than 8 for each of `most_pixels`")
                with closing(open_file(file.path, retry=self.retry)) as opened:
                    data = opened.read()
                value = self._value(data)
            except _BadImageError as error:
                set_aside(_bad(unit, record, file, str(error), data))
                continue
            waiting.append((record, value, label))
            taken += value.nbytes if isinstance(value, np.ndarray) else len(value)
            if taken >= size:
                yield self._batch(unit, waiting)
                waiting, taken = [], 0
        if waiting:
            yield self._batch(unit, waiting)

    def fingerprint(self) -> str:
        """Digest of the options, of the contents of the files in order, and of their classes."""
        digest = hashlib.sha256(super().fingerprint().encode())
        if self.labels:
            names = self.class_names()
            digest.update("\0".join((*names, *map(_class, self.files()))).encode())
        return f"sha256:{digest.hexdigest()}"

    def _value(self, data: bytes) -> Array | bytes:
        """What the field `image` holds for a file.

        Raises:
            _BadImageError: it is not a usable image.
        """
        if not data:
            raise _BadImageError("the file is empty")
        try:
            with Image.open(io.BytesIO(data), formats=list(_FORMATS)) as image:
                if self.size is not None and self.fit == "resize":
                    image.draft(self.mode, (self.size[1], self.size[0]))
                if math.prod(image.size) > self.most_pixels:
                    raise _BadImageError(
                        f"it has {image.width}x{image.height} pixels, more than the {self.most_pixels} of `most_pixels`"
                    )
                if self.size is None:
                    image.verify()
                    return data
                return self._pixels(image, self.size)
        except _BadImageError:
            raise
        except UnidentifiedImageError:
            raise _BadImageError(f"it is no image of a known format: {', '.join(_FORMATS)}") from None
        except Exception as error:  # decoders raise anything on bytes that are no image
            raise _BadImageError(f"it cannot be decoded: {type(error).__name__}: {error}") from error

    def _pixels(self, image: Image.Image, size: tuple[int, int]) -> Array:
        height, width = size
        if image.size != (width, height) and self.fit == "refuse":
            raise _BadImageError(
                f"it is {image.height}x{image.width}, not {height}x{width} (height x width); "
                "fit='resize' takes images of every size"
            )
        converted = image.convert(self.mode)
        if converted.size != (width, height):
            converted = converted.resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(converted)

    def _batch(self, unit: Unit, found: list[tuple[int, Array | bytes, int]]) -> Batch:
        values = [value for _, value, _ in found]
        images = pa.array(values, pa.binary()) if self.size is None else np.stack(values)
        first = unit.ids(0, found[-1][0] + 1)
        ids = first[[record for record, _, _ in found]]
        if not self.labels:
            return Batch({"image": images}, ids)
        return Batch({"image": images, "label": np.array([label for _, _, label in found], np.int64)}, ids)


class _BadImageError(Exception):
    """Why a file is not a record."""


class _Listing(NamedTuple):
    """The files that there are, with the numbers of their classes."""

    files: tuple[DataFile, ...]
    numbers: dict[str, int]
    groups: list[tuple[int, int]]

    def has(self, unit: Unit) -> bool:
        """Whether the unit is one of these files."""
        if unit.number >= len(self.groups):
            return False
        mine = _unit(unit.number, self.files, *self.groups[unit.number])
        return (mine.start, mine.stop, mine.size, mine.name) == (unit.start, unit.stop, unit.size, unit.name)

    def label(self, file: DataFile) -> int:
        """The number of a file's class."""
        name = _class(file)
        if name not in self.numbers:
            raise _BadImageError(f"its folder {name!r} is not one of the classes. {suggest(name, self.numbers)}")
        return self.numbers[name]


@lru_cache(4)  # a unit does not name its files, and walking through very many for each unit takes long
def _listing(source: ImageFolderSource) -> _Listing:
    files = source.files()
    names = source.classes or _classes(files)
    return _Listing(files, {name: number for number, name in enumerate(names)}, list(_groups(files)))


def _groups(files: Sequence[DataFile]) -> Iterator[tuple[int, int]]:
    start = taken = 0
    for number, file in enumerate(files):
        if number > start and (taken + file.size > _UNIT_BYTES or number - start >= _UNIT_FILES):
            yield start, number
            start, taken = number, 0
        taken += file.size
    yield start, len(files)


def _unit(number: int, files: Sequence[DataFile], start: int, stop: int) -> Unit:
    name = f"{files[start].path} to {files[stop - 1].path}"
    size = sum(file.size for file in files[start:stop])
    return Unit(number=number, name=name, path=files[start].path, start=start, stop=stop, size=size)


def _class(file: DataFile) -> str:
    return PurePosixPath(file.path).parent.name


def _classes(files: Sequence[DataFile]) -> tuple[str, ...]:
    return tuple(sorted({_class(file) for file in files}))


def _bad(unit: Unit, record: int, file: DataFile, reason: str, data: bytes) -> BadRecord:
    found = BadRecord.at(unit, record, reason, offset=0, payload=data)
    return msgspec.structs.replace(found, source=file.path, path=file.path)
