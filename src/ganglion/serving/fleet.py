"""The replicas of all deployed models: carries out what their deployments decide, through the supervisor.

A replica, or a whole version, that is to go leaves the routes first; its job is told once the gateway has settled on
routes without it, so that it holds no request any more.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress

from ganglion.core.errors import GanglionError, ModelError, UserError
from ganglion.core.events import Event, JobFinished
from ganglion.core.ids import Ids
from ganglion.core.log import get_logger
from ganglion.core.resources import Resources
from ganglion.execution.backend import Capacity
from ganglion.execution.supervisor import Job, Listener, Supervisor
from ganglion.serving.deployment import Deployment
from ganglion.serving.gateway_control import GatewayControl
from ganglion.serving.hanging import Hanging
from ganglion.serving.load import Load
from ganglion.serving.options import ServingOptions
from ganglion.serving.policy import VersionPolicy
from ganglion.serving.repository import ModelRepository
from ganglion.serving.rollout import Canary
from ganglion.serving.servable import check_servable
from ganglion.serving.services import model_service
from ganglion.serving.traffic import Traffic
from ganglion.serving.version_run import VersionRun

SETTLE_TIMEOUT = 40.0
"""Seconds after which a replica or a version is ended although the gateway has not said that it is through."""

_log = get_logger(part="serving.fleet")


class Fleet:
    """Belongs to the controller's thread.

    Args:
        supervisor: runs the replicas.
        repository: where versions come from.
        ids: where ids of jobs come from.
        gateway: is told where replicas are.
        listen: makes a listener, for the supervisor's thread, of a function for the controller's.

    Attributes:
        deployments: models that are served, by name.
        jobs: services that run, by id.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        repository: ModelRepository,
        ids: Ids,
        gateway: GatewayControl,
        listen: Callable[[Callable[[Event], None]], Listener],
    ) -> None:
        self.deployments: dict[str, Deployment] = {}
        self.jobs: dict[str, Job] = {}
        self._supervisor = supervisor
        self._repository = repository
        self._ids = ids
        self._gateway = gateway
        self._listen = listen
        self._draining: dict[str, tuple[int, float]] = {}
        self._shrinking: dict[str, tuple[VersionRun, int, float]] = {}

    # versions

    def serve(
        self,
        name: str,
        version: int,
        options: ServingOptions,
        policy: VersionPolicy,
        *,
        canary: Canary | None = None,
    ) -> VersionRun:
        """Serve a version of a model in this way; what it replaces goes when it is ready, or when it has been tried.

        Args:
            name: of the model.
            version: that is to answer.
            options: how.
            policy: what is served when the repository changes.
            canary: how the version is tried before it takes over.

        Raises:
            UserError: there is nothing beside which it could be tried.
            ModelError: the package cannot be served, or not beside the version that answers.
            SpecError: the backend can never run a replica.
        """
        deployment = self.deployments.get(name) or Deployment(name, options, policy)
        if canary is not None:
            deployment.check_canary(self._repository.manifest(name, version), version)
        deployment.options = options
        deployment.refused.discard(version)
        if canary is not None:
            return self._try_out(deployment, version, canary, policy)
        before, deployment.policy = deployment.policy, policy
        try:
            run = self._start(deployment, version)
        except GanglionError:
            deployment.policy = before
            raise
        deployment.policy = policy
        return run

    def scale(self, name: str, options: ServingOptions) -> Callable[[], bool]:
        """Serve a model with other numbers of replicas; returns whether they are there."""
        deployment = self.deployments[name]
        deployment.options = options
        ceiling = self._ceiling(options.resources)
        for run in deployment.live():
            self._resize(run, deployment.fitting(run, ceiling))
        self._gateway.push()
        return lambda: all(len(run.ready) == run.wanted for run in deployment.live())

    def roll_back(self, name: str, reason: str) -> VersionRun:
        """Leave the version that is tried; without one, go back to the version that answered before.

        Returns:
            The version that answers, or will.

        Raises:
            UserError: none is tried and none answered before.
        """
        deployment = self.deployments[name]
        left = deployment.default
        if deployment.rollout is not None:
            left = deployment.rollout.version
            self._go(deployment.abandon(reason))
            self._gateway.push()
            run = next(run for run in deployment.live() if run.version == deployment.default)
        elif deployment.previous is None or left is None:
            raise UserError(f"No version of model {name!r} answered before {left}; there is nothing to go back to.")
        else:
            back = deployment.previous
            run = self.serve(name, back, deployment.options, VersionPolicy.of(back))
            deployment.refused.add(left)
            deployment.previous = None
            deployment.outcome = f"Version {left} was rolled back: {reason}"
        _log.warning("rolled_back", model=name, version=left, reason=reason)
        return run

    def retire(self, name: str) -> set[str]:
        """Serve a model no longer; requests in hand are answered. Returns the jobs that end for it."""
        deployment = self.deployments.pop(name)
        self._go(deployment.retire(deployment.live()))
        self._gateway.push()
        return {run.job for run in deployment.runs}

    def when_serving(self, name: str, run: VersionRun) -> Future[None]:
        """Done once the gateway sends requests to a version."""

        def failed() -> str:
            if run.served or run.state not in ("UNLOADING", "END"):
                return ""
            return _not_served(name, run)

        return self._gateway.when(lambda: run.served, failed)

    def _start(self, deployment: Deployment, version: int, percent: float = 100.0) -> VersionRun:
        """Start a version unless it is running, with the replicas that so many percent of the requests need."""
        options = deployment.options
        ceiling = self._ceiling(options.resources)
        running = self._running(deployment, version)
        if running is not None:
            wanted = deployment.bounded(max(running.wanted, deployment.start_with(ceiling)), ceiling)
            if deployment.tried() is running and len(running.ready) < wanted and not options.elastic:
                running.load_on()  # the one that answers stays until all are there
            self._go(self._prefer(deployment, running))
            self._resize(running, wanted)
            self._gateway.push()
            return running
        manifest = self._repository.manifest(deployment.name, version)
        check_servable(manifest)
        job = self._ids.new(f"serve-{deployment.name}-{version}")
        wanted = deployment.start_with(ceiling, percent)
        least = min(wanted, max(1, options.min_replicas)) if options.elastic else None
        run = VersionRun(job, version, manifest, wanted, least=least)
        folder = self._repository.path(deployment.name, version).absolute()
        run.package = str(folder) if options.fused else ""
        spec = model_service(
            job,
            model=deployment.name,
            version=version,
            folder=folder,
            manifest=manifest,
            replicas=run.wanted,
            resources=options.resources,
            max_batch=options.max_batch,
            functions=options.sharding.functions if options.sharding is not None else (),
            import_path=options.import_path,
            gentle=run.wanted if deployment.default is not None else 0,
        )
        self.jobs[job] = self._supervisor.submit(spec, self._listen(lambda event: self._observe(deployment, event)))
        deployment.add(run)
        self._read_labels(deployment)
        self.deployments[deployment.name] = deployment
        self._gateway.push()
        return run

    @staticmethod
    def _running(deployment: Deployment, version: int) -> VersionRun | None:
        return next((run for run in deployment.live() if run.version == version), None)

    @staticmethod
    def _prefer(deployment: Deployment, run: VersionRun) -> list[VersionRun]:
        """Let a version that runs be the one that is wanted; returns those that are to go for it."""
        if deployment.policy.name == "all":
            return []
        if deployment.tried() is run and run.state == "AVAILABLE":
            return deployment.promote("on request") + deployment.withdraw_others(run)
        return deployment.withdraw_others(run)

    def _try_out(self, deployment: Deployment, version: int, canary: Canary, policy: VersionPolicy) -> VersionRun:
        """Start a version, or take one that is tried already, and give it its part of the requests."""
        run = self._running(deployment, version) or self._start(deployment, version, canary.percent)
        others = [other for other in deployment.live() if other is not run and other.version != deployment.default]
        self._go(deployment.retire(others))
        deployment.try_out(run, canary, policy, time.monotonic())
        _log.info("canary", model=deployment.name, version=version, percent=canary.percent)
        self._gateway.push()
        return run

    def _judge(self, deployment: Deployment) -> None:
        """Let a version that is tried go on, take over or go."""
        version = deployment.rollout.version if deployment.rollout is not None else None
        decision, leaving = deployment.judge(time.monotonic())
        if decision.what == "wait":
            return
        if decision.what == "grow":
            self._grow(deployment)
            return
        if decision.what == "roll back":
            _log.error("rolled_back", model=deployment.name, version=version, reason=decision.reason)
        else:
            _log.info(decision.what, model=deployment.name, version=version, reason=decision.reason)
        self._go(leaving)
        self._gateway.push()

    def _grow(self, deployment: Deployment) -> None:
        """Start the replicas that the version that is tried needs before it gets its next part."""
        run, needed = deployment.tried(), deployment.replicas_next()
        if run is not None and run.wanted < needed:
            self._resize(run, needed)
            self._gateway.push()

    def take_traffic(self, traffic: Sequence[Traffic]) -> None:
        """Compare versions by what the gateway observed."""
        for one in traffic:
            deployment = self.deployments.get(one.model)
            if deployment is not None:
                deployment.take_traffic(one)
        for deployment in self.deployments.values():
            self._judge(deployment)

    def _observe(self, deployment: Deployment, event: Event) -> None:
        run = next((run for run in deployment.runs if run.job == event.job), None)
        if run is None:
            return
        before = run.route()
        run.observe(event)
        deployment.note_death(run, event)
        self._judge(deployment)
        if run.hopeless:
            deployment.refused.add(run.version)
            if deployment.default != run.version:  # nobody may wait for it
                read = f"ganglion services logs {deployment.name}:{run.version}"
                _log.error("version_failed", model=deployment.name, version=run.version, error=run.error, log=read)
            self.jobs[run.job].cancel()
        if run.failing and deployment.options.min_replicas == 0 and run.held_until is None:
            _log.error("start_failed", model=deployment.name, version=run.version, error=run.error)
            run.hold(time.monotonic())
            self._resize(run, 0)
        if isinstance(event, JobFinished):
            del self.jobs[run.job]
            self._draining.pop(run.job, None)
            self._shrinking.pop(run.job, None)
            deployment.end(run)
        if run.route() != before:
            self._go(deployment.take_over(time.monotonic()))
            self._gateway.push()
        self._gateway.check_waiting()

    def _go(self, runs: Sequence[VersionRun]) -> None:
        """End versions that take no more requests once the gateway has settled on the routes that are pushed next."""
        for run in runs:
            self._draining[run.job] = (self._gateway.generation + 1, time.monotonic() + SETTLE_TIMEOUT)

    # numbers of replicas

    def take_loads(self, loads: Sequence[Load]) -> None:
        """Let the numbers of replicas follow what the gateway observed."""
        for load in loads:
            deployment = self.deployments.get(load.model)
            if deployment is None:
                continue
            ceiling = self._ceiling(deployment.options.resources)
            followed = deployment.follow(load, now=time.monotonic(), ceiling=ceiling)
            if followed is not None:
                run, wanted = followed
                _log.info("scale", model=load.model, version=load.version, before=run.wanted, after=wanted)
                self._resize(run, wanted)
                self._gateway.push()

    def _resize(self, run: VersionRun, wanted: int) -> None:
        """Want another number of replicas; the routes have to be pushed after it."""
        asked = len(run.members)
        run.resize(wanted)
        if len(run.members) > asked:
            self.jobs[run.job].scale(len(run.members))
        if run.wanted < len(run.members):
            self._shrinking[run.job] = (run, self._gateway.generation + 1, time.monotonic() + SETTLE_TIMEOUT)

    def _ceiling(self, resources: Resources) -> int:
        return most_replicas(self._supervisor.backend.capacity(), resources)

    def replace_hanging(self, hanging: Sequence[Hanging]) -> None:
        """Have replicas ended at once that do not come back from what they are at; others start in their place."""
        runs = [(deployment, run) for deployment in self.deployments.values() for run in deployment.runs]
        for one in hanging:
            for deployment, run in runs:
                found = run.give_up(one)
                if found is not None:
                    told = {"replica": one.replica, "seconds": round(one.seconds, 3)}
                    _log.error("replica_hanging", model=deployment.name, version=run.version, **told)
                    self.jobs[run.job].accuse(*found)

    # what becomes due

    def end_settled(self) -> None:
        """End what the gateway sends nothing to any more."""
        now, settled = time.monotonic(), self._gateway.settled
        for job, (generation, deadline) in tuple(self._draining.items()):
            if settled >= generation or now >= deadline:
                del self._draining[job]
                self._shrinking.pop(job, None)
                self.jobs[job].drain()
        for job, (run, generation, deadline) in tuple(self._shrinking.items()):
            if settled >= generation or now >= deadline:
                del self._shrinking[job]
                run.drop()
                self.jobs[job].scale(len(run.members))

    def look_around(self) -> None:
        """Pick up newer versions, end what was waited for in vain, and let failed starts be tried again."""
        self.end_settled()
        relabelled = [deployment for deployment in self.deployments.values() if self._read_labels(deployment)]
        if relabelled:
            self._gateway.push()
        for deployment in tuple(self.deployments.values()):
            released = [run for run in deployment.live() if run.release(time.monotonic())]
            if released:
                self._gateway.push()
            self._judge(deployment)
            self._keep_up(deployment)

    def _keep_up(self, deployment: Deployment) -> None:
        """Serve the versions that the policy asks for; while one is tried everything stays as it is."""
        policy = deployment.policy
        if deployment.rollout is not None or (policy.version is not None and policy.name == "specific"):
            return
        deployment.complete = self._repository.versions(deployment.name, deployment.complete)
        wanted = policy.wanted(deployment.complete, deployment.labels, deployment.refused)
        live = {run.version for run in deployment.live()}
        if policy.name == "all":
            for version in wanted:
                if version not in live:
                    self._follow(deployment, version)
            gone = [run for run in deployment.live() if wanted and run.version not in wanted]
            if gone:
                self._go(deployment.retire(gone) + deployment.take_over(time.monotonic()))
                self._gateway.push()
        elif wanted and self._is_newer(deployment, wanted[-1]):
            self._follow(deployment, wanted[-1])

    @staticmethod
    def _is_newer(deployment: Deployment, version: int) -> bool:
        """Whether a version is not the one that is wanted already; `latest` never goes back by itself."""
        newest = deployment.newest()
        if newest is None:
            return True
        return version > newest.version if deployment.policy.name == "latest" else version != newest.version

    def _read_labels(self, deployment: Deployment) -> bool:
        """Take over the aliases of a model; whether they changed. While their file is damaged the last ones stay."""
        before = deployment.labels
        with suppress(ModelError):
            deployment.labels = self._repository.aliases(deployment.name)
        return deployment.labels != before

    def _follow(self, deployment: Deployment, version: int) -> None:
        canary = deployment.options.canary if deployment.policy.name != "all" else None
        answers = any(run.served and run.version == deployment.default for run in deployment.live())
        try:
            if canary is not None and answers:
                deployment.check_canary(self._repository.manifest(deployment.name, version), version)
                self._try_out(deployment, version, canary, deployment.policy)
            else:
                self._start(deployment, version)
        except GanglionError as error:
            deployment.refused.add(version)
            _log.error("version_refused", model=deployment.name, version=version, error=str(error))


def _not_served(name: str, run: VersionRun) -> str:
    """Why a version of a model is not served, for a person."""
    if not run.error:
        return f"{name}:{run.version} was not served: it was replaced before it was ready."
    read = f"'ganglion services logs {name}:{run.version}' shows what its replicas wrote."
    return f"{name}:{run.version} was not served: {run.error.removesuffix('.')}. {read}"


def most_replicas(capacity: Capacity, resources: Resources) -> int:
    """How many replicas a backend could hold if nothing else ran.

    Args:
        capacity: of the backend.
        resources: of each replica; where it declares nothing there is no end.
    """
    needs = [name for name in ("cpu", "memory", "gpu") if getattr(resources, name) > 0]
    if not needs:
        return sys.maxsize
    return sum(
        min(int(getattr(node, name) / getattr(resources, name) + 1e-4) for name in needs) for node in capacity.nodes
    )
