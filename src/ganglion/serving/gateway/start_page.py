"""The page at `/` for people, and the state of the service that it shows.

The page is one file that loads nothing from anywhere; its policy (Content-Security-Policy) allows its own script and
style, by their digests, and requests to this gateway.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from importlib.resources import files
from itertools import pairwise
from typing import Any

import orjson

from ganglion.serving.gateway.catalog import Catalog
from ganglion.serving.gateway.errors import RequestError
from ganglion.serving.gateway.metrics import SECONDS
from ganglion.serving.gateway.question import Reply
from ganglion.serving.routes import ModelRoute, VersionRoute

PATH = "/"
STATUS_PATH = "/ganglion/status"

_SAMPLE = re.compile(rb"^(\w+)\{(.*)\} (\S+)$")
_LABEL = re.compile(rb'(\w+)="((?:[^"\\]|\\.)*)"')


class StartPage:
    """What a person sees who opens the address of the service.

    Args:
        catalog: what is served.
        measure: gives the metrics of all gateways in the text format of Prometheus.
    """

    def __init__(self, catalog: Catalog, measure: Callable[[], bytes]) -> None:
        self._catalog = catalog
        self._measure = measure

    def show(self) -> Reply:
        """The page."""
        page, policy = _page()
        headers = {
            "content-security-policy": policy,
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
            "cache-control": "no-cache",
        }
        return Reply(page, "text/html; charset=utf-8", headers)

    def status(self) -> Reply:
        """Models and ensembles with their versions, and what was counted since the gateways were started."""
        requests, seconds = _count(self._measure())
        found = []
        for name in self._catalog.names:
            described = self._ensemble(name) if name in self._catalog.ensembles else self._model(name)
            described["requests"] = requests[name]
            described["seconds"] = {"bounds": SECONDS, "counts": seconds[name]}
            found.append(described)
        return Reply(orjson.dumps({"models": found}), headers={"cache-control": "no-store"})

    def _ensemble(self, name: str) -> dict[str, Any]:
        ensemble = self._catalog.ensembles[name]
        return {
            "name": name,
            "ready": self._catalog.ready(name),
            "members": ensemble.members,
            "how": ensemble.how,
            "versions": [],
            **self._takes(name),
        }

    def _model(self, name: str) -> dict[str, Any]:
        model = self._catalog.models[name]
        return {
            "name": name,
            "ready": self._catalog.ready(name),
            "default": model.default,
            "versions": [self._version(model, version) for version in model.versions],
            **self._takes(name),
        }

    def _takes(self, name: str) -> dict[str, Any]:
        """Whether it takes images, and what it calls its classes."""
        try:
            version = self._catalog.described(name, None)
        except RequestError:
            return {"image": False, "classes": ()}
        return {"image": version.image is not None, "classes": version.classes}

    def _version(self, model: ModelRoute, version: VersionRoute) -> dict[str, Any]:
        share = 0.0
        canary = model.canary
        if canary is not None and canary.version == version.version:
            share = canary.percent
        elif model.default == version.version:
            share = 100.0 - (canary.percent if canary is not None else 0.0)
        return {
            "version": version.version,
            "state": version.state,
            "replicas": self._catalog.replicas(model.name, version.version),
            "queue": self._catalog.waiting(model.name, version.version),
            "share": share,
            "labels": [label for label, number in model.labels.items() if number == version.version],
            "error": version.error,
        }


@cache
def _page() -> tuple[bytes, str]:
    """The page and its policy."""
    page = files("ganglion.serving").joinpath("page.html").read_bytes()
    digests = {
        tag: b64encode(sha256(_between(page, b"<%b>" % tag.encode(), b"</%b>" % tag.encode())).digest()).decode()
        for tag in ("script", "style")
    }
    policy = (
        f"default-src 'none'; script-src 'sha256-{digests['script']}'; style-src 'sha256-{digests['style']}'; "
        "connect-src 'self'; img-src blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page, policy


def _between(page: bytes, start: bytes, end: bytes) -> bytes:
    return page.partition(start)[2].partition(end)[0]


def _count(page: bytes) -> tuple[defaultdict[str, dict[str, int]], defaultdict[str, list[int]]]:
    """Requests by model and status, and how many took how long by model, of all gateways and versions."""
    requests: defaultdict[str, dict[str, int]] = defaultdict(dict)
    seconds: defaultdict[str, list[int]] = defaultdict(lambda: [0] * (len(SECONDS) + 1))
    limits = [f"{bound:g}" for bound in SECONDS] + ["+Inf"]
    for line in page.splitlines():
        sample = _SAMPLE.match(line)
        if sample is None or not sample[1].startswith(b"ganglion_request"):
            continue
        labels = {name.decode(): value.decode() for name, value in _LABEL.findall(sample[2])}
        model, count = labels.get("model", ""), int(float(sample[3]))
        if sample[1] == b"ganglion_requests_total":
            requests[model][labels["status"]] = requests[model].get(labels["status"], 0) + count
        elif sample[1] == b"ganglion_request_seconds_bucket":
            seconds[model][limits.index(labels["le"])] += count
    for sums in seconds.values():  # from how many took at most so long
        sums[1:] = [later - earlier for earlier, later in pairwise(sums)]
    return requests, seconds
