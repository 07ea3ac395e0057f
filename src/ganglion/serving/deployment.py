"""What the controller knows of a deployed model: a value fed with events, with no process and no thread in it."""

from __future__ import annotations

from typing import Any

from ganglion.artifacts.package import PackageManifest
from ganglion.core.events import Event, ExitKind, JobFinished, MemberExited, MemberReady
from ganglion.core.resources import Resources
from ganglion.serving.routes import ModelRoute, ReplicaRoute, State, VersionRoute

MOST_FAILED_STARTS = 3
"""Ends of replicas, before enough were ready, after which a version is held to be unable to start."""


class VersionRun:
    """The service that runs one version of a model.

    Attributes:
        job: id of the service.
        version: number of the version.
        manifest: of its package.
        wanted: replicas that have to be ready before it takes over.
        state: as TensorFlow Serving names it.
        replicas: endpoints of the replicas that are ready, by member; the attempt is part of the value.
        failed_starts: ends of replicas while it was loading.
        served: whether it ever was available.
        error: why it ended, if it did not end on request.
    """

    def __init__(self, job: str, version: int, manifest: PackageManifest, wanted: int) -> None:
        self.job = job
        self.version = version
        self.manifest = manifest
        self.wanted = wanted
        self.state: State = "LOADING"
        self.replicas: dict[str, tuple[int, str]] = {}
        self.failed_starts = 0
        self.error = ""
        self.served = False

    def observe(self, event: Event) -> None:
        """Take an event of the service into account."""
        match event:
            case MemberReady(member=member, attempt=attempt, endpoint=endpoint):
                self.replicas[member] = (attempt, endpoint)
                if self.state == "LOADING" and len(self.replicas) >= self.wanted:
                    self.state = "AVAILABLE"
                    self.served = True
                    self.error = ""
            case MemberExited(member=member, attempt=attempt, exit=exit_):
                if self.replicas.get(member, (0, ""))[0] == attempt:
                    del self.replicas[member]
                if self.state == "LOADING" and exit_.kind is not ExitKind.SUCCESS:
                    self.failed_starts += 1
                    self.error = exit_.message
            case JobFinished(message=message):
                if self.state != "UNLOADING" and not self.error:
                    self.error = message or "its service ended"
                self.state = "END"
                self.replicas.clear()
            case _:
                pass

    @property
    def hopeless(self) -> bool:
        """Whether it cannot be expected to start any more."""
        return self.state == "LOADING" and self.failed_starts >= MOST_FAILED_STARTS

    def describe(self) -> dict[str, Any]:
        """Its state for a person, as plain data."""
        return {
            "state": self.state,
            "ready": len(self.replicas),
            "replicas": self.wanted,
            "job": self.job,
            "error": self.error,
        }

    def route(self) -> VersionRoute:
        """What the gateway is told."""
        return VersionRoute(
            version=self.version,
            state=self.state,
            signature=self.manifest.signature,
            image=self.manifest.image,
            classes=self.manifest.classes,
            replicas=tuple(
                ReplicaRoute(f"{self.job}/{member}/{attempt}", endpoint)
                for member, (attempt, endpoint) in sorted(self.replicas.items())
            ),
            error=self.error if self.state == "END" else "",
        )


class Deployment:
    """A model that is served: the version that answers, one that is coming, those that are going.

    Attributes:
        name: of the model.
        follows: whether newer versions are picked up by themselves.
        replicas: how many each version has.
        resources: what each replica needs.
        runs: versions, in the order in which they were started; of those that ended only the last is kept.
        default: the version that answers; `None` when the model is being undeployed.
        refused: versions that could not start and are not tried again by themselves.
    """

    def __init__(self, name: str, *, follows: bool, replicas: int, resources: Resources) -> None:
        self.name = name
        self.follows = follows
        self.replicas = replicas
        self.resources = resources
        self.runs: list[VersionRun] = []
        self.default: int | None = None
        self.refused: set[int] = set()

    def add(self, run: VersionRun) -> None:
        """A version is coming; the first one answers as soon as it can, callers wait for it."""
        self.runs = [other for other in self.runs if other.state != "END"] + [run]
        if self.default is None:
            self.default = run.version

    def live(self) -> list[VersionRun]:
        """Versions that take requests or will."""
        return [run for run in self.runs if run.state in ("LOADING", "AVAILABLE")]

    def newest(self) -> VersionRun | None:
        """The version that was started last, unless it has ended or is going."""
        live = self.live()
        return live[-1] if live else None

    def take_over(self) -> list[VersionRun]:
        """Let the version started last answer if it is available; returns those that are to go for it."""
        newest = self.newest()
        if newest is None or newest.state != "AVAILABLE":
            return []
        self.default = newest.version
        return self.retire([run for run in self.live() if run is not newest])

    def withdraw_others(self, run: VersionRun) -> list[VersionRun]:
        """Make `run` the version that is wanted: what is still loading in its place goes; returns that."""
        return self.retire([other for other in self.live() if other is not run and other.state == "LOADING"])

    def retire(self, runs: list[VersionRun]) -> list[VersionRun]:
        """Let versions finish what they hold and take nothing more; returns them."""
        for run in runs:
            run.state = "UNLOADING"
        self._settle_default()
        return runs

    def end(self, run: VersionRun) -> None:
        """A version has ended: keep it as the only one that has, so that its state can still be asked for."""
        self.runs = [other for other in self.runs if other.state != "END" or other is run]
        self._settle_default()

    def _settle_default(self) -> None:
        live = self.live()
        if self.default not in [run.version for run in live]:
            self.default = live[-1].version if live else None

    def describe(self) -> dict[str, Any]:
        """Its state for a person, as plain data."""
        return {
            "default": self.default,
            "follows_newest": self.follows,
            "versions": {run.version: run.describe() for run in self.runs},
        }

    def route(self) -> ModelRoute:
        """What the gateway is told."""
        shown: dict[int, VersionRun] = {}
        for run in self.runs:  # a version that was started again is shown once, the newer start counts
            if run.version not in shown or shown[run.version].state == "END" or run.state != "END":
                shown[run.version] = run
        versions = tuple(shown[version].route() for version in sorted(shown))
        return ModelRoute(name=self.name, default=self.default, versions=versions)
