"""What a prediction is asked of: one version of a model, or an ensemble."""

from __future__ import annotations

from collections.abc import Sequence

from ganglion.artifacts.package import ImageInput, Signature
from ganglion.serving.gateway.metrics import SECONDS, Counter, Metrics
from ganglion.serving.gateway.pool import Pool
from ganglion.serving.gateway.row_reader import RowReader


class Endpoint:
    """One version of a model or an ensemble, as long as the routes stay as they are.

    Args:
        name: of the model or the ensemble.
        pools: that answer; several for an ensemble.
        how: how their answers become one; `None` for one model.
        reader: of the common form of its requests.
        metrics: where its requests are counted.

    Attributes:
        version: of the model; 1 for an ensemble.
        timeout: seconds that a request may take.
        max_batch: instances of the largest batch.
    """

    def __init__(self, name: str, pools: Sequence[Pool], how: str | None, reader: RowReader, metrics: Metrics) -> None:
        first = pools[0].version
        self.name = name
        self.pools = pools
        self.how = how
        self.reader = reader
        self.version = first.version if how is None else 1
        self.signature: Signature = first.signature
        self.image: ImageInput | None = first.image
        self.timeout = min(pool.model.timeout for pool in pools)
        self.seconds = metrics.histogram("ganglion_request_seconds", SECONDS, model=name, version=str(self.version))
        self._metrics = metrics
        self._counters: dict[int, Counter] = {}

    def count(self, status: int, seconds: float) -> None:
        """A request was answered."""
        counter = self._counters.get(status)
        if counter is None:
            counter = self._metrics.counter("ganglion_requests_total", model=self.name, status=str(status))
            self._counters[status] = counter
        counter.value += 1
        self.seconds.observe(seconds)
