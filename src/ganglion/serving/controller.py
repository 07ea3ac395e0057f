"""Serves models of a repository: keeps the wanted versions running and tells the gateway where they are.

One thread does the work; events of the jobs and calls of the user only enter its queue. A new version is started
beside the old one, takes over once its replicas are ready, and the old one ends once the gateway says that it holds
nothing any more: no request is lost. Deployments decide, the fleet executes; this is what callers see of both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Literal

import msgspec

from ganglion.artifacts.package import PackageManifest
from ganglion.core.errors import ControlError, GanglionError, NotFoundError, UserError, suggest
from ganglion.core.events import Event
from ganglion.core.ids import Ids, RandomIds
from ganglion.core.resources import Resources
from ganglion.execution.supervisor import Listener, Supervisor
from ganglion.serving.callers import Callers
from ganglion.serving.control_thread import ControlThread
from ganglion.serving.deployment import Deployment
from ganglion.serving.ensembles import check_ensemble
from ganglion.serving.fleet import Fleet
from ganglion.serving.gateway.access_log import check_writable
from ganglion.serving.gateway.tally import IN_HAND, MOST_GATEWAYS, assign_rows
from ganglion.serving.gateway_control import GatewayControl
from ganglion.serving.gateway_watch import GatewayWatch
from ganglion.serving.gentle import run_gently
from ganglion.serving.grpc.endpoint import GrpcEndpoint
from ganglion.serving.options import REPLICAS, SHARE, ServingOptions
from ganglion.serving.policy import PolicyName, VersionPolicy
from ganglion.serving.port import SharedPort
from ganglion.serving.repository import ModelRepository
from ganglion.serving.rollout import Canary
from ganglion.serving.routes import EnsembleRoute, Routes
from ganglion.serving.servable import check_servable
from ganglion.serving.services import gateway_service

QUARANTINE = ".quarantine"
"""Folder in the repository in which requests are kept that ended two replicas."""

WATCH_INTERVAL = 0.5
"""Seconds between two looks for newer versions, and for gateways that have stopped."""


class ModelServer:
    """A gateway and the models behind it.

    Args:
        supervisor: runs the processes; not closed with the server.
        repository: where versions come from.
        host: address that is answered at.
        port: port that is answered at; 0 chooses a free one, which is kept while gateways come and go.
        gateways: processes that answer at it together; one that dies is replaced while the others go on.
        grpc_port: port for gRPC, 0 chooses a free one; `None` answers no gRPC.
        access_log: file to which the gateway appends a line for each request, if any.
        ids: where ids of jobs come from.
        gateway: what each gateway process needs.

    Attributes:
        url: where the gateway answers, such as `http://127.0.0.1:8501`; the same for as long as the server lives.
        grpc: where gRPC is answered, if it is.

    Raises:
        UserError: a port is taken, the access log cannot be written, or there cannot be so many gateways.
        ConfigurationError: what gRPC needs is not installed.
        SpecError: the backend can never run the gateway.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        repository: ModelRepository,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        gateways: int = 1,
        grpc_port: int | None = None,
        access_log: Path | None = None,
        ids: Ids | None = None,
        gateway: Resources = SHARE,
    ) -> None:
        if access_log is not None:
            check_writable(access_log)
        self._repository = repository
        ids = ids or RandomIds()
        if not 1 <= gateways <= MOST_GATEWAYS:
            raise UserError(f"{gateways} gateways were asked for; 1 to {MOST_GATEWAYS} can share a port.")
        self._port = SharedPort(host, port)
        chosen = self._port.number
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{chosen}"
        self._gateways = gateways
        self._closed = False
        self._rows: dict[str, int] = {}
        self._ensembles: dict[str, EnsembleRoute] = {}
        self._callers: Callers | None = None
        self._control = GatewayControl(
            routes=self._routes,
            settled=lambda: self._fleet.end_settled(),
            loads=lambda loads: self._fleet.take_loads(loads),
            traffic=lambda traffic: self._fleet.take_traffic(traffic),
            hanging=lambda hanging: self._fleet.replace_hanging(hanging),
            watch=GatewayWatch(self._port.tally.beats, self._port.tally.forget),
        )
        self._fleet = Fleet(supervisor, repository, ids, self._control, self._listen)
        self._thread = ControlThread("ganglion-serving", self._look_around, WATCH_INTERVAL)
        spec = gateway_service(
            ids.new("gateway"), door=self._port.door, gateways=gateways, resources=gateway, access_log=access_log
        )
        self.grpc: GrpcEndpoint | None = None
        try:
            if grpc_port is not None:
                self.grpc = GrpcEndpoint(
                    supervisor, ids.new("grpc"), host=host, port=grpc_port, gateway_port=chosen, resources=gateway
                )
            self._gateway = supervisor.submit(spec, self._listen(self._control.observe))
        except GanglionError:
            if self.grpc is not None:
                self.grpc.close(0.0)
            self._port.close()
            raise
        self._control.attach(self._gateway)
        self._thread.start()

    def deploy(
        self,
        name: str,
        version: int | str | None = None,
        *,
        policy: PolicyName | None = None,
        canary: float | Canary | None = None,
        replicas: int | None = None,
        resources: Resources | None = None,
        options: ServingOptions | None = None,
        wait: bool = True,
        timeout: float = 120.0,
    ) -> int:
        """Serve a model; for one that is served already, change to this version and these options.

        Args:
            name: of the model.
            version: which version; an alias is followed when it is moved; `None` serves the newest and picks up newer
                ones by themselves.
            policy: `all` serves every complete version; the others are what the version says.
            canary: the percentage of requests by which the version is tried beside the one that answers, or all that
                can be said of it. It is rolled back by itself where it answers worse.
            replicas: how many, whatever the load; 2 where neither this nor `options` is given.
            resources: what each needs; a change takes effect with the next version.
            options: everything that can be said, in place of `replicas` and `resources`.
            wait: return when the gateway sends requests to the version.
            timeout: seconds to wait; the deployment goes on when they are over.

        Returns:
            The version.

        Raises:
            UserError: `options` are given together with `replicas` or `resources`, the name is an ensemble's, the
                policy does not go with the version, or there is nothing beside which it could be tried.
            NotFoundError: there is no such model or version.
            ModelError: the package is invalid, its replicas end before they are ready, or answer the package's checks
                differently.
            SpecError: the backend can never run a replica.
            ControlError: it was not ready within the timeout, or the server is closed.
        """
        chosen = _choose(replicas, resources, options)
        versions = VersionPolicy.of(version, policy)
        _name, wanted = self._repository.resolve(name if version is None else f"{name}:{version}")
        trial = canary if canary is None or isinstance(canary, Canary) else Canary(percent=canary)
        manifest = self._read(name, wanted)
        check_servable(manifest)
        if chosen.sharding is not None:
            chosen.sharding.check(manifest.signature)

        def change() -> Future[None]:
            if name in self._ensembles:
                raise UserError(f"{name!r} is the name of an ensemble; undeploy it first or use another name.")
            return self._fleet.when_serving(name, self._fleet.serve(name, wanted, chosen, versions, canary=trial))

        self._wait(self._thread.call(change), f"version {wanted} of model {name!r}", timeout if wait else None)
        return wanted

    def _read(self, name: str, version: int) -> PackageManifest:
        """What a version is, every byte of it compared; while another version answers, the cores are left to that."""

        def read() -> PackageManifest:
            return self._repository.manifest(name, version, verify=True)

        return run_gently(read) if name in self._fleet.deployments else read()

    def update(
        self,
        name: str,
        version: int | str | None = None,
        *,
        canary: float | Canary | None = None,
        wait: bool = True,
        timeout: float = 120.0,
    ) -> int:
        """Change a served model to another version, served as it was; see `deploy`."""
        options = self._deployed(name).options
        return self.deploy(name, version, canary=canary, options=options, wait=wait, timeout=timeout)

    def scale(self, name: str, replicas: int, *, wait: bool = True, timeout: float = 120.0) -> None:
        """Serve a model with so many replicas of each of its versions, whatever the load.

        Args:
            name: of the model.
            replicas: how many, at least one.
            wait: return when they are ready, and those that are too many get no more requests.
            timeout: seconds to wait.

        Raises:
            NotFoundError: it is not served.
            UserError: the number is below 1.
            ControlError: they were not ready within the timeout; they still may be.
        """
        fixed = ServingOptions.fixed(replicas)
        bounds = {"min_replicas": fixed.min_replicas, "max_replicas": fixed.max_replicas}

        def change() -> Future[None]:
            options = msgspec.structs.replace(self._deployed(name).options, **bounds)
            return self._control.when(self._fleet.scale(name, options))

        self._wait(self._thread.call(change), f"{replicas} replicas of {name!r}", timeout if wait else None)

    def roll_back(self, name: str, *, reason: str = "on request", wait: bool = True, timeout: float = 120.0) -> int:
        """Leave the version that is tried; without one, go back to the version that answered before and stay with it.

        Args:
            name: of the model.
            reason: for a person.
            wait: return when the gateway sends no more requests to the version that is left.
            timeout: seconds to wait.

        Returns:
            The version that answers.

        Raises:
            NotFoundError: it is not served.
            UserError: no version is tried and none answered before.
            ModelError: the version that answered before cannot be started.
            ControlError: it was not ready within the timeout.
        """
        answering: list[int] = []

        def change() -> Future[None]:
            self._deployed(name)
            run = self._fleet.roll_back(name, reason)
            answering.append(run.version)
            return self._fleet.when_serving(name, run)

        self._wait(self._thread.call(change), f"the roll-back of model {name!r}", timeout if wait else None)
        return answering[0]

    def _deployed(self, name: str) -> Deployment:
        deployment = self._fleet.deployments.get(name)
        if deployment is None:
            raise NotFoundError(f"Model {name!r} is not served. {suggest(name, self._fleet.deployments)}")
        return deployment

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
                self._control.push()
                return self._control.when(lambda: True)
            if name not in self._fleet.deployments:
                known = (*self._fleet.deployments, *self._ensembles)
                raise NotFoundError(f"{name!r} is not served. {suggest(name, known)}")
            users = [ensemble.name for ensemble in self._ensembles.values() if name in ensemble.members]
            if users:
                raise UserError(f"Model {name!r} is a member of the ensemble {', '.join(users)}; undeploy that first.")
            jobs = self._fleet.retire(name)
            return self._control.when(lambda: not jobs & self._fleet.jobs.keys())

        self._wait(self._thread.call(change), f"the end of {name!r}", timeout if wait else None)

    def combine(
        self,
        name: str,
        members: Sequence[str],
        how: str = "mean",
        *,
        weights: Sequence[float] = (),
        quorum: int | None = None,
        overlap: Literal["mean", "max"] = "mean",
        wait: bool = True,
        timeout: float = 30.0,
    ) -> None:
        """Give several served models one name whose answer is made of theirs; replaces an ensemble of that name.

        Args:
            name: of the ensemble.
            members: names of served models.
            how: `mean`, `weighted`, `vote` (ties: the first member's), `union` of the classes that each knows, or a
                function as `module:function`, from the outputs of each member by its name to outputs by name.
            weights: of the members, for `weighted`.
            quorum: members that suffice at the deadline of a request; the answer says who is missing.
            overlap: what counts in a `union` where several members know a class.
            wait: return when the gateway knows it.
            timeout: seconds to wait.

        Raises:
            NotFoundError: a member is not served.
            UserError: the name is a model's, there are no members or one twice, or `how` makes no sense.
            ModelError: the members take or give different things.
            ControlError: the gateway did not know it within the timeout.
        """

        def change() -> Future[None]:
            ensemble = EnsembleRoute(
                name=name, members=tuple(members), how=how, weights=tuple(weights), quorum=quorum, overlap=overlap
            )
            self._check_ensemble(ensemble)
            self._ensembles[name] = ensemble
            self._control.push()
            return self._control.when(lambda: True)

        self._wait(self._thread.call(change), f"the ensemble {name!r}", timeout if wait else None)

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
            if self._gateways > 1:
                self._rows = assign_rows(callers.names if callers is not None else (), self._rows)
            self._callers = callers
            self._control.push()
            return self._control.when(lambda: True)

        self._wait(self._thread.call(change), "the limits of callers", timeout if wait else None)

    def status(self) -> dict[str, Any]:
        """What is served now, as plain data."""
        return self._thread.call(self._describe).result()

    @property
    def in_hand(self) -> int:
        """Connections that still wait for an answer while the server is being closed; else 0."""
        return sum(self._port.tally.read(IN_HAND))

    def close(self, timeout: float = 60.0) -> None:
        """Answer what is in hand, then end the gateway and every replica.

        Args:
            timeout: seconds after which the others are cut; where a call was interrupted, another one may have fewer.
        """
        if self._closed:
            return
        self._thread.closed = True
        end = time.monotonic() + timeout
        if self.grpc is not None:
            self.grpc.close(timeout)
        self._port.close()
        for jobs in ([self._gateway], list(self._fleet.jobs.values())):
            for job in jobs:
                job.drain()
            for job in jobs:
                try:
                    job.wait(max(0.0, end - time.monotonic()))
                except TimeoutError:
                    job.cancel()
        self._thread.end()
        self._control.give_up()
        self._closed = True

    # between the threads

    def _listen(self, observe: Callable[[Event], None]) -> Listener:
        """A listener that hands the events that matter here to the thread."""

        def listen(event: Event) -> None:
            self._thread.post(lambda: observe(event))

        return listen

    def _wait(self, change: Future[Future[None]], what: str, timeout: float | None) -> None:
        """Wait for a change to be accepted and, with a timeout, until it is done."""
        done = change.result()
        if timeout is None:
            return
        try:
            done.result(timeout)
        except TimeoutError as error:
            raise ControlError(f"Waited {timeout:g} s for {what}. {self._progress()}") from error

    def _progress(self) -> str:
        """How far everything is that is not there yet, for a person."""
        waiting = [
            f"{name}:{version} is {run['state']} with {run['ready']} of {run['replicas']} replicas"
            + (f", {run['waiting_for_room']} of which wait for resources" if run["waiting_for_room"] else "")
            + (f": {run['error']}" if run["error"] else "")
            for name, model in self.status()["models"].items()
            for version, run in model["versions"].items()
            if run["ready"] < run["replicas"] or run["leaving"]
        ]
        return " ".join(f"{said}." for said in (f"The gateway is {self._control.state}", "; ".join(waiting)) if said)

    # in the thread

    def _look_around(self) -> None:
        self._control.look()
        self._fleet.look_around()

    def _routes(self, generation: int) -> Routes:
        return Routes(
            generation=generation,
            models=tuple(
                deployment.route().shared(self._gateways).keeping(self._repository.root / QUARANTINE)
                for deployment in self._fleet.deployments.values()
            ),
            ensembles=tuple(self._ensembles.values()),
            callers=self._callers,
            rows=self._rows,
        )

    def _check_ensemble(self, ensemble: EnsembleRoute) -> None:
        deployments = self._fleet.deployments
        if ensemble.name in deployments:
            raise UserError(f"{ensemble.name!r} is the name of a served model; give the ensemble another one.")
        versions = []
        for member in ensemble.members:
            deployment = deployments.get(member)
            run = deployment.newest() if deployment is not None else None
            if run is None:
                raise NotFoundError(f"Model {member!r} is not served. {suggest(member, deployments)}")
            versions.append(run.route())
        check_ensemble(ensemble, versions)

    def _describe(self) -> dict[str, Any]:
        return {
            "url": self.url,
            "gateway": self._control.state,
            "grpc": self.grpc.address if self.grpc is not None else None,
            "models": {name: deployment.describe() for name, deployment in self._fleet.deployments.items()},
            "ensembles": {
                ensemble.name: {"members": list(ensemble.members), "how": ensemble.how, "quorum": ensemble.quorum}
                for ensemble in self._ensembles.values()
            },
        }


def _choose(replicas: int | None, resources: Resources | None, options: ServingOptions | None) -> ServingOptions:
    """The options that are meant."""
    if options is None:
        return ServingOptions.fixed(REPLICAS if replicas is None else replicas, resources=resources or SHARE)
    if replicas is not None or resources is not None:
        raise UserError("Give either options or replicas and resources: options say both.")
    return options
