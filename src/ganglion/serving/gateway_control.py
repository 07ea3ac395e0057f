"""The gateways as the controller sees them: what they were told, what they have settled on, who waits for that."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future

from ganglion.core.errors import ControlError
from ganglion.core.events import Event, MemberExited, MemberJoined, MemberReady, MemberReported, MemberStarted
from ganglion.execution.supervisor import Job
from ganglion.serving.gateway_watch import GatewayWatch
from ganglion.serving.hanging import HANGING, Hanging, hanging_from_data
from ganglion.serving.load import LOAD, Load, LoadSum, loads_from_data
from ganglion.serving.routes import SETTLED, Routes
from ganglion.serving.traffic import TRAFFIC, Traffic, traffic_from_data
from ganglion.serving.waiter import Waiter


class GatewayControl:
    """Tells gateways their routes, again when one was started again; belongs to the controller's thread.

    Args:
        routes: everything that is served now, under a generation.
        settled: called when the gateways may have settled on newer routes.
        loads: called with the loads of all gateways together.
        traffic: called with what came of the requests to versions that are compared.
        hanging: called with the replicas that a gateway holds to hang.
        watch: looks after the processes.

    Attributes:
        generation: of the routes that were told last.
    """

    def __init__(
        self,
        routes: Callable[[int], Routes],
        settled: Callable[[], None],
        loads: Callable[[list[Load]], None],
        traffic: Callable[[list[Traffic]], None],
        hanging: Callable[[list[Hanging]], None],
        watch: GatewayWatch,
    ) -> None:
        self.generation = 0
        self._states: dict[str, str] = {}
        self._settled: dict[str, int] = {}
        self._sum = LoadSum()
        self._routes = routes
        self._on_settled = settled
        self._on_loads = loads
        self._on_traffic = traffic
        self._on_hanging = hanging
        self._watch = watch
        self._job: Job | None = None
        self._waiting: list[Waiter] = []

    def attach(self, job: Job) -> None:
        """Talk to the gateways of this job from now on."""
        self._job = job

    def observe(self, event: Event) -> None:
        """Take an event of the gateways' job into account."""
        match event:
            case MemberStarted(member=member, pid=pid):
                self._watch.begin(member, pid)
            case MemberJoined(member=member):
                self._settled[member] = 0
                self._send(member)
            case MemberReady(member=member):
                self._states[member] = "ready"
            case MemberExited(member=member, exit=exit_):
                self._states[member] = f"starting again: {exit_.message}"
                self._watch.end(member)
                self._settled.pop(member, None)  # it holds nothing any more
                self._sum.forget(member)
                self._settle()
            case MemberReported(member=member, values=values) if SETTLED in values:
                self._settled[member] = max(self._settled.get(member, 0), int(values[SETTLED]))
                self._settle()
            case MemberReported(member=member, values=values) if LOAD in values:
                self._on_loads(self._sum.take(member, loads_from_data(values[LOAD])))
            case MemberReported(values=values) if HANGING in values:
                self._on_hanging(hanging_from_data(values[HANGING]))
            case MemberReported(values=values) if TRAFFIC in values:
                self._on_traffic(traffic_from_data(values[TRAFFIC]))
            case _:
                pass

    def look(self) -> None:
        """Have those replaced that have stopped."""
        self._watch.look(time.monotonic())

    @property
    def state(self) -> str:
        """For a person."""
        states = [self._states[member] for member in sorted(self._states)]
        return ", ".join(states) if len(set(states)) > 1 else states[0] if states else "starting"

    @property
    def settled(self) -> int:
        """Generation of the routes that are in force at all gateways, with all before them finished."""
        return min(self._settled.values(), default=0)

    def push(self) -> None:
        """Tell them what is served now."""
        self.generation += 1
        self._send()

    def when(self, condition: Callable[[], bool], failed: Callable[[], str] = lambda: "") -> Future[None]:
        """A future that is done once `condition` holds and the gateways know, or fails with what `failed` says."""
        waiter = Waiter(condition, failed)
        self._waiting.append(waiter)
        self.check_waiting()
        return waiter.future

    def check_waiting(self) -> None:
        """Look whether anything has come true that is waited for."""
        self._waiting = [waiter for waiter in self._waiting if not waiter.check(self.generation, self.settled)]

    def give_up(self) -> None:
        """Nothing of what is waited for comes any more."""
        for waiter in self._waiting:
            waiter.future.set_exception(ControlError("The model server was closed."))

    def _settle(self) -> None:
        self._on_settled()
        self.check_waiting()

    def _send(self, member: str | None = None) -> None:
        if self._job is not None:
            self._job.send(self._routes(self.generation).to_data(), member)
