"""`serve`: trained models answer requests, each with replicas, and together under one name."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ganglion.core.resources import Resources
from ganglion.pipelines.publish import publish_candidate
from ganglion.pipelines.train import Candidate
from ganglion.serving.controller import ModelServer
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


@operation(kind="service", resumable=False, cache=False, effect=True)
def serve(
    host: Host,
    /,
    candidates: Sequence[Candidate],
    name: str,
    replicas: int = 2,
    cpu: float = 0.1,
    combine: str = "mean",
) -> Served:
    """Serve every candidate with `replicas` replicas, and `name` as their combination.

    With `as_completed` candidates the service follows them: what is new is started beside what runs, requests move
    over once it is ready, and what is no longer wanted is drained. No request fails meanwhile. The service lives as
    long as the run, or as long as the platform holds it.

    Args:
        host: given by the engine.
        candidates: what `select` returned; while there are none only the gateway runs.
        name: under which the combined answer is given; a model is served as `name-candidate`.
        replicas: processes for each model.
        cpu: cores for each replica.
        combine: how answers become one: `mean`.
    """
    server: ModelServer = host.service("serving")
    members = {f"{name}-{candidate.name}": candidate for candidate in candidates}
    for member, candidate in members.items():
        published = publish_candidate(host, candidate, member)
        server.deploy(member, published.version, replicas=replicas, resources=Resources(cpu=cpu))
    if members:
        server.combine(name, tuple(members), combine)
    for other in server.status()["models"]:
        if other.startswith(f"{name}-") and other not in members:
            server.undeploy(other)
    host.report({"models": len(members)})
    return Served(url=server.url, model=name, members=tuple(members))
