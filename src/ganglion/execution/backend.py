"""The seam between what Ganglion runs and where it runs.

A backend creates processes, tells what became of them and ends them; it decides nothing. Which member is started,
restarted or stopped, and what an end means, is decided above it by the pure lifecycle machine. Every backend passes
the contract suite in `ganglion.testing`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import msgspec

from ganglion.core.events import Event
from ganglion.core.resources import Resources, total
from ganglion.execution.spec import AnySpec, MemberPlan, Numerics

Sink = Callable[[Event], None]
"""Takes an event; may be called from any thread and returns at once."""


class Capacity(msgspec.Struct, frozen=True, kw_only=True):
    """What a backend could give if nothing else ran.

    Attributes:
        nodes: what each node has; a member runs on one of them.
    """

    nodes: tuple[Resources, ...]

    @property
    def total(self) -> Resources:
        """The sum over all nodes."""
        return total(self.nodes)

    @property
    def largest(self) -> Resources:
        """The most of each resource that some node has; no single node need have all of it."""
        return Resources(
            cpu=max((node.cpu for node in self.nodes), default=0.0),
            memory=max((node.memory for node in self.nodes), default=0),
            gpu=max((node.gpu for node in self.nodes), default=0.0),
        )


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """What is decided when a member starts.

    Attributes:
        attempt: 1 for the first try.
        control: address of the control channel that the agent dials (`unix:PATH` or `tcp:HOST:PORT`).
        token: what the agent identifies itself with; never logged or recorded.
    """

    attempt: int
    control: str
    token: str


class Handle(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt of one member as a backend knows it; plain data, so that another process can go on with it.

    Attributes:
        backend: name of the backend.
        job: id of the job.
        member: id of the member.
        attempt: 1 for the first try.
        reference: what the backend finds the process by.
    """

    backend: str
    job: str
    member: str
    attempt: int
    reference: dict[str, str | int | float]


class Backend(Protocol):
    """Where members run. Every method is safe to call from any thread, and again with the same arguments."""

    name: str
    control_host: str | None
    """Host name or address by which members reach their controller; `None` when they share its machine."""

    def capacity(self) -> Capacity:
        """What this backend has in all."""
        ...

    def render(self, spec: AnySpec, capacity: Capacity) -> tuple[MemberPlan, ...]:
        """Lay `spec` out into members; pure, no I/O.

        Raises:
            SpecError: the spec can never run here; the message says what is missing.
        """
        ...

    def warm(self, numerics: Numerics, preload: tuple[str, ...], *, share: bool = False) -> None:
        """Processes with these numerics and preloads will be asked for soon: load ahead what can be, do not wait.

        Args:
            numerics: of the processes.
            preload: modules that they import.
            share: they may be forked from this process, since it is small and holds nothing that they must not have;
                what it has loaded then takes memory once. A backend for which that makes no sense does as without.
        """
        ...

    def reserve(self, plans: Sequence[MemberPlan], sink: Sink) -> None:
        """Ask for the resources of all `plans` or none.

        Returns at once; `sink` gets one `JobAdmitted` when they are reserved, in the order of asking.
        """
        ...

    def release(self, plans: Sequence[MemberPlan]) -> None:
        """Give back what was reserved for `plans`, or withdraw the request."""
        ...

    def start(self, plan: MemberPlan, launch: Launch) -> Handle:
        """Start a member whose resources are reserved.

        Raises:
            ControlError: no process could be created.
        """
        ...

    def observe(self, handle: Handle, sink: Sink) -> None:
        """Send `MemberStarted` and, once, `exits.MemberEnded` with the evidence of this attempt to `sink`.

        Also for a handle that an earlier controller started, and for one that has ended already.
        """
        ...

    def logs(self, handle: Handle) -> Iterator[bytes]:
        """What the attempt has written to standard output and error so far, in order, in chunks."""
        ...

    def stop(self, handle: Handle, grace: float) -> None:
        """Ask the process to end (SIGTERM); after `grace` seconds kill it and all it started. Returns at once."""
        ...

    def close(self) -> None:
        """End everything that stops with its controller, leave the rest, and give up all other resources."""
        ...
