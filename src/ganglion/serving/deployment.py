"""What the controller knows of a deployed model: a value fed with events, with no process and no thread in it."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from ganglion.artifacts.package import PackageManifest
from ganglion.core.errors import ModelError, UserError
from ganglion.core.events import Event, ExitKind, MemberExited
from ganglion.serving.load import Load
from ganglion.serving.options import ServingOptions
from ganglion.serving.policy import VersionPolicy
from ganglion.serving.rollout import Canary, Decision, Rollout, decide, enter_step
from ganglion.serving.routes import CanaryRoute, ModelRoute
from ganglion.serving.traffic import Traffic
from ganglion.serving.version_run import VersionRun


class Deployment:
    """A model that is served: the version that answers, one that is coming, those that are going.

    Attributes:
        name: of the model.
        policy: which versions are served when the repository changes.
        options: how it is served; what is said of resources counts from the next version on.
        runs: versions, in the order in which they were started; of those that ended only the last is kept.
        default: the version that answers; `None` when the model is being undeployed.
        refused: versions that could not start or were rolled back, and are not tried again by themselves.
        labels: versions by the aliases that stand for them.
        complete: versions that the repository is known to hold.
        rollout: the version that is tried, and what was observed of it.
        previous: the version that answered before, to which can be gone back.
        outcome: what became of the last version that was tried, or why one was left; empty if none was.
    """

    def __init__(self, name: str, options: ServingOptions, policy: VersionPolicy) -> None:
        self.name = name
        self.policy = policy
        self.options = options
        self.runs: list[VersionRun] = []
        self.default: int | None = None
        self.refused: set[int] = set()
        self.labels: dict[str, int] = {}
        self.complete: tuple[int, ...] = ()
        self.rollout: Rollout | None = None
        self.previous: int | None = None
        self.outcome = ""
        self._verdict = ""
        self._promised = policy
        self._growing = 0

    def start_with(self, ceiling: int, percent: float = 100.0) -> int:
        """Replicas that a version begins with: as many as the one that answers has, and one even where none may do.

        Args:
            ceiling: most replicas that the backend could hold.
            percent: of the requests that it is given; of the replicas it gets as much.
        """
        answering = next((run.wanted for run in self.live() if run.version == self.default), 0)
        return _share(self.bounded(max(1, answering), ceiling), percent)

    def fitting(self, run: VersionRun, ceiling: int) -> int:
        """Replicas that a version is to have under the options in force: the allowed number nearest to what it has."""
        rollout = self.rollout
        if rollout is not None and run is self.tried():
            return self.start_with(ceiling, rollout.percent)
        return self.bounded(run.wanted, ceiling)

    def bounded(self, replicas: int, ceiling: int) -> int:
        """The allowed number that is nearest.

        Args:
            replicas: any number.
            ceiling: most replicas that the backend could hold; a fixed number is not lowered to it.
        """
        options = self.options
        highest = options.max_replicas or ceiling
        return max(options.min_replicas, min(replicas, min(highest, ceiling) if options.elastic else highest))

    def follow(self, load: Load, *, now: float, ceiling: int) -> tuple[VersionRun, int] | None:
        """How many replicas of which version a load asks for; `None` when it changes nothing.

        Args:
            load: what the gateway observed.
            now: monotonic seconds.
            ceiling: most replicas that the backend could hold.
        """
        run = next((run for run in reversed(self.runs) if run.version == load.version and run.state != "END"), None)
        if run is None or not self.options.elastic:
            return None
        options = self.options
        if self.rollout is not None and run is self.tried():
            share = _share(options.min_replicas, self.rollout.percent) if options.min_replicas else 0
            options = msgspec.structs.replace(options, min_replicas=max(share, self._growing))
        wanted = run.follow(load, options, now=now, ceiling=ceiling)
        return (run, wanted) if wanted != run.wanted else None

    def add(self, run: VersionRun) -> None:
        """A version is coming; the first one answers as soon as it can, callers wait for it."""
        self.runs = [other for other in self.runs if other.state != "END"] + [run]
        if self.default is None:
            self.default = run.version

    def live(self) -> list[VersionRun]:
        """Versions that take requests or will."""
        return [run for run in self.runs if run.state in ("LOADING", "AVAILABLE")]

    def newest(self) -> VersionRun | None:
        """The version that was started last, unless it has ended, is going, or is only tried."""
        tried = self.tried()
        return next((run for run in reversed(self.live()) if run is not tried), None)

    def take_over(self, now: float) -> list[VersionRun]:
        """Let the version started last answer, or be tried, if it is available; returns those that are to go for it.

        Args:
            now: monotonic seconds.
        """
        if self.policy.name == "all":
            self._answer_with(max((run.version for run in self.live() if run.state == "AVAILABLE"), default=None))
            return []
        newest, tried = self.newest(), self.tried()
        if tried is not None and tried.state == "AVAILABLE" and self.rollout is not None and self.rollout.since is None:
            self.rollout = enter_step(self.rollout, 0, now)
        if newest is None or newest.state != "AVAILABLE" or (tried is not None and newest.version == self.default):
            return []
        self._answer_with(newest.version)
        return self.retire([run for run in self.live() if run is not newest])

    def _answer_with(self, version: int | None) -> None:
        if version is None or version == self.default:
            return
        if self.default not in self.refused:
            self.previous = self.default
        self.default = version

    def withdraw_others(self, run: VersionRun) -> list[VersionRun]:
        """Make `run` the version that is wanted: what is loading or tried in its place goes; returns that.

        Where it can answer at once everything else goes.
        """
        tried = self.tried()
        leaving = [other for other in self.live() if other is not run]
        if run.state == "AVAILABLE":
            self._answer_with(run.version)
        else:
            leaving = [other for other in leaving if other.state == "LOADING" or other is tried]
        self.rollout = None
        self.runs = [*(other for other in self.runs if other is not run), run]
        return self.retire(leaving)

    def retire(self, runs: list[VersionRun]) -> list[VersionRun]:
        """Let versions finish what they hold and take nothing more; returns them."""
        for run in runs:
            run.state = "UNLOADING"
        self._settle()
        return runs

    def end(self, run: VersionRun) -> None:
        """A version has ended: keep it as the only one that has, so that its state can still be asked for."""
        self.runs = [other for other in self.runs if other.state != "END" or other is run]
        if self.rollout is not None and self.rollout.version == run.version:
            self.refused.add(run.version)
            self.outcome = f"Version {run.version} ended while it was tried: {run.error}"
        self._settle()

    def _settle(self) -> None:
        """Let a live version answer, and try none that is not live or that answers."""
        versions = [run.version for run in self.live()]
        if self.default not in versions:
            self.default = versions[-1] if versions else None
        if self.rollout is not None and (self.default == self.rollout.version or self.rollout.version not in versions):
            self.rollout = None

    # trying a version

    def tried(self) -> VersionRun | None:
        """The version that is tried, or is loading for that."""
        rollout = self.rollout
        return next((run for run in self.live() if rollout is not None and run.version == rollout.version), None)

    def check_canary(self, manifest: PackageManifest, version: int) -> None:
        """Refuse a version that cannot be tried beside the one that answers.

        Raises:
            UserError: nothing answers yet, all versions are served, or it is the one that answers.
            ModelError: it takes other inputs than the one that answers, whose callers would be refused.
        """
        answering = next((run for run in self.live() if run.version == self.default), None)
        if answering is None or not answering.served:
            raise UserError(f"No version of model {self.name!r} answers yet; serve version {version} without a canary.")
        if self.policy.name == "all":
            raise UserError(f"All versions of model {self.name!r} are served and asked by number; none can be tried.")
        if answering.version == version:
            raise UserError(f"Version {version} of model {self.name!r} answers already; there is nothing to try.")
        if answering.manifest.signature.inputs != manifest.signature.inputs:
            raise ModelError(
                f"Version {version} of model {self.name!r} takes other inputs than version {answering.version}: "
                f"{manifest.signature.inputs} and {answering.manifest.signature.inputs}. "
                "Serve it without a canary, or under another name."
            )

    def try_out(self, run: VersionRun, canary: Canary, policy: VersionPolicy, now: float) -> None:
        """Give a version a part of the requests once it is available.

        Args:
            run: the version.
            canary: how it is tried.
            policy: in force once it takes over.
            now: monotonic seconds.
        """
        self._promised = policy
        self._verdict = ""
        self.rollout = Rollout(version=run.version, canary=canary)
        if run.state == "AVAILABLE":
            self.rollout = enter_step(self.rollout, 0, now)

    def take_traffic(self, traffic: Traffic) -> None:
        """Take what a gateway observed into account, if it is of one of the versions that are compared."""
        rollout = self.rollout
        if rollout is None or rollout.since is None:
            return
        more = (traffic.requests, traffic.errors, traffic.seconds)
        if traffic.version == rollout.version:
            self.rollout = msgspec.structs.replace(rollout, trial=rollout.trial.plus(*more))
        elif traffic.version == self.default:
            self.rollout = msgspec.structs.replace(rollout, baseline=rollout.baseline.plus(*more))

    def note_death(self, run: VersionRun, event: Event) -> None:
        """Take into account that a replica of the version that is tried ended by itself."""
        rollout = self.rollout
        if rollout is None or run.version != rollout.version or run.state != "AVAILABLE":
            return
        if isinstance(event, MemberExited) and event.exit.kind is not ExitKind.SUCCESS and event.member in run.members:
            self.rollout = msgspec.structs.replace(rollout, deaths=rollout.deaths + 1)

    def judge(self, now: float) -> tuple[Decision, list[VersionRun]]:
        """Let the version that is tried go on, take over, or go; returns why, and the versions that are to go."""
        if self.rollout is None:
            return Decision("wait", ""), []
        decision = self._grown(decide(self.rollout, now), now)
        self._growing = self.replicas_next() if decision.what == "grow" else 0  # not taken back before they are ready
        self._verdict = decision.reason
        leaving: list[VersionRun] = []
        match decision.what:
            case "advance":
                self.rollout = enter_step(self.rollout, self.rollout.step + 1, now)
            case "promote":
                leaving = self.promote(decision.reason)
            case "roll back":
                leaving = self.abandon(decision.reason)
            case "grow" | "wait":
                pass
        return decision, leaving

    def _grown(self, decision: Decision, now: float) -> Decision:
        """Before a version that is tried gets more requests it has their replicas, or all for which there is room."""
        tried = self.tried()
        if decision.what not in ("advance", "promote") or tried is None:
            return decision
        needed = self.replicas_next()
        if len(tried.ready) >= needed or tried.full(now):
            return decision
        return Decision(
            "grow", f"{decision.reason}; {len(tried.ready)} of {needed} replicas are ready for its next part"
        )

    def replicas_next(self) -> int:
        """Replicas that the version that is tried needs for its next percentage."""
        assert self.rollout is not None
        steps = self.rollout.canary.steps[self.rollout.step :]
        answering = next((run.wanted for run in self.live() if run.version == self.default), 0)
        needed = _share(answering, steps[0] if steps else self.rollout.percent)
        return min(needed, self.options.max_replicas or needed)

    def promote(self, reason: str) -> list[VersionRun]:
        """Let the version that is tried take over; returns the version that goes for it."""
        assert self.rollout is not None
        self.outcome = f"Version {self.rollout.version} took over: {reason}"
        replaced = self.default
        self._answer_with(self.rollout.version)
        self.rollout = None
        self.policy = self._promised
        return self.retire([run for run in self.live() if run.version == replaced])

    def abandon(self, reason: str) -> list[VersionRun]:
        """Try a version no longer; returns it."""
        assert self.rollout is not None
        version = self.rollout.version
        self.outcome = f"Version {version} was rolled back: {reason}"
        self.refused.add(version)
        return self.retire([run for run in self.live() if run.version == version])

    # views

    def describe(self) -> dict[str, Any]:
        """Its state for a person, as plain data."""
        return {
            "default": self.default,
            "policy": str(self.policy),
            "elastic": self.options.elastic,
            "versions": {run.version: run.describe() for run in self.runs},
            "canary": self._describe_canary(),
            "previous": self.previous,
            "last_rollout": self.outcome,
        }

    def _describe_canary(self) -> dict[str, Any] | None:
        rollout = self.rollout
        if rollout is None:
            return None
        return {
            "version": rollout.version,
            "percent": rollout.percent if rollout.since is not None else 0.0,
            "steps": list(rollout.canary.steps),
            "requests": rollout.trial.requests,
            "errors": rollout.trial.errors,
            "state": self._verdict or decide(rollout, rollout.since or 0.0).reason,
        }

    def route(self) -> ModelRoute:
        """What the gateway is told."""
        shown: dict[int, VersionRun] = {}
        for run in self.runs:  # a version that was started again is shown once, the newer start counts
            if run.version not in shown or shown[run.version].state == "END" or run.state != "END":
                shown[run.version] = run
        versions = tuple(shown[version].route() for version in sorted(shown))
        options = self.options
        return ModelRoute(
            name=self.name,
            default=self.default,
            versions=versions,
            max_batch=options.max_batch,
            max_queue=options.max_queue,
            timeout=options.timeout,
            sharding=options.sharding,
            container_concurrency=options.container_concurrency,
            labels=self.labels,
            elastic=options.elastic,
            canary=self._canary_route(),
            balancing=options.balancing,
        )

    def _canary_route(self) -> CanaryRoute | None:
        rollout = self.rollout
        return (
            CanaryRoute(rollout.version, rollout.percent) if rollout is not None and rollout.since is not None else None
        )


def _share(replicas: int, percent: float) -> int:
    """The replicas that so many percent of the requests need, at least one."""
    return max(1, math.ceil(replicas * percent / 100))
