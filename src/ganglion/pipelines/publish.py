"""`publish`: a trained model becomes a version of a model."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ganglion.artifacts.package import MANIFEST
from ganglion.pipelines.train import Candidate
from ganglion.serving.repository import ModelRepository
from ganglion.workflow import Host, operation


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a model."""

    model: str
    version: int


@operation(kind="publication", cache=False, effect=True)
def publish(
    host: Host, /, candidates: Candidate | Sequence[Candidate], name: str, aliases: tuple[str, ...] = ("champion",)
) -> Published:
    """Publish the (first) candidate as the newest version of `name` and let `aliases` point to it.

    A candidate that is the newest version already is not published again.

    Args:
        host: given by the engine.
        candidates: a candidate, or what `select` returned.
        name: of the model.
        aliases: names that move to this version.
    """
    best = candidates if isinstance(candidates, Candidate) else candidates[0]
    return publish_candidate(host, best, name, aliases)


def publish_candidate(host: Host, candidate: Candidate, name: str, aliases: tuple[str, ...] = ()) -> Published:
    """Publish `candidate` unless it is what the newest version of `name` holds."""
    repository: ModelRepository = host.service("repository")
    version = _newest_if_same(repository, name, host, candidate)
    if version is None:
        version = repository.publish(name, (host.call.store, candidate.package))
        host.published(name, version, candidate.package.digest, candidate.metrics, aliases)
    for alias in aliases:
        if repository.aliases(name).get(alias) != version:
            repository.set_alias(name, alias, version)
    return Published(model=name, version=version)


def _newest_if_same(repository: ModelRepository, name: str, host: Host, candidate: Candidate) -> int | None:
    if name not in repository.names() or not repository.versions(name):
        return None
    version = repository.latest(name)
    store = host.call.store
    described = store.read(store.tree(candidate.package)[MANIFEST])
    return version if (repository.path(name, version) / MANIFEST).read_bytes() == described else None
