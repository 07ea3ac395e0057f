"""Serves models of a repository: keeps the wanted versions running and tells the gateway where they are.

One thread does the work; events of the jobs and calls of the user only enter its queue. A new version is started
beside the old one, takes over once its replicas are ready, and the old one ends once the gateway says that it holds
nothing any more: no request is lost.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from ganglion.core.errors import ControlError, GanglionError, ModelError, NotFoundError, UserError, suggest
from ganglion.core.events import (
    Event,
    JobFinished,
    MemberExited,
    MemberJoined,
    MemberReady,
    MemberReported,
    MemberSampled,
)
from ganglion.core.ids import Ids, RandomIds
from ganglion.core.log import get_logger
from ganglion.core.resources import Resources
from ganglion.execution.supervisor import Job, Supervisor
from ganglion.serving.callers import Callers
from ganglion.serving.deployment import Deployment, VersionRun
from ganglion.serving.gateway.ensemble import COMBINATIONS
from ganglion.serving.port import hold_port
from ganglion.serving.repository import ModelRepository
from ganglion.serving.routes import SETTLED, EnsembleRoute, Routes
from ganglion.serving.runtime import check_servable
from ganglion.serving.services import gateway_service, model_service
from ganglion.serving.waiter import Waiter

SHARE = Resources(cpu=0.25)
"""What a replica, and the gateway, asks for where nothing else is said."""

WATCH_INTERVAL = 0.5
"""Seconds between two looks for newer versions."""

SETTLE_TIMEOUT = 40.0
"""Seconds after which an old version is ended although the gateway has not said that it is through."""

T = TypeVar("T")
_log = get_logger(part="serving.controller")


class ModelServer:
    """A gateway and the models behind it.

    Args:
        supervisor: runs the processes; not closed with the server.
        repository: where versions come from.
        host: address that the gateway binds.
        port: port that it binds; 0 chooses a free one, which is kept when the gateway has to be started again.
        ids: where ids of jobs come from.
        gateway: what the gateway process needs.

    Attributes:
        url: where the gateway answers, such as `http://127.0.0.1:8501`; the same for as long as the server lives.

    Raises:
        UserError: the port is taken.
        SpecError: the backend can never run the gateway.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        repository: ModelRepository,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        ids: Ids | None = None,
        gateway: Resources = SHARE,
    ) -> None:
        self._supervisor = supervisor
        self._repository = repository
        self._ids = ids or RandomIds()
        self._port = hold_port(host, port)
        address = f"[{host}]" if ":" in host else host
        self.url = f"http://{address}:{self._port.getsockname()[1]}"
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._deployments: dict[str, Deployment] = {}
        self._ensembles: dict[str, EnsembleRoute] = {}
        self._callers: Callers | None = None
        self._jobs: dict[str, Job] = {}
        self._generation = 0
        self._settled = 0
        self._draining: dict[str, tuple[int, float]] = {}
        self._waiting: list[Waiter] = []
        self._closed = False
        self._gateway_state = "starting"
        spec = gateway_service(self._ids.new("gateway"), host=host, port=self._port.getsockname()[1], resources=gateway)
        try:
            self._gateway = supervisor.submit(spec, self._listen(self._observe_gateway))
        except GanglionError:
            self._port.close()
            raise
        self._thread = threading.Thread(target=self._loop, name="ganglion-serving", daemon=True)
        self._thread.start()

    def deploy(
        self,
        name: str,
        version: int | None = None,
        *,
        replicas: int = 2,
        resources: Resources = SHARE,
        wait: bool = True,
        timeout: float = 120.0,
    ) -> int:
        """Serve a model; for one that is served already, change to this version and number of replicas.

        Args:
            name: of the model.
            version: which version; `None` serves the newest and picks up newer ones by itself.
            replicas: how many.
            resources: what each needs; a change takes effect with the next version.
            wait: return when the gateway sends requests to the version.
            timeout: seconds to wait; the deployment goes on when they are over.

        Returns:
            The version.

        Raises:
            NotFoundError: there is no such model or version.
            ModelError: the package is invalid, or its replicas end before they are ready.
            SpecError: the backend can never run a replica.
            ControlError: it was not ready within the timeout, or the server is closed.
        """
        if replicas < 1:
            raise UserError(f"{replicas} replicas were asked for; at least one is needed.")
        wanted = self._repository.latest(name) if version is None else version
        check_servable(self._repository.manifest(name, wanted, verify=True))

        def change() -> Future[None]:
            if name in self._ensembles:
                raise UserError(f"{name!r} is the name of an ensemble; undeploy it first or use another name.")
            deployment = self._deployments.get(name)
            if deployment is None:
                deployment = Deployment(name, follows=False, replicas=replicas, resources=resources)
            deployment.replicas, deployment.resources = replicas, resources
            deployment.refused.discard(wanted)
            run = self._serve(deployment, wanted)
            deployment.follows = version is None
            return self._when_serving(run)

        self._wait(self._call(change), f"version {wanted} of model {name!r}", timeout if wait else None)
        return wanted

    def update(self, name: str, version: int | None = None, *, wait: bool = True, timeout: float = 120.0) -> int:
        """Change a served model to another version, with as many replicas as it has; see `deploy`."""
        deployment = self._deployments.get(name)
        if deployment is None:
            raise NotFoundError(f"Model {name!r} is not served. {suggest(name, self._deployments)}")
        replicas, resources = deployment.replicas, deployment.resources
        return self.deploy(name, version, replicas=replicas, resources=resources, wait=wait, timeout=timeout)

    def undeploy(self, name: str, *, wait: bool = True, timeout: float = 60.0) -> None:
        """Stop serving a model or an ensemble; requests in hand are answered.

        Raises:
            NotFoundError: it is not served.
            UserError: an ensemble needs it.
            ControlError: its replicas had not ended within the timeout; they still will.
        """

        def change() -> Future[None]:
            if name in self._ensembles:
                del self._ensembles[name]
                self._push()
                return self._when(lambda: True)
            if name not in self._deployments:
                known = (*self._deployments, *self._ensembles)
                raise NotFoundError(f"{name!r} is not served. {suggest(name, known)}")
            users = [ensemble.name for ensemble in self._ensembles.values() if name in ensemble.members]
            if users:
                raise UserError(f"Model {name!r} is a member of the ensemble {', '.join(users)}; undeploy that first.")
            deployment = self._deployments.pop(name)
            self._go(deployment.retire(deployment.live()))
            self._push()
            jobs = {run.job for run in deployment.runs}
            return self._when(lambda: not jobs & self._jobs.keys())

        self._wait(self._call(change), f"the end of {name!r}", timeout if wait else None)

    def combine(
        self, name: str, members: Sequence[str], how: str = "mean", *, wait: bool = True, timeout: float = 30.0
    ) -> None:
        """Give several served models one name whose answer is made of theirs; replaces an ensemble of that name.

        Args:
            name: of the ensemble.
            members: names of served models.
            how: `mean`.
            wait: return when the gateway knows it.
            timeout: seconds to wait.

        Raises:
            NotFoundError: a member is not served.
            UserError: the name is a model's, there are no members or one twice, or `how` is unknown.
            ModelError: the members take or give different things.
            ControlError: the gateway did not know it within the timeout.
        """

        def change() -> Future[None]:
            self._check_ensemble(name, members, how)
            self._ensembles[name] = EnsembleRoute(name=name, members=tuple(members), how=how)
            self._push()
            return self._when(lambda: True)

        self._wait(self._call(change), f"the ensemble {name!r}", timeout if wait else None)

    def limit(self, callers: Callers | None, *, wait: bool = True, timeout: float = 30.0) -> None:
        """Say who may ask the gateway how much; `None` limits nobody. Requests in hand go on.

        Args:
            callers: everybody who may ask.
            wait: return when the gateway knows it.
            timeout: seconds to wait.

        Raises:
            ControlError: the gateway did not know it within the timeout.
        """

        def change() -> Future[None]:
            self._callers = callers
            self._push()
            return self._when(lambda: True)

        self._wait(self._call(change), "the limits of callers", timeout if wait else None)

    def status(self) -> dict[str, Any]:
        """What is served now, as plain data."""
        return self._call(self._describe).result()

    def close(self, timeout: float = 60.0) -> None:
        """Answer what is in hand, then end the gateway and every replica."""
        if self._closed:
            return
        self._closed = True
        end = time.monotonic() + timeout
        for jobs in ([self._gateway], list(self._jobs.values())):
            for job in jobs:
                job.drain()
            for job in jobs:
                try:
                    job.wait(max(0.0, end - time.monotonic()))
                except TimeoutError:
                    job.cancel()
        self._queue.put(None)
        self._thread.join()
        self._port.close()

    # the thread

    def _loop(self) -> None:
        next_look = time.monotonic()
        while True:
            item = self._take(max(0.0, next_look - time.monotonic()))
            if item is None:
                break
            if time.monotonic() >= next_look and not self._closed:
                next_look = time.monotonic() + WATCH_INTERVAL
                self._look_around()
            item()
        while not self._queue.empty():
            item = self._queue.get()
            if item is not None:
                item()
        for waiter in self._waiting:
            waiter.future.set_exception(ControlError("The model server was closed."))

    def _take(self, patience: float) -> Callable[[], None] | None:
        try:
            return self._queue.get(timeout=patience)
        except queue.Empty:
            return lambda: None

    def _call(self, function: Callable[[], T]) -> Future[T]:
        """Run `function` in the thread."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                if self._closed:
                    raise ControlError("The model server is closed.")
                future.set_result(function())
            except Exception as error:  # noqa: BLE001  handed to the caller
                future.set_exception(error)

        if self._closed:
            raise ControlError("The model server is closed.")
        self._queue.put(run)
        return future

    def _listen(self, observe: Callable[[Event], None]) -> Callable[[Event], None]:
        """A listener that hands the events that matter here to the thread."""

        def listen(event: Event) -> None:
            if not isinstance(event, MemberSampled):
                self._queue.put(lambda: observe(event))

        return listen

    def _wait(self, change: Future[Future[None]], what: str, timeout: float | None) -> None:
        """Wait for a change to be accepted and, with a timeout, until it is done."""
        done = change.result()
        if timeout is None:
            return
        try:
            done.result(timeout)
        except TimeoutError as error:
            raise ControlError(f"Waited {timeout:g} s for {what}. Now: {self.status()}") from error

    def _when(self, condition: Callable[[], bool], failed: Callable[[], str] = lambda: "") -> Future[None]:
        """A future that is done once `condition` holds and the gateway knows, or fails with what `failed` says."""
        waiter = Waiter(condition, failed)
        self._waiting.append(waiter)
        self._check_waiting()
        return waiter.future

    def _check_waiting(self) -> None:
        self._waiting = [waiter for waiter in self._waiting if not waiter.check(self._generation, self._settled)]

    # versions

    def _serve(self, deployment: Deployment, version: int) -> VersionRun:
        """Start a version unless it is running; what it replaces goes when it is ready."""
        running = next((run for run in deployment.live() if run.version == version), None)
        if running is not None:
            running.wanted = deployment.replicas
            self._jobs[running.job].scale(deployment.replicas)
            self._go(deployment.withdraw_others(running))
            self._push()
            return running
        manifest = self._repository.manifest(deployment.name, version)
        check_servable(manifest)
        run = VersionRun(self._ids.new(f"serve-{deployment.name}-{version}"), version, manifest, deployment.replicas)
        spec = model_service(
            run.job,
            model=deployment.name,
            version=version,
            folder=self._repository.path(deployment.name, version).absolute(),
            manifest=manifest,
            replicas=deployment.replicas,
            resources=deployment.resources,
            max_batch=deployment.route().max_batch,
        )
        self._jobs[run.job] = self._supervisor.submit(
            spec, self._listen(lambda event: self._observe(deployment, event))
        )
        deployment.add(run)
        self._deployments[deployment.name] = deployment
        self._push()
        return run

    def _observe(self, deployment: Deployment, event: Event) -> None:
        run = next((run for run in deployment.runs if run.job == event.job), None)
        if run is None:
            return
        before = run.route()
        run.observe(event)
        if run.hopeless:
            deployment.refused.add(run.version)
            self._jobs[run.job].cancel()
        if isinstance(event, JobFinished):
            del self._jobs[run.job]
            self._draining.pop(run.job, None)
            deployment.end(run)
        if run.route() != before:
            self._go(deployment.take_over())
            self._push()
        self._check_waiting()

    def _go(self, runs: Sequence[VersionRun]) -> None:
        """End versions that take no more requests once the gateway has settled on the routes that are pushed next."""
        for run in runs:
            self._draining[run.job] = (self._generation + 1, time.monotonic() + SETTLE_TIMEOUT)

    def _end_settled(self) -> None:
        now = time.monotonic()
        for job, (generation, deadline) in tuple(self._draining.items()):
            if self._settled >= generation or now >= deadline:
                del self._draining[job]
                self._jobs[job].drain()

    def _look_around(self) -> None:
        """Pick up newer versions, and end what was waited for in vain."""
        self._end_settled()
        for deployment in tuple(self._deployments.values()):
            if deployment.follows:
                known = max([run.version for run in deployment.live()] + sorted(deployment.refused), default=0)
                newer = self._repository.newer(deployment.name, known)
                if newer is not None:
                    self._follow(deployment, newer)

    def _follow(self, deployment: Deployment, version: int) -> None:
        try:
            self._serve(deployment, version)
        except GanglionError as error:
            deployment.refused.add(version)
            _log.error("version_refused", model=deployment.name, version=version, error=str(error))

    # the gateway

    def _observe_gateway(self, event: Event) -> None:
        match event:
            case MemberJoined():
                self._settled = 0
                self._send()
            case MemberReady():
                self._gateway_state = "ready"
            case MemberExited(exit=exit_):
                self._gateway_state = f"starting again: {exit_.message}"
            case MemberReported(values=values) if SETTLED in values:
                self._settled = max(self._settled, int(values[SETTLED]))
                self._end_settled()
                self._check_waiting()
            case _:
                pass

    def _push(self) -> None:
        """Tell the gateway what is served now."""
        self._generation += 1
        self._send()

    def _send(self) -> None:
        if not self._closed:
            self._gateway.send(self._routes().to_data())

    def _routes(self) -> Routes:
        return Routes(
            generation=self._generation,
            models=tuple(deployment.route() for deployment in self._deployments.values()),
            ensembles=tuple(self._ensembles.values()),
            callers=self._callers,
        )

    # the rest

    def _when_serving(self, run: VersionRun) -> Future[None]:
        def failed() -> str:
            if run.served or run.state not in ("UNLOADING", "END"):
                return ""
            return f"Version {run.version} was not served: {run.error or 'it was replaced before it was ready'}."

        return self._when(lambda: run.served, failed)

    def _check_ensemble(self, name: str, members: Sequence[str], how: str) -> None:
        if name in self._deployments:
            raise UserError(f"{name!r} is the name of a served model; give the ensemble another one.")
        if how not in COMBINATIONS:
            raise UserError(f"There is no way to combine called {how!r}. {suggest(how, COMBINATIONS)}")
        if not members or len(set(members)) != len(members):
            raise UserError(f"An ensemble needs different members; given: {', '.join(members) or 'none'}.")
        signatures = []
        for member in members:
            deployment = self._deployments.get(member)
            run = deployment.newest() if deployment is not None else None
            if run is None:
                raise NotFoundError(f"Model {member!r} is not served. {suggest(member, self._deployments)}")
            signatures.append((run.manifest.signature, run.manifest.image))
        for member, signature in zip(members, signatures, strict=True):
            if signature != signatures[0]:
                raise ModelError(
                    f"{members[0]!r} and {member!r} cannot be combined, they take or give different things: "
                    f"{signatures[0]} and {signature}."
                )

    def _describe(self) -> dict[str, Any]:
        return {
            "url": self.url,
            "gateway": self._gateway_state,
            "models": {name: deployment.describe() for name, deployment in self._deployments.items()},
            "ensembles": {
                ensemble.name: {"members": list(ensemble.members), "how": ensemble.how}
                for ensemble in self._ensembles.values()
            },
        }
