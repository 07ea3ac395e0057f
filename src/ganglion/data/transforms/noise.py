"""`Noise`: random numbers added to images, or to any other numbers."""

from __future__ import annotations

import math
from functools import cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from ganglion.core.errors import DataError
from ganglion.data.records.batch import Batch
from ganglion.data.records.columns import Array
from ganglion.data.records.draw import Draw
from ganglion.data.records.schema import Schema
from ganglion.data.transform import Transform, find_field, refuse_field
from ganglion.data.transforms.image_field import precision, rounded

_LEVELS = 2**16
_VALUES_AT_ONCE = 2**18


class Noise(Transform, frozen=True, tag="ganglion.data.transforms.noise:Noise"):
    """Normally distributed noise is added to every value, in every epoch another one.

    It takes one of 65,536 values, the quantiles of the distribution in even steps, up to 4.2 standard deviations.
    Integers are rounded, and cut off at the ends of their range; NaN stay NaN.

    Attributes:
        column: the field; numbers of any shape, such as images.
        deviation: standard deviation, in the units of the values.

    Raises:
        DataError: the deviation is negative or not finite.
    """

    column: str
    deviation: float

    def __post_init__(self) -> None:
        if not 0 <= self.deviation < math.inf:
            raise DataError(
                f"Noise with a standard deviation of {self.deviation} was asked for; 0 or more is possible."
            )

    def schema(self, given: Schema) -> Schema:
        """The given fields."""
        field = find_field(given, self.column, self)
        if not field.fixed or np.dtype(field.dtype).kind not in "iuf":
            raise refuse_field(field, self, "numbers of fixed length are needed")
        return given

    def apply(self, batch: Batch, draw: Draw) -> Batch:
        """Add noise, to some records at a time."""
        values = batch.columns[self.column]
        assert isinstance(values, np.ndarray), "the schema was checked"
        made: Array = np.empty(values.shape, values.dtype)
        step = max(1, _VALUES_AT_ONCE // max(1, math.prod(values.shape[1:])))
        for start in range(0, len(batch), step):
            part = slice(start, start + step)
            made[part] = self._noisy(values[part], draw, batch.ids[part])
        return batch.having({**batch.columns, self.column: made})

    def _noisy(self, values: Array, draw: Draw, ids: npt.NDArray[np.int64]) -> Array:
        size = math.prod(values.shape[1:])
        bits = draw.bits(ids, f"noise {self.deviation}", -(-size // 4))
        levels = bits.astype("<u8", copy=False).view("<u2")[:, :size]
        dtype = precision(values.dtype)
        noise = _quantiles().take(levels).astype(dtype, copy=False).reshape(values.shape)
        noise *= dtype.type(self.deviation)
        noise += values
        return rounded(noise, values.dtype)


@cache
def _quantiles() -> npt.NDArray[np.float32]:
    """The standard normal distribution in even steps of probability."""
    inverse = NormalDist().inv_cdf
    upper = np.array([inverse((level + 0.5) / _LEVELS) for level in range(_LEVELS // 2, _LEVELS)], np.float32)
    return np.concatenate([-upper[::-1], upper])
