"""The peer of the Ray backend: bare tasks, and bare actors in a placement group, as Ray's documentation writes them.

Ray's own retries are off, as they are under Ganglion. The process has to be connected to a cluster. What runs here
takes a resource of its own instead of CPUs, as much of it as there are CPUs, so that both can be measured in turn: the
Ray backend keeps CPUs for a second after a job, and bare Ray would wait for them.
"""

from __future__ import annotations

import time

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

RESOURCES = {"CPU": 2, "bare": 2}
"""What the cluster has to declare."""

HALF = {"bare": 0.5}


@ray.remote(num_cpus=0, resources=HALF, max_retries=0)
def now() -> float:
    """Say when it was called."""
    return time.time()


@ray.remote(num_cpus=0, resources=HALF, max_restarts=0)
class Rank:
    """One actor of a gang."""

    def now(self) -> float:
        """Say when it was called."""
        return time.time()


def round_trip() -> float:
    """Seconds from the submission of a task until its result is back, by a warm worker."""
    begin = time.time()
    ray.get(now.remote())
    return time.time() - begin


def burst(count: int) -> float:
    """Seconds for `count` tasks submitted at once."""
    begin = time.time()
    ray.get([now.remote() for _ in range(count)])
    return time.time() - begin


def gang() -> float:
    """Seconds from asking for a placement group until two actors in it run user code."""
    begin = time.time()
    group = placement_group([HALF] * 2)
    group.wait(60)
    ranks = [
        Rank.options(
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=number)
        ).remote()
        for number in range(2)
    ]
    seconds = max(ray.get([rank.now.remote() for rank in ranks])) - begin
    for rank in ranks:
        ray.kill(rank)
    remove_placement_group(group)
    return seconds
