"""What a prediction is asked of: one version of a model, or an ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ganglion.artifacts.package import ImageInput, Signature
from ganglion.serving.gateway.metrics import SECONDS, Counter, Metrics
from ganglion.serving.gateway.pool import Pool
from ganglion.serving.gateway.row_reader import RowReader
from ganglion.serving.routes import EnsembleRoute


class Tally(Protocol):
    """Is told what came of each request."""

    def count(self, status: int, seconds: float) -> None:
        """A request was answered."""
        ...


class Endpoint:
    """One version of a model or an ensemble, as long as the routes stay as they are.

    Args:
        name: of the model or the ensemble.
        pools: that answer; several for an ensemble.
        ensemble: how their answers become one; `None` for one model.
        reader: of the common form of its requests.
        metrics: where its requests are counted.
        tally: where they are counted as well, while versions are compared.

    Attributes:
        version: of the model; 1 for an ensemble.
        plain: whether a request is asked of one model, by any of its replicas.
        timeout: seconds that a request may take.
        max_batch: instances of the largest batch.
    """

    def __init__(
        self,
        name: str,
        pools: Sequence[Pool],
        ensemble: EnsembleRoute | None,
        reader: RowReader,
        metrics: Metrics,
        tally: Tally | None = None,
    ) -> None:
        first = pools[0].version
        self.name = name
        self.pools = pools
        self.ensemble = ensemble
        self.plain = ensemble is None and pools[0].model.sharding is None
        self.reader = reader
        self.version = first.version if ensemble is None else 1
        self.signature: Signature = first.signature
        self.image: ImageInput | None = first.image
        self.timeout = min(pool.model.timeout for pool in pools)
        self.seconds = metrics.histogram("ganglion_request_seconds", SECONDS, model=name, version=str(self.version))
        self._metrics = metrics
        self._tally = tally
        self._counters: dict[int, Counter] = {}

    def count(self, status: int, seconds: float) -> None:
        """A request was answered."""
        counter = self._counters.get(status)
        if counter is None:
            labels = {"model": self.name, "version": str(self.version), "status": str(status)}
            counter = self._metrics.counter("ganglion_requests_total", **labels)
            self._counters[status] = counter
        counter.value += 1
        self.seconds.observe(seconds)
        if self._tally is not None:
            self._tally.count(status, seconds)
