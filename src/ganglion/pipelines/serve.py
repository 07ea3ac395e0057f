"""`serve`: trained models answer requests, each with replicas, and together under one name."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ganglion.core.errors import UserError
from ganglion.core.resources import Resources
from ganglion.pipelines.publish import publish_candidate
from ganglion.pipelines.train import Candidate
from ganglion.serving.controller import ModelServer
from ganglion.serving.options import REPLICAS, Metric, ServingOptions
from ganglion.workflow import Host, operation


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """A running service.

    Attributes:
        url: where it answers.
        model: the name that combines the others.
        members: names of the models that it combines, best first.
    """

    url: str
    model: str
    members: tuple[str, ...]


def step_options(
    *,
    replicas: int | None,
    cpu: float,
    min_replicas: int | None,
    max_replicas: int | None,
    scale_metric: Metric,
    scale_target: float | None,
    container_concurrency: int,
) -> ServingOptions:
    """How each model of a serving step is served; arguments as for `serve`.

    Raises:
        UserError: the number of replicas is fixed and follows the load, or other values contradict each other.
    """
    elastic = min_replicas is not None or max_replicas is not None
    if elastic and replicas is not None:
        raise UserError(
            f"replicas={replicas} is a fixed number, and min_replicas and max_replicas follow the load; "
            "give one or the other."
        )
    count = REPLICAS if replicas is None else replicas
    bounds = (1 if min_replicas is None else min_replicas, max_replicas or 0) if elastic else (count, count)
    return ServingOptions(
        min_replicas=bounds[0],
        max_replicas=bounds[1],
        scale_metric=scale_metric,
        scale_target=scale_target,
        container_concurrency=container_concurrency,
        resources=Resources(cpu=cpu),
    )


@operation(kind="service", resumable=False, cache=False, effect=True)
def serve(
    host: Host,
    /,
    candidates: Sequence[Candidate],
    name: str,
    replicas: int | None = None,
    cpu: float = 0.1,
    combine: str = "mean",
    min_replicas: int | None = None,
    max_replicas: int | None = None,
    scale_metric: Metric = "concurrency",
    scale_target: float | None = None,
    container_concurrency: int = 0,
) -> Served:
    """Serve every candidate with `replicas` replicas, or as many as the load asks for, and `name` as their combination.

    With `as_completed` candidates the service follows them: what is new is started beside what runs, requests move
    over once it is ready, and what is no longer wanted is drained. No request fails meanwhile. The service lives as
    long as the run, or as long as the platform holds it.

    Args:
        host: given by the engine.
        candidates: what `select` returned; while there are none only the gateway runs.
        name: under which the combined answer is given; a model is served as `name-candidate`.
        replicas: processes for each model, whatever the load; 2 where nothing is said of their number.
        cpu: cores for each replica.
        combine: how answers become one: `mean`.
        min_replicas: fewest for each model; with this or `max_replicas` it follows the load. 0 ends idle ones.
        max_replicas: most for each model; 0 for as many as there is room for.
        scale_metric: what is followed; see `ServingOptions`.
        scale_target: of it for one replica.
        container_concurrency: requests that one replica holds at once; 0 for no limit.

    Raises:
        UserError: the options contradict each other.
    """
    options = step_options(
        replicas=replicas,
        cpu=cpu,
        min_replicas=min_replicas,
        max_replicas=max_replicas,
        scale_metric=scale_metric,
        scale_target=scale_target,
        container_concurrency=container_concurrency,
    )
    server: ModelServer = host.service("serving")
    members = {f"{name}-{candidate.name}": candidate for candidate in candidates}
    for member, candidate in members.items():
        published = publish_candidate(host, candidate, member)
        server.deploy(member, published.version, options=options)
    if members:
        server.combine(name, tuple(members), combine)
    for other in server.status()["models"]:
        if other.startswith(f"{name}-") and other not in members:
            server.undeploy(other)
    host.report({"models": len(members)})
    return Served(url=server.url, model=name, members=tuple(members))
