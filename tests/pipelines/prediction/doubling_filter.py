"""Found by this module's name."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ganglion.data.records.columns import Columns


def is_even(columns: Columns) -> npt.NDArray[np.bool_]:
    return np.asarray(columns["x"]) % 2 == 0
