"""Which replica takes what waits when they are not equally fast, and how long it would take; pure.

A replica may be slower than the others of its version: another machine, a busy core, a disk that fails. While nothing
waits long it is left alone, for the faster ones would be done sooner even if they are busy now; when more waits than
they can clear it helps with as much as it can do meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ganglion.serving.gateway.latency_model import LatencyModel

SLOWER = 2.0
"""Times the seconds of the fastest one from which a replica counts as slower than it."""

_RESERVE = 0.5
"""Part of what a request may take that is held in reserve at most: more would refuse what mostly could be answered."""

_LEAST_RESERVE = 0.25, 0.02
"""The same at least, and seconds at most of this: a core that is lost for a while tells nobody before.

Replicas are as busy behind a shorter queue, and what they hold then is still answered in time.
"""

_INSTANT = 1e-9


class Worker(NamedTuple):
    """A replica as far as the choice depends on it.

    Attributes:
        latency: what is known of its batches.
        busy: seconds until it is free; 0 if it is.
    """

    latency: LatencyModel
    busy: float


def busy_seconds(latency: LatencyModel, rows: int, elapsed: float) -> float:
    """Seconds until a replica has answered `rows` instances that it began `elapsed` seconds ago.

    One that is overdue is expected to take as long again as it is overdue.
    """
    left = latency.predict(rows) - elapsed
    if left >= 0.0:
        return left
    return -left if elapsed > latency.promise(rows) else 0.0


def slower(worker: LatencyModel, other: LatencyModel) -> bool:
    """Whether a replica is much slower than another."""
    return worker.predict(1) > SLOWER * other.predict(1) > 0.0


def wait(rows: int, most: int, workers: Sequence[Worker], allowed: float) -> float:
    """Seconds within which the last of `rows` instances is answered for nearly certain, if all replicas share them.

    Args:
        rows: those that wait, and those asked about.
        most: instances of the largest batch.
        workers: the replicas, at least one.
        allowed: seconds that the request may take; the reserve for delays is part of them, not all.
    """
    last = min(rows, most)
    if len(workers) == 1:  # asked for every request that meets others
        ((fastest, begin),) = workers
        rate = most / max(fastest.predict(most), _INSTANT)
    else:
        rate = sum(most / max(worker.latency.predict(most), _INSTANT) for worker in workers)
        begin = min(worker.busy for worker in workers)
        fastest = min(workers, key=lambda worker: worker.latency.predict(last)).latency
    begin += (rows - last) / rate
    part, longest = _LEAST_RESERVE
    least = min(part * allowed, longest) if begin > 0.0 else 0.0  # what is taken at once waits for nobody
    return begin + fastest.predict(last) + min(max(fastest.margin, least), _RESERVE * allowed)


def share(worker: Worker, others: Sequence[Worker], rows: int, most: int, free: int) -> int:
    """Instances that a free replica takes now; 0 to leave them to others.

    Args:
        worker: the free replica.
        others: the other replicas that take requests.
        rows: instances that wait.
        most: instances of the largest batch.
        free: replicas that are free and about as fast as this one, itself among them.
    """
    even = min(most, -(-rows // free))
    faster = [other for other in others if slower(worker.latency, other.latency)]
    if not faster:
        return even
    last = min(rows, most)
    rate = sum(most / max(other.latency.predict(most), _INSTANT) for other in faster)
    begin = min(other.busy for other in faster)
    without = begin + (rows - last) / rate + min(other.latency.predict(last) for other in faster)
    if worker.latency.predict(1) >= without:
        return 0
    return min(even, worker.latency.most_within(most, without))
