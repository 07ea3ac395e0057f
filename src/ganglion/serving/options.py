"""How a model is served: how many replicas, by which measure, and what a request may wait for.

The names and meanings are those of KServe's `InferenceService` (`minReplicas`, `maxReplicas`, `scaleMetric`,
`scaleTarget`, `containerConcurrency`, `timeout`) and of Knative's autoscaler (stable and panic window, delay before
scaling down, grace before scaling to zero).
"""

from __future__ import annotations

import math
from typing import Literal, get_args

from ganglion.core.config import Config
from ganglion.core.errors import OptionError, UserError, suggest
from ganglion.core.resources import NOTHING, Resources
from ganglion.serving.rollout import Canary
from ganglion.serving.sharding import Sharding

Balancing = Literal["late-binding", "round-robin", "least-outstanding", "consistent-hash", "power-of-two"]
"""How a replica is found for a request; see `ganglion.serving.gateway.balancing`."""

Metric = Literal["concurrency", "rps", "cpu", "memory"]
"""Requests in hand, requests a second, or percent of the declared cores or memory that is used."""

REPLICAS = 2
"""Where nothing else is said: one that answers while the other is replaced."""

SHARE = Resources(cpu=0.25)
"""What a replica, and the gateway, asks for where nothing else is said."""

_TARGETS: dict[Metric, float] = {"concurrency": 100.0, "rps": 200.0, "cpu": 80.0, "memory": 80.0}
"""For one replica, where nothing else is said: the defaults of Knative and of Kubernetes' autoscaler."""

_UTILIZATION = 0.7
"""Part of `container_concurrency` that is the target where only the limit is given, as in Knative."""


class ServingOptions(Config, frozen=True, kw_only=True):
    """How one model is served.

    Attributes:
        min_replicas: fewest replicas; 0 ends the last one when nothing is asked, the next request starts one.
        max_replicas: most replicas; 0 for as many as the backend could hold.
        scale_metric: `concurrency` (requests in hand, waiting ones included), `rps` (requests a second), `cpu` or
            `memory` (percent of what a replica declares).
        scale_target: what one replica should have of it; `None` for 100 requests, 200 a second or 80 percent, and 70
            percent of `container_concurrency` if that is given.
        container_concurrency: requests that one replica holds at once, the others wait in the gateway; 0 for no limit.
        stable_window: seconds of load that are averaged to decide how many replicas are needed.
        panic_window: seconds of load, the last counting most, that decide when it has doubled.
        scale_down_delay: seconds for which fewer replicas have to be enough before any is ended.
        scale_to_zero_grace: seconds that the last replica is kept after a stable window without a request.
        max_batch: instances of the largest batch.
        max_queue: instances that may wait in the gateway.
        timeout: seconds that a request may take in all.
        resources: what each replica needs.
        sharding: how a request too big for one replica is split; `None` lets any free replica take any batch of it.
        balancing: which replica takes a request: `late-binding`, the first that is free, or another policy, by which it
            is chosen when the request comes.
        import_path: folders from which replicas import the user's functions.
        fused: gateways hold the model as well and answer short requests themselves: one while it is the only one, and
            all where there is a gateway for each core. That saves the way to a replica and back; in return a request
            that ends the model's process ends the gateway's.
            Other requests go to the replicas. A change takes effect with the next version.
        canary: how newer versions that are picked up by themselves are tried; `None` lets them take over at once.

    Raises:
        OptionError: a value is out of bounds, or two contradict each other.
    """

    min_replicas: int = 1
    max_replicas: int = 0
    scale_metric: Metric = "concurrency"
    scale_target: float | None = None
    container_concurrency: int = 0
    stable_window: float = 60.0
    panic_window: float = 6.0
    scale_down_delay: float = 5.0
    scale_to_zero_grace: float = 30.0
    max_batch: int = 32
    max_queue: int = 4096
    timeout: float = 30.0
    resources: Resources = SHARE
    sharding: Sharding | None = None
    balancing: Balancing = "late-binding"
    import_path: tuple[str, ...] = ()
    fused: bool = False
    canary: Canary | None = None

    def __post_init__(self) -> None:
        if self.scale_metric not in get_args(Metric):
            allowed = suggest(str(self.scale_metric), get_args(Metric))
            raise OptionError(f"scale_metric is {self.scale_metric!r}. {allowed}", "scale_metric")
        if self.balancing not in get_args(Balancing):
            allowed = suggest(str(self.balancing), get_args(Balancing))
            raise OptionError(f"balancing is {self.balancing!r}. {allowed}", "balancing")
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if not least <= value < math.inf:
                raise OptionError(f"{name} is {value:g}; it has to be at least {least:g}.", name)
        for name in ("scale_target", "stable_window", "panic_window", "timeout"):
            value = getattr(self, name)
            if value is not None and not 0.0 < value < math.inf:
                raise OptionError(f"{name} is {value:g}; it has to be more than 0.", name)
        self._check_together()

    def _check_together(self) -> None:
        if self.max_replicas and self.max_replicas < max(1, self.min_replicas):
            raise OptionError(
                f"max_replicas is {self.max_replicas} and min_replicas {self.min_replicas}; "
                "the most cannot be fewer than the fewest. Give 0 for no limit.",
                "max_replicas",
                "min_replicas",
            )
        if self.sharding is not None and self.balancing != "late-binding":
            raise OptionError(
                f"balancing is {self.balancing} and requests are sharded, which says where each part goes.", "balancing"
            )
        if self.panic_window > self.stable_window:
            raise OptionError(
                f"panic_window is {self.panic_window:g} s and stable_window {self.stable_window:g} s; "
                "the panic window has to lie within the stable one.",
                "panic_window",
                "stable_window",
            )
        if self.scale_metric in ("cpu", "memory"):
            self._check_usage()
        elif self.scale_metric == "concurrency" and 0 < self.container_concurrency < self.target:
            raise OptionError(
                f"scale_target is {self.target:g} and container_concurrency {self.container_concurrency}: a replica "
                "never holds so many requests. Give a target of at most container_concurrency.",
                "scale_target",
                "container_concurrency",
            )
        if not self.max_replicas and self.resources.fits(NOTHING):
            raise OptionError(
                "max_replicas is 0 and a replica declares no resources: give one of them a limit.", "max_replicas"
            )

    def _check_usage(self) -> None:
        metric = self.scale_metric
        if not self.min_replicas:
            raise OptionError(
                f"min_replicas is 0 and scale_metric {metric}: no replica, no usage to scale by. "
                "Give min_replicas=1, or scale by concurrency or rps.",
                "min_replicas",
                "scale_metric",
            )
        if not (self.resources.cpu if metric == "cpu" else self.resources.memory):
            raise OptionError(
                f"scale_metric is {metric}, a percentage of the declared {metric}, but none is declared.",
                "scale_metric",
            )
        if metric == "memory" and not self.max_replicas:
            raise OptionError(
                "scale_metric is memory, which more replicas do not lower: give max_replicas.",
                "scale_metric",
                "max_replicas",
            )

    @staticmethod
    def fixed(replicas: int, *, resources: Resources = SHARE) -> ServingOptions:
        """A number of replicas that does not follow the load.

        Raises:
            UserError: the number is below 1.
        """
        if replicas < 1:
            raise UserError(f"{replicas} replicas were asked for; at least one is needed.")
        return ServingOptions(min_replicas=replicas, max_replicas=replicas, resources=resources)

    @property
    def elastic(self) -> bool:
        """Whether the number of replicas follows the load."""
        return self.min_replicas != self.max_replicas or not self.max_replicas

    @property
    def target(self) -> float:
        """What one replica should have of the metric."""
        if self.scale_target is not None:
            return self.scale_target
        if self.scale_metric == "concurrency" and self.container_concurrency:
            return _UTILIZATION * self.container_concurrency
        return _TARGETS[self.scale_metric]


_LEAST = {
    "min_replicas": 0,
    "max_replicas": 0,
    "container_concurrency": 0,
    "scale_down_delay": 0,
    "scale_to_zero_grace": 0,
    "max_batch": 1,
    "max_queue": 1,
}
"""Smallest values of the options that are counts or may be zero."""
