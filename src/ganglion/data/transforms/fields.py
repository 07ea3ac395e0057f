"""`Select`, `Drop` and `Rename`: which fields records have, and what they are called."""

from __future__ import annotations

from ganglion.core.errors import DataError
from ganglion.data.records.batch import Batch
from ganglion.data.records.draw import Draw
from ganglion.data.records.schema import Field, Schema
from ganglion.data.transform import Transform, find_field


class Select(Transform, frozen=True, tag="ganglion.data.transforms.fields:Select"):
    """Only some fields are kept, in the order in which they are named.

    Attributes:
        columns: names of the fields.
    """

    columns: tuple[str, ...]

    def schema(self, given: Schema) -> Schema:
        """The fields that are kept."""
        return tuple(find_field(given, name, self) for name in self.columns)

    def apply(self, batch: Batch, draw: Draw) -> Batch:
        """Keep some columns."""
        return batch.having({name: batch.columns[name] for name in self.columns})


class Drop(Transform, frozen=True, tag="ganglion.data.transforms.fields:Drop"):
    """Some fields are left out.

    Attributes:
        columns: names of the fields.
    """

    columns: tuple[str, ...]

    def schema(self, given: Schema) -> Schema:
        """The other fields."""
        gone = {find_field(given, name, self).name for name in self.columns}
        return tuple(field for field in given if field.name not in gone)

    def apply(self, batch: Batch, draw: Draw) -> Batch:
        """Leave some columns out."""
        return batch.having({name: column for name, column in batch.columns.items() if name not in self.columns})


class Rename(Transform, frozen=True, tag="ganglion.data.transforms.fields:Rename"):
    """Some fields get other names and keep their places.

    Attributes:
        names: new name by old name.
    """

    names: dict[str, str]

    def __post_init__(self) -> None:
        if not all(self.names.values()):
            raise DataError("A field cannot be renamed to nothing; drop it, or give it a name.")

    def schema(self, given: Schema) -> Schema:
        """The fields under their new names."""
        for name in self.names:
            find_field(given, name, self)
        return tuple(
            Field(self.names.get(field.name, field.name), field.dtype, field.shape, field.sequence) for field in given
        )

    def apply(self, batch: Batch, draw: Draw) -> Batch:
        """Name columns anew."""
        return batch.having({self.names.get(name, name): column for name, column in batch.columns.items()})
