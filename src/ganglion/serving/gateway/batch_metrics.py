"""What is measured of the batches of one version of a model."""

from __future__ import annotations

from ganglion.serving.gateway.metrics import INSTANCES, SECONDS, Histogram, Metrics

GATEWAY = "gateway"
"""What stands in place of a replica's id where the gateway answered itself."""


class BatchMetrics:
    """Counters and histograms that are looked up once.

    Args:
        metrics: where they are.
        model: name of the model.
        version: number of the version.

    Attributes:
        queued: seconds for which requests waited for a replica.
    """

    def __init__(self, metrics: Metrics, model: str, version: int) -> None:
        self._metrics = metrics
        self._model = model
        self._labels = {"model": model, "version": str(version)}
        self._batches = metrics.counter("ganglion_batches_total", **self._labels)
        self._instances = metrics.counter("ganglion_instances_total", **self._labels)
        self.queued = metrics.histogram("ganglion_queue_seconds", SECONDS, **self._labels)
        self._measured: dict[str, tuple[Histogram, Histogram]] = {}

    @property
    def batches(self) -> int:
        """How many have been answered."""
        return self._batches.value

    def add(self, replica: str) -> None:
        """A replica is there."""
        self._measured[replica] = (
            self._metrics.histogram("ganglion_batch_seconds", SECONDS, **self._labels, replica=replica),
            self._metrics.histogram("ganglion_batch_instances", INSTANCES, **self._labels, replica=replica),
        )

    def forget(self, replica: str) -> None:
        """A replica will not come again; what it still answers counts for the model only."""
        self._metrics.forget("replica", replica)
        del self._measured[replica]

    def answered(self, replica: str, rows: int, seconds: float) -> None:
        """A replica answered a batch of so many instances within `seconds`."""
        self._batches.value += 1
        self._instances.value += rows
        if replica in self._measured:
            times, sizes = self._measured[replica]
            times.observe(seconds)
            sizes.observe(rows)

    def hung(self) -> None:
        """A replica was found to hang."""
        self._metrics.counter("ganglion_replicas_hanging_total", **self._labels).add()

    def retried(self, parts: int) -> None:
        """So many parts of requests are tried again."""
        self._metrics.counter("ganglion_retries_total", model=self._model).add(parts)
