"""`Normalise` and `Scale`: numbers brought to a common range with what is known of the training part."""

from __future__ import annotations

from typing import Self

import numpy as np

from ganglion.core.errors import DataError
from ganglion.data.records.columns import Array
from ganglion.data.records.schema import Field
from ganglion.data.statistics import Statistics
from ganglion.data.transform import refuse_field
from ganglion.data.transforms.elementwise import Elementwise


class Normalise(Elementwise, frozen=True, tag="ganglion.data.transforms.normalise:Normalise"):
    """Values minus the mean, divided by the standard deviation: of table columns, and of images by channel or as one.

    It works with the precision of the result. A standard deviation of 0 (all values are the same) counts as 1. NaN
    stay NaN.

    Attributes:
        column: the field; numbers of any shape.
        mean: of all values, or one for each index of the last axis.
        deviation: as `mean`.
        dtype: of the result.

    Raises:
        DataError: means and deviations are not equally many finite numbers, a deviation is negative, or the dtype is
            not one of floating-point numbers.
    """

    column: str
    mean: float | tuple[float, ...]
    deviation: float | tuple[float, ...]
    dtype: str = "float32"

    def __post_init__(self) -> None:
        mean, deviation = np.array(self.mean), np.array(self.deviation)
        if mean.shape != deviation.shape or not np.isfinite([mean, deviation]).all() or (deviation < 0).any():
            raise DataError(
                f"{self.column!r} cannot be normalised by mean={self.mean} and deviation={self.deviation}; equally "
                "many finite numbers are needed, deviations of 0 or more."
            )
        if np.dtype(self.dtype).kind != "f":
            raise DataError(f"Normalise makes floating-point numbers; dtype={self.dtype!r} was given.")

    @classmethod
    def fitted(cls, column: str, statistics: Statistics, dtype: str = "float32") -> Self:
        """With mean and standard deviation as they were found; of images with channels, by channel.

        Raises:
            DataError: there are no statistics of the column, or no values were found.
        """
        found = statistics.numbers(column)
        if found.channels:
            return cls(
                column,
                tuple(channel.mean for channel in found.channels),
                tuple(channel.deviation for channel in found.channels),
                dtype,
            )
        return cls(column, found.values.mean, found.values.deviation, dtype)

    def field(self, given: Field) -> Field:
        """The field with the dtype of the result."""
        _check_numbers(given, self)
        if isinstance(self.mean, tuple) and given.shape[-1:] != (len(self.mean),):
            raise refuse_field(given, self, f"{len(self.mean)} means need a last axis as long")
        return Field(given.name, self.dtype, given.shape)

    def write(self, values: Array, out: Array) -> None:
        """Subtract and divide."""
        deviation = np.array(self.deviation)
        factor = 1.0 / np.where(deviation == 0, 1.0, deviation)
        np.subtract(values, np.array(self.mean, out.dtype), out=out, dtype=out.dtype, casting="unsafe")
        np.multiply(out, factor.astype(out.dtype), out=out)


class Scale(Elementwise, frozen=True, tag="ganglion.data.transforms.normalise:Scale"):
    """Values from a range to another one, 0 to 1 if not said otherwise; what lies outside stays outside.

    Where all values are the same they become the lower end. NaN stay NaN.

    Attributes:
        column: the field; numbers of any shape.
        minimum: what becomes `low`.
        maximum: what becomes `high`.
        low: lower end of the result.
        high: upper end of the result.
        dtype: of the result.

    Raises:
        DataError: a range has its ends exchanged or not finite, or the dtype is not one of floating-point numbers.
    """

    column: str
    minimum: float
    maximum: float
    low: float = 0.0
    high: float = 1.0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        ends = (self.minimum, self.maximum, self.low, self.high)
        if not np.isfinite(ends).all() or self.minimum > self.maximum or self.low >= self.high:
            raise DataError(
                f"{self.column!r} cannot be scaled from {self.minimum}..{self.maximum} to {self.low}..{self.high}; "
                "ranges from a finite lower to a finite upper end are needed."
            )
        if np.dtype(self.dtype).kind != "f":
            raise DataError(f"Scale makes floating-point numbers; dtype={self.dtype!r} was given.")

    @classmethod
    def fitted(cls, column: str, statistics: Statistics, low: float = 0.0, high: float = 1.0) -> Self:
        """From the range that was found.

        Raises:
            DataError: there are no statistics of the column, or no values were found.
        """
        found = statistics.numbers(column).values
        return cls(column, float(found.minimum), float(found.maximum), low, high)

    def field(self, given: Field) -> Field:
        """The field with the dtype of the result."""
        _check_numbers(given, self)
        return Field(given.name, self.dtype, given.shape)

    def write(self, values: Array, out: Array) -> None:
        """Move and stretch; a pass over the values that would change nothing, as for pixels to 0..1, is left out."""
        width = self.maximum - self.minimum
        factor = out.dtype.type((self.high - self.low) / width if width else 0.0)
        if self.minimum:
            np.subtract(values, out.dtype.type(self.minimum), out=out, dtype=out.dtype, casting="unsafe")
            values = out
        np.multiply(values, factor, out=out, dtype=out.dtype, casting="unsafe")
        if self.low:
            np.add(out, out.dtype.type(self.low), out=out)


def _check_numbers(field: Field, transform: Normalise | Scale) -> None:
    if np.dtype(field.dtype).kind not in "biuf":
        raise refuse_field(field, transform, "numbers are needed")
