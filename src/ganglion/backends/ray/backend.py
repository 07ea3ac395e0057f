"""`RayBackend`: Tasks, Gangs and Services on a Ray cluster."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ganglion.backends.processes.attempts import EVIDENCE, LOG
from ganglion.backends.processes.layout import lay_out
from ganglion.backends.processes.wire import Ended, Notice, StartMember, StopMember
from ganglion.backends.ray.leases import Lease, Leases, Shape
from ganglion.core.config import Config
from ganglion.core.errors import ControlError, SpecError, UserError
from ganglion.core.events import JobAdmitted, MemberStarted
from ganglion.execution.backend import Capacity, Handle, Launch, Sink
from ganglion.execution.exits import Evidence, MemberEnded
from ganglion.execution.spec import AnySpec, MemberPlan, Numerics, OnControlLoss

if TYPE_CHECKING:  # Ray is loaded when a backend is made, not when this module is imported
    from ganglion.backends.ray.cluster import Cluster, Node
    from ganglion.backends.ray.keeper_client import KeeperClient

LOOK_AGAIN = 0.5
"""Seconds for which the list of the nodes is used again."""

START_TIMEOUT = 60.0
"""Seconds for Ray to start the keeper of a node."""


class RayConfig(Config, frozen=True, kw_only=True):
    """Options of the Ray backend.

    Attributes:
        address: `HOST:PORT` of a cluster, `auto` for the one on this machine, `local` to start one that ends with this
            process; empty for what `RAY_ADDRESS` says, else `local`. This process runs on a node of the cluster.
        working_dir: a folder that Ray copies to the nodes, for members to run in, with it on their import path; needed
            where the nodes do not see the files of this machine.
    """

    address: str = ""
    working_dir: str = ""


class _Attempt:
    """What is known of one attempt."""

    def __init__(self, keeper: KeeperClient | None) -> None:
        self.keeper = keeper
        self.sinks: list[Sink] = []
        self.started: MemberStarted | None = None
        self.ended: MemberEnded | None = None


class RayBackend:
    """Processes on the nodes of a Ray cluster; see `execution.backend.Backend` for the contract."""

    name = "ray"

    def __init__(self, folder: Path, config: RayConfig | None = None) -> None:
        """Connect to the cluster and start a keeper on every node.

        Args:
            folder: the project folder; on each node attempts live in `jobs/<job>/<member>/<attempt>` of this path.
            config: which cluster.

        Raises:
            UserError: Ray is not installed, there is no cluster, or a node runs other versions than this process.
        """
        try:
            from ganglion.backends.ray import cluster
        except ModuleNotFoundError as error:
            if error.name != "ray":
                raise
            raise UserError("Ray is not installed; install it with pip install 'ganglion[ray]'.") from error

        config = config or RayConfig()
        self._folder = folder.resolve()
        self._directory = "" if config.working_dir else os.getcwd()
        self._lock = threading.RLock()
        self._attempts: dict[str, _Attempt] = {}
        self._closed = False
        self._cluster: Cluster = cluster.connect(config.address, config.working_dir)
        self.control_host: str | None = self._cluster.host
        self._keepers: dict[str, KeeperClient] = {}
        self._own_keepers: dict[str, KeeperClient] = {}
        self._dismissed: list[KeeperClient] = []
        self._nodes: dict[str, Node] = {}
        self._capacity = Capacity(nodes=())
        self._looked_at = -LOOK_AGAIN
        self._leases = Leases(cluster.PlacementGroups())
        try:
            self._check_nodes()
        except BaseException:
            self.close()
            raise

    def capacity(self) -> Capacity:
        """What the nodes of the cluster declare, or did a moment ago: many jobs may be submitted at once."""
        with self._lock:
            if time.monotonic() - self._looked_at >= LOOK_AGAIN:
                self._capacity = Capacity(nodes=tuple(node.resources for node in self._cluster.nodes()))
                self._looked_at = time.monotonic()
            return self._capacity

    def render(self, spec: AnySpec, capacity: Capacity) -> tuple[MemberPlan, ...]:
        """Lay `spec` out; see `render`."""
        return render(spec, capacity)

    def warm(self, numerics: Numerics, preload: tuple[str, ...], *, share: bool = False) -> None:
        """Have `preload` loaded on every node that is in use; nothing of it is forked from this process."""
        with self._lock:
            keepers = list(self._keepers.values())
        for keeper in keepers:
            keeper.warm(numerics, preload)

    def reserve(self, plans: Sequence[MemberPlan], sink: Sink) -> None:
        """Queue for a placement group; starts to load what the members preload."""
        spec = plans[0].spec
        names = tuple(plan.member for plan in plans)
        shape = Shape(
            bundles=tuple(plan.resources for plan in plans),
            detached=spec.on_control_loss is OnControlLoss.CONTINUE,
        )

        def grant() -> None:
            sink(JobAdmitted(at=time.time(), job=spec.id, members=names))

        self._leases.ask([plan.key for plan in plans], shape, grant)
        self.warm(spec.numerics, spec.preload)

    def release(self, plans: Sequence[MemberPlan]) -> None:
        """Give the placement group back, or withdraw the request."""
        for plan in plans:
            with self._lock:
                keeper = self._own_keepers.pop(self._name(plan.spec.id, plan.member), None)
            if keeper is not None:
                keeper.dismiss()
                self._dismissed.append(keeper)
        self._leases.give_back([plan.key for plan in plans])

    def start(self, plan: MemberPlan, launch: Launch) -> Handle:
        """Have the keeper on the node of the lease create the process."""
        found = self._leases.find(plan.key)
        if found is None:
            raise ControlError(f"No resources are reserved for {plan.member} of {plan.spec.id}.")
        lease, index = found
        node = self._node(lease.nodes[index])
        key = str(self._folder / "jobs" / plan.spec.id / plan.member / str(launch.attempt))
        request = StartMember(
            key=key, plan=plan, launch=launch, listen_at=f"tcp:{node.address}", tied=True, use_cgroup=True
        )
        with self._lock:
            if key not in self._attempts:
                keeper = self._keeper(plan, lease, index)
                self._attempts[key] = _Attempt(keeper)
                keeper.order(request)
        return Handle(
            backend=self.name,
            job=plan.spec.id,
            member=plan.member,
            attempt=launch.attempt,
            reference={"folder": key, "node": node.id},
        )

    def observe(self, handle: Handle, sink: Sink) -> None:
        """Follow an attempt; the keeper of one that another controller started is found by its name."""
        with self._lock:
            attempt = self._attempt(handle)
            attempt.sinks.append(sink)
            known = [event for event in (attempt.started, attempt.ended) if event is not None]
        for event in known:
            sink(event)

    def logs(self, handle: Handle) -> Iterator[bytes]:
        """What the attempt has written so far, read on the node where it runs or ran."""
        with self._lock:
            keeper = self._attempt(handle).keeper
            if keeper is None or keeper.lost is not None:
                keeper = self._keeper_of_node(str(handle.reference.get("node", "")))
        yield from keeper.read(str(Path(str(handle.reference["folder"])) / LOG))

    def stop(self, handle: Handle, grace: float) -> None:
        """SIGTERM, then SIGKILL for the group."""
        with self._lock:
            attempt = self._attempt(handle)
            if attempt.keeper is not None and attempt.keeper.lost is None and attempt.ended is None:
                attempt.keeper.order(StopMember(key=str(handle.reference["folder"]), grace=grace))

    def close(self) -> None:
        """End the keepers with their members, but those of members that go on without their controller."""
        from ganglion.backends.ray import cluster

        with self._lock:
            if self._closed:
                return
            self._closed = True
            keepers = [*self._keepers.values(), *self._own_keepers.values()]
        for keeper in keepers:
            if keeper.detached:
                keeper.leave()
            else:
                keeper.close()
        for keeper in [*keepers, *self._dismissed]:
            keeper.join()
        self._leases.close()
        cluster.disconnect()

    # keepers

    def _check_nodes(self) -> None:
        """Start the keepers and compare versions: what is pickled or sent there has to be understood."""
        from ray.exceptions import GetTimeoutError, RayError

        for node in self._cluster.nodes():
            self._nodes[node.id] = node
            self._keeper_of_node(node.id)
        for node in self._nodes.values():
            try:
                versions = self._keepers[node.id].versions(START_TIMEOUT)
            except (RayError, GetTimeoutError) as error:
                raise UserError(
                    f"Ganglion cannot be started on the node {node.address}; it has to be installed there: {error}"
                ) from error
            check_versions(node.address, versions)

    def _node(self, node: str) -> Node:
        """A node by its id, also one that came later."""
        with self._lock:
            if node not in self._nodes:
                self._nodes |= {found.id: found for found in self._cluster.nodes()}
            if node not in self._nodes:
                raise ControlError(f"The node {node} has left the Ray cluster.")
            return self._nodes[node]

    def _keeper_of_node(self, node: str) -> KeeperClient:
        from ganglion.backends.ray.keeper_client import KeeperClient, keeper_of_node

        found = self._node(node)
        keeper = self._keepers.get(node)
        if keeper is None or keeper.lost is not None:
            keeper = self._keepers[node] = KeeperClient(
                keeper_of_node(found, self._directory), self._receive, self._lose
            )
        return keeper

    def _keeper(self, plan: MemberPlan, lease: Lease, index: int) -> KeeperClient:
        """The keeper for a member: its own where it needs one, else that of the node."""
        from ganglion.backends.ray.keeper_client import KeeperClient, keeper_of_member

        if not lease.shape.detached and not plan.resources.gpu:
            return self._keeper_of_node(lease.nodes[index])
        name = self._name(plan.spec.id, plan.member)
        keeper = self._own_keepers.get(name)
        if keeper is None or keeper.lost is not None:
            node = self._node(lease.nodes[index])
            actor = keeper_of_member(node, lease, index, plan.resources, name, self._directory)
            keeper = self._own_keepers[name] = KeeperClient(
                actor, self._receive, self._lose, detached=lease.shape.detached
            )
        return keeper

    def _attempt(self, handle: Handle) -> _Attempt:
        """What is known of an attempt; looks for its keeper when it was started by another controller."""
        from ganglion.backends.ray.keeper_client import KeeperClient, find_keeper

        key = str(handle.reference["folder"])
        attempt = self._attempts.get(key)
        if attempt is None:
            name = self._name(handle.job, handle.member)
            keeper = self._own_keepers.get(name)
            if keeper is None and (actor := find_keeper(name)) is not None:
                keeper = self._own_keepers[name] = KeeperClient(actor, self._receive, self._lose, detached=True)
            attempt = self._attempts[key] = _Attempt(keeper)
            if keeper is None:
                attempt.ended = _end_in_folder(handle)
        return attempt

    def _name(self, job: str, member: str) -> str:
        """What the keeper of a member is called: unique among the projects on the cluster, and known without it."""
        return f"{job}/{member}@{blake2b(str(self._folder).encode(), digest_size=8).hexdigest()}"

    # from the following threads

    def _receive(self, keeper: KeeperClient, host: str, notice: Notice) -> None:
        with self._lock:
            attempt = self._attempts.setdefault(notice.key, _Attempt(keeper))
            event = notice.event(host)
            if isinstance(event, MemberStarted):
                attempt.started = event
            else:
                attempt.ended = event
            sinks = list(attempt.sinks)
        for sink in sinks:
            sink(event)

    def _lose(self, keeper: KeeperClient) -> None:
        """A keeper died, and its members with it: nobody saw how they ended."""
        with self._lock:
            keys = [key for key, attempt in self._attempts.items() if attempt.keeper is keeper and not attempt.ended]
        for key in keys:
            evidence = Evidence(note=f"the Ray actor that ran it is gone: {keeper.lost}")
            self._receive(keeper, "", Ended(key=key, at=time.time(), evidence=evidence))


def render(spec: AnySpec, capacity: Capacity) -> tuple[MemberPlan, ...]:
    """Lay `spec` out; refuses what the cluster can never hold. Pure, and without Ray.

    Raises:
        SpecError: the message says what is missing.
    """
    plans = lay_out(spec, capacity, holder="the Ray cluster has", remedy="Ask for less, or add nodes to the cluster.")
    for plan in plans:
        if plan.resources.gpu > 1 and plan.resources.gpu % 1:
            raise SpecError(
                f"{spec.id}: {plan.member} needs {plan.resources.gpu:g} GPUs; Ray gives a part of one, or whole ones."
            )
    return plans


def check_versions(node: str, versions: tuple[str, str]) -> None:
    """Compare the versions of a node with those of this process.

    Args:
        node: its address.
        versions: of Python and Ganglion there.

    Raises:
        UserError: one of them differs.
    """
    ours = platform.python_version(), metadata.version("ganglion")
    for what, theirs, own in zip(("Python", "Ganglion"), versions, ours, strict=True):
        if theirs != own:
            raise UserError(f"The node {node} runs {what} {theirs}, this process {own}; they have to be the same.")


def _end_in_folder(handle: Handle) -> MemberEnded:
    """How an attempt ended whose keeper is gone: its folder may lie on this machine."""
    evidence = Evidence(note="it ended while nobody watched it")
    at = time.time()
    file = Path(str(handle.reference["folder"])) / EVIDENCE
    if file.exists():
        ended = msgspec.msgpack.decode(file.read_bytes(), type=Ended)
        evidence, at = ended.evidence, ended.at
    return MemberEnded(at=at, job=handle.job, member=handle.member, attempt=handle.attempt, evidence=evidence)
