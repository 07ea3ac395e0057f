"""What `/metrics` says, in the text format of Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

Labels = tuple[tuple[str, str], ...]

HELP = {
    "ganglion_requests_total": ("counter", "Prediction requests by model and HTTP status."),
    "ganglion_batches_total": ("counter", "Batches answered by replicas."),
    "ganglion_instances_total": ("counter", "Instances in the batches answered by replicas."),
    "ganglion_retries_total": ("counter", "Parts of requests that were tried again because their replica ended."),
    "ganglion_queue_instances": ("gauge", "Instances that wait for a replica."),
    "ganglion_replicas": ("gauge", "Replicas that the gateway is connected to."),
    "ganglion_connections": ("gauge", "Open client connections."),
}


class Metrics:
    """Counters of one gateway."""

    def __init__(self) -> None:
        self._counters: Counter[tuple[str, Labels]] = Counter()

    def count(self, name: str, amount: int = 1, **labels: str) -> None:
        """Add to a counter of `HELP`."""
        self._counters[name, tuple(labels.items())] += amount

    def render(self, gauges: Mapping[tuple[str, Labels], float]) -> bytes:
        """All counters, and gauges measured now."""
        samples = [*self._counters.items(), *gauges.items()]
        lines: list[str] = []
        for name, (kind, text) in HELP.items():
            mine = sorted((labels, value) for (other, labels), value in samples if other == name)
            if mine:
                lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *_lines(name, mine)]
        return "\n".join([*lines, ""]).encode()


def _lines(name: str, samples: Iterable[tuple[Labels, float]]) -> list[str]:
    return [
        name
        + ("{" + ",".join(f'{key}="{_escape(text)}"' for key, text in labels) + "}" if labels else "")
        + f" {value:g}"
        for labels, value in samples
    ]


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
