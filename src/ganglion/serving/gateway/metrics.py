"""What `/metrics` says, in the text format of Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence

Labels = tuple[tuple[str, str], ...]

HELP = {
    "ganglion_requests_total": ("counter", "Prediction requests by model, version that was asked and HTTP status."),
    "ganglion_batches_total": ("counter", "Batches answered by replicas."),
    "ganglion_instances_total": ("counter", "Instances in the batches answered by replicas."),
    "ganglion_retries_total": ("counter", "Parts of requests that were tried again because their replica ended."),
    "ganglion_replicas_hanging_total": ("counter", "Replicas that were replaced because they did not answer any more."),
    "ganglion_refused_total": ("counter", "Requests refused before they were handled, by HTTP status."),
    "ganglion_limited_total": ("counter", "Prediction requests refused by a limit of their caller."),
    "ganglion_request_seconds": ("histogram", "From the complete request to its answer."),
    "ganglion_queue_seconds": ("histogram", "From the complete request until a replica took it."),
    "ganglion_batch_seconds": ("histogram", "From sending a batch to a replica to its answer."),
    "ganglion_batch_instances": ("histogram", "Instances in a batch."),
    "ganglion_queue_instances": ("gauge", "Instances that wait for a replica."),
    "ganglion_queue_bytes": ("gauge", "Bytes of the instances that wait for a replica."),
    "ganglion_callers_waiting": (
        "gauge",
        "Prediction requests that wait for their turn under their caller's limit.",
    ),
    "ganglion_replicas": ("gauge", "Replicas that the gateway is connected to."),
    "ganglion_connections": ("gauge", "Open client connections."),
}

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0)
"""Bounds of the buckets for times."""

INSTANCES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
"""Bounds of the buckets for sizes of batches."""


class Counter:
    """A number that grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def add(self, amount: int = 1) -> None:
        """Count."""
        self.value += amount


class Histogram:
    """How often values fell into buckets.

    Args:
        bounds: upper bounds of the buckets, included, ascending; one bucket more takes the rest.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Metrics:
    """Counters and histograms of one gateway; each is looked up once and then used directly."""

    def __init__(self) -> None:
        self._counters: dict[tuple[str, Labels], Counter] = {}
        self._histograms: dict[tuple[str, Labels], Histogram] = {}

    def counter(self, name: str, **labels: str) -> Counter:
        """The counter of `HELP` with these labels."""
        return self._counters.setdefault((name, tuple(labels.items())), Counter())

    def histogram(self, name: str, bounds: Sequence[float], **labels: str) -> Histogram:
        """The histogram of `HELP` with these labels."""
        return self._histograms.setdefault((name, tuple(labels.items())), Histogram(bounds))

    def forget(self, label: str, value: str) -> None:
        """Drop what was measured under a label that will not come again, as that of a replica that is gone."""
        gone = [key for key in self._histograms if (label, value) in key[1]]
        for key in gone:
            del self._histograms[key]

    def render(self, gauges: Mapping[tuple[str, Labels], float]) -> bytes:
        """All counters and histograms, and gauges measured now."""
        counted = {key: float(counter.value) for key, counter in self._counters.items()}
        lines: list[str] = []
        for name, (kind, text) in HELP.items():
            if kind == "histogram":
                mine = _histogram_lines(name, self._histograms)
            else:
                mine = _lines(name, [*counted.items(), *gauges.items()])
            if mine:
                lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *mine]
        return "\n".join([*lines, ""]).encode()


def _lines(name: str, samples: Iterable[tuple[tuple[str, Labels], float]]) -> list[str]:
    return [_line(name, labels, value) for (other, labels), value in sorted(samples) if other == name]


def _histogram_lines(name: str, histograms: Mapping[tuple[str, Labels], Histogram]) -> list[str]:
    lines: list[str] = []
    for (other, labels), histogram in sorted(histograms.items(), key=lambda item: item[0]):
        if other != name:
            continue
        total = 0
        for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
            total += count
            limit = "+Inf" if bound == float("inf") else f"{bound:g}"
            lines.append(_line(f"{name}_bucket", (*labels, ("le", limit)), total))
        lines += [_line(f"{name}_sum", labels, histogram.sum), _line(f"{name}_count", labels, total)]
    return lines


def _line(name: str, labels: Labels, value: float) -> str:
    text = "{" + ",".join(f'{key}="{_escape(text)}"' for key, text in labels) + "}" if labels else ""
    return f"{name}{text} {value:.12g}"


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
