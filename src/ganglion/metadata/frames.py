"""Series of the record as pandas data frames, for notebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ganglion.core.errors import UserError
from ganglion.metadata import queries
from ganglion.metadata.record import Record

if TYPE_CHECKING:
    import pandas


def metrics_frame(record: Record, run: str) -> pandas.DataFrame:
    """All metrics of a run, oldest first.

    Returns:
        One row for each reported value, with the columns `at` (UTC time), `step`, `member`, `name`, `value` (float64)
        and `position` (float64, NaN where there is none).

    Raises:
        NotFoundError: no id, or more than one, begins with `run`.
        UserError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise UserError("Data frames need pandas: pip install 'ganglion[notebook]'.") from error
    rows = [msgspec.structs.astuple(point) for point in queries.metrics(record, run)]
    types = {"at": "float64", "step": "str", "member": "str", "name": "str", "value": "float64", "position": "float64"}
    frame = pandas.DataFrame.from_records(rows, columns=list(types)).astype(types)
    frame["at"] = pandas.to_datetime(frame["at"], unit="s", utc=True)
    return frame
