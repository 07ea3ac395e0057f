"""The slices of one process, step after step; a step can be asked for again, and the mapping may change in between."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import cast

from ganglion.core.errors import DataError
from ganglion.training.source import BatchSource, Columns, part_of, present, records_of, slice_bounds


class Feed:
    """Reads a source for a range of logical workers.

    Args:
        source: of the records.
        logical: number of logical workers.
    """

    def __init__(self, source: BatchSource, logical: int) -> None:
        self._source = source
        self._logical = logical
        self._iterator: Iterator[Columns] = iter(())
        self._span = range(0)
        self._next = (-1, -1)
        self._last: Columns = {}

    def slices(self, epoch: int, step: int, span: range) -> dict[int, Columns]:
        """The records of each logical worker in `span`, in order, without those that have none.

        Raises:
            DataError: the source ended too early, or its slices are not as the protocol says.
        """
        if not len(span):
            return {}
        if (epoch, step + 1, span) != (*self._next, self._span):
            if (epoch, step, span) != (*self._next, self._span):
                self.close()
                self._iterator = self._source.batches(
                    epoch, first=span.start, last=span.stop, of=self._logical, start=step
                )
                self._span = span
            last = next(self._iterator, None)
            if last is None:
                raise DataError(
                    f"The training source says that epoch {epoch + 1} has {self._source.steps_per_epoch} batches, but "
                    f"it ended after {step}."
                )
            self._last, self._next = last, (epoch, step + 1)
        return self._cut(step)

    def _cut(self, step: int) -> dict[int, Columns]:
        size = min(self._source.global_batch, self._source.count - step * self._source.global_batch)
        bounds = [slice_bounds(worker, self._logical, size) for worker in self._span]
        begin, end = bounds[0].start, bounds[-1].stop
        if records_of(self._last) != end - begin:
            raise DataError(
                f"Logical workers {self._span.start} to {self._span.stop - 1} of {self._logical} have {end - begin} of "
                f"the {size} records of batch {step + 1}, but the training source gave {records_of(self._last)}."
            )
        return {
            worker: present(part_of(self._last, slice(bound.start - begin, bound.stop - begin)))
            for worker, bound in zip(self._span, bounds, strict=True)
            if bound.stop > bound.start
        }

    def close(self) -> None:
        """Give up what the source holds for this process."""
        if hasattr(self._iterator, "close"):
            cast(Generator[Columns, None, None], self._iterator).close()
        self._iterator, self._next = iter(()), (-1, -1)
