"""The service that runs one version of a model, as the controller knows it: a value fed with events."""

from __future__ import annotations

import signal
from collections import deque
from typing import Any

from ganglion.artifacts.package import PackageManifest
from ganglion.core.events import (
    Event,
    ExitKind,
    JobAdmitted,
    JobFinished,
    MemberExited,
    MemberReady,
    MemberSampled,
)
from ganglion.serving.autoscaler import Sample, ScaleState, decide, observe
from ganglion.serving.hanging import Hanging
from ganglion.serving.load import Load
from ganglion.serving.options import ServingOptions
from ganglion.serving.routes import ReplicaEnd, ReplicaRoute, State, VersionRoute
from ganglion.serving.usage import Usage

MOST_FAILED_STARTS = 3
"""Ends of replicas, before enough were ready, after which a version is held to be unable to start."""

ROOM_PATIENCE = 1.0
"""Seconds for which replicas may wait for resources before all but one of those that wait are taken back."""

_ENDS = 16
"""Ends of replicas that are told to gateways: those that a request in hand can have met."""

START_PAUSE = 10.0
"""Seconds after failed starts from zero before the next request is allowed to try again."""


class VersionRun:
    """The service that runs one version of a model.

    A number of replicas is wanted; the first so many members of the job take requests. Members beyond them are leaving:
    the gateway is told first, the job when the gateway has settled.

    Args:
        job: id of the service.
        version: number of the version.
        manifest: of its package.
        wanted: replicas that the job is submitted with.
        least: replicas with which it takes over if there is no room for more; `None` for all of them.

    Attributes:
        state: as TensorFlow Serving names it.
        members: replicas that the job was asked for, in order.
        wanted: how many of them take requests or will.
        replicas: endpoints of the replicas that are ready, by member; the attempt is part of the value.
        failed_starts: ends of replicas while it was loading, or before one was ready while none was.
        served: whether it ever was available.
        error: why it ended, if it did not end on request, or why no replica can be started.
        held_until: monotonic seconds until which it stays at no replicas after failed starts.
        package: folder of its package, if the gateway is to hold the model as well; else empty.
    """

    def __init__(
        self, job: str, version: int, manifest: PackageManifest, wanted: int, *, least: int | None = None
    ) -> None:
        self.job = job
        self.version = version
        self.manifest = manifest
        self.wanted = wanted
        self.state: State = "LOADING"
        self.members = [_member(index) for index in range(wanted)]
        self.replicas: dict[str, tuple[int, str]] = {}
        self.failed_starts = 0
        self.error = ""
        self.served = False
        self.held_until: float | None = None
        self.package = ""
        self._least = least
        self._next = wanted
        self._placed: set[str] = set()
        self._ends: deque[ReplicaEnd] = deque(maxlen=_ENDS)
        self._hanging: set[str] = set()
        self._hung = 0
        self._last_hang = ""
        self._crowded_since: float | None = None
        self._usage = Usage()
        self._scale = ScaleState()

    # events

    def observe(self, event: Event) -> None:
        """Take an event of the service into account; those of members that have left do not count."""
        match event:
            case JobAdmitted(members=members):
                self._placed.update(member for member in members if member in self.members)
            case MemberReady(member=member, attempt=attempt, endpoint=endpoint) if member in self.members:
                self.replicas[member] = (attempt, endpoint)
                if self.state == "AVAILABLE":
                    self.failed_starts, self.error = 0, ""
            case MemberSampled(member=member) if member in self.members:
                self._usage.observe(event)
            case MemberExited() if event.member in self.members:
                self._lose(event)
            case JobFinished(message=message):
                if self.state != "UNLOADING" and not self.error:
                    self.error = message or "its service ended"
                self.state = "END"
                self.replicas.clear()
            case _:
                pass
        if self.state == "LOADING" and self._enough:
            self.state = "AVAILABLE"
            self.served = True
            self.failed_starts, self.error = 0, ""

    def _lose(self, event: MemberExited) -> None:
        outside = event.exit.kind is ExitKind.KILLED and event.exit.signal in (signal.SIGKILL, signal.SIGTERM)
        id_ = self._id(event.member, event.attempt)
        self._ends.append(ReplicaEnd(id_, outside, hanging=id_ in self._hanging))
        self._hanging.discard(id_)
        was_ready = self.replicas.get(event.member, (0, ""))[0] == event.attempt
        if was_ready:
            del self.replicas[event.member]
        self._usage.forget(event.member)
        failed = event.exit.kind not in (ExitKind.SUCCESS, ExitKind.CANCELLED)  # those that we end say nothing
        if failed and (self.state == "LOADING" or (self.state == "AVAILABLE" and not self.replicas and not was_ready)):
            self.failed_starts += 1
            self.error = event.exit.message

    def give_up(self, hanging: Hanging) -> tuple[str, int] | None:
        """A gateway says that a replica hangs.

        Returns:
            The member and the attempt that are to be ended; `None` where it is none of the ready ones here, or is
            given up already.
        """
        working = {self._id(member, self.replicas[member][0]) for member in self.ready} - self._hanging
        if len(working) == 1 < self.wanted - self.crowded:
            return None  # the last one goes when another has come: it is told of again
        for member, (attempt, _endpoint) in self.replicas.items():
            id_ = self._id(member, attempt)
            if id_ == hanging.replica and id_ not in self._hanging:
                self._hanging.add(id_)
                self._hung += 1
                self._last_hang = f"{member} had not come back from one batch for {hanging.seconds:.3g} s"
                return member, attempt
        return None

    @property
    def _enough(self) -> bool:
        """Whether it can take over: everybody is ready, or at least everybody for whom there is room."""
        ready = len(self.ready)
        return ready >= self.wanted or (self._least is not None and ready >= max(self._least, len(self._placed)))

    @property
    def ready(self) -> list[str]:
        """Members that take requests."""
        return [member for member in self.members[: self.wanted] if member in self.replicas]

    @property
    def hopeless(self) -> bool:
        """Whether it cannot be expected to start any more."""
        return self.state == "LOADING" and self.failed_starts >= MOST_FAILED_STARTS

    @property
    def failing(self) -> bool:
        """Whether it was available but has no replica, and those that were started have failed."""
        return self.state == "AVAILABLE" and not self.replicas and self.failed_starts >= MOST_FAILED_STARTS

    # number of replicas

    def resize(self, wanted: int) -> None:
        """Want another number of replicas: those that were leaving stay if they are needed, then new ones come."""
        while len(self.members) < wanted:
            self.members.append(_member(self._next))
            self._next += 1
        self.wanted = wanted

    def load_on(self) -> None:
        """Count as loading, although replicas are ready, until as many are as are wanted."""
        self.state, self.served = "LOADING", False

    def drop(self) -> None:
        """Forget the members that are leaving: the job is told now."""
        for member in self.members[self.wanted :]:
            self.replicas.pop(member, None)
            self._placed.discard(member)
            self._usage.forget(member)
        del self.members[self.wanted :]

    def follow(self, load: Load, options: ServingOptions, *, now: float, ceiling: int) -> int:
        """How many replicas a load needs.

        Args:
            load: what the gateway observed.
            options: bounds and targets.
            now: monotonic seconds.
            ceiling: most replicas that the backend could hold.

        Returns:
            The number to be wanted now.
        """
        match options.scale_metric:
            case "concurrency":
                value = load.concurrency
            case "rps":
                value = load.requests / max(load.seconds, 1e-3)
            case "cpu" | "memory":
                value = self._usage.percent(options.scale_metric, options.resources)
        if self.state != "AVAILABLE":
            held = self.state == "UNLOADING" and load.waiting > 0
            return max(self.wanted, int(held))  # what came while there was no replica is answered before it goes
        asked = load.requests + load.waiting
        sample = Sample(start=now - load.seconds, end=now, load=value, requests=asked)
        self._scale = observe(options, self._scale, sample)
        if self.held_until is not None:
            return 0
        self._scale, wanted = decide(
            options, self._scale, now=now, ready=len(self.ready), current=self.wanted, ceiling=ceiling
        )
        return self._with_room(wanted, now)

    def hold(self, now: float) -> None:
        """Nothing could be started: stay without replicas for a while, then forget it."""
        self.held_until = now + START_PAUSE
        self._scale = ScaleState()

    def release(self, now: float) -> bool:
        """End the pause if it is over; returns whether it was."""
        if self.held_until is None or now < self.held_until:
            return False
        self.held_until = None
        self.failed_starts, self.error = 0, ""
        return True

    @property
    def crowded(self) -> int:
        """Replicas that wait for resources."""
        return sum(member not in self._placed for member in self.members[: self.wanted])

    def full(self, now: float) -> bool:
        """Whether all are ready for whom there is room, and others have waited for it long enough."""
        if not self.crowded:
            self._crowded_since = None
        elif self._crowded_since is None:
            self._crowded_since = now
        waited = self._crowded_since is not None and now - self._crowded_since >= ROOM_PATIENCE
        return waited and len(self.ready) >= self.wanted - self.crowded

    def _with_room(self, wanted: int, now: float) -> int:
        """While resources are short, let one replica wait for them, not a crowd that keeps others from theirs."""
        if not self.crowded:
            self._crowded_since = None
            return wanted
        if self._crowded_since is None:
            self._crowded_since = now
        if now - self._crowded_since < ROOM_PATIENCE:
            return wanted
        return min(wanted, self.wanted - self.crowded + 1)

    # views

    def describe(self) -> dict[str, Any]:
        """Its state for a person, as plain data."""
        return {
            "state": self.state,
            "ready": len(self.ready),
            "replicas": self.wanted,
            "waiting_for_room": self.crowded,
            "leaving": len(self.members) - self.wanted,
            "job": self.job,
            "error": self.error,
            "hung": self._describe_hung(),
        }

    def _describe_hung(self) -> str:
        if not self._hung:
            return ""
        were = "1 replica was" if self._hung == 1 else f"{self._hung} replicas were"
        return f"{were} replaced for hanging; last, {self._last_hang}"

    def route(self) -> VersionRoute:
        """What the gateway is told."""
        return VersionRoute(
            version=self.version,
            state=self.state,
            signature=self.manifest.signature,
            image=self.manifest.image,
            classes=self.manifest.classes,
            replicas=tuple(
                ReplicaRoute(self._id(member, self.replicas[member][0]), self.replicas[member][1])
                for member in sorted(self.ready)
            ),
            error=self.error if self.state == "END" or self.failing or self.held_until is not None else "",
            package=self.package,
            ends=tuple(self._ends),
        )

    def _id(self, member: str, attempt: int) -> str:
        return f"{self.job}/{member}/{attempt}"


def _member(index: int) -> str:
    """How the job names its replica with this number."""
    return f"replica-{index}"
