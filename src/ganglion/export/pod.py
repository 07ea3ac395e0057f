"""Entries of the pods that training and serving steps become; `backends.kubernetes.member` calls them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, cast

import msgspec

from ganglion.backends.local.backend import LocalBackend
from ganglion.core.clock import SystemClock
from ganglion.core.errors import SpecError
from ganglion.core.events import Event, Exit, ExitKind, MemberReported
from ganglion.core.project import find_folder
from ganglion.core.resources import Resources
from ganglion.execution.member import Member, current_member, set_current_member
from ganglion.execution.outcome import Outcome, OutcomeState
from ganglion.execution.spec import AnySpec, Gang
from ganglion.execution.supervisor import Supervisor
from ganglion.export.order import StepOrder
from ganglion.export.perform import perform
from ganglion.serving.controller import ModelServer
from ganglion.serving.options import ServingOptions
from ganglion.serving.repository import ModelRepository
from ganglion.serving.rollout import Canary


def train(**order: Any) -> None:
    """Take part in the gang of a training step, at the rank that the operator gave to this pod.

    Args:
        order: the fields of a `StepOrder`.

    Raises:
        ExecutionError: the step failed.
    """
    here = cast(Supervisor, GangPod())  # runs a job as a supervisor does, in this process
    perform(msgspec.convert(order, StepOrder, strict=False), find_folder(), supervisor=here)


def serve(port: int, **order: Any) -> None:
    """Serve what a serving step chooses, until asked to end.

    Each pod has a gateway and one replica of every model; Kubernetes decides how many pods there are.

    Args:
        port: that the gateway answers on.
        order: the fields of a `StepOrder`.

    Raises:
        ExecutionError: the step failed.
    """
    folder = find_folder()
    with tempfile.TemporaryDirectory(prefix="ganglion-") as own:
        place = Path(own)
        with (
            closing(Supervisor(LocalBackend(place), place)) as supervisor,
            closing(PodServer(supervisor, ModelRepository(folder / "models"), host="0.0.0.0", port=port)) as server,
        ):
            perform(msgspec.convert(order, StepOrder, strict=False), folder, services={"serving": server})
            current_member().ready(server.url)
            current_member().draining.wait()


class PodServer(ModelServer):
    """A model server in a pod: replicas of a model are replicas of the pod."""

    def deploy(
        self,
        name: str,
        version: int | str | None = None,
        *,
        policy: Literal["latest", "specific", "all"] | None = None,
        canary: float | Canary | None = None,
        replicas: int | None = None,
        resources: Resources | None = None,
        options: ServingOptions | None = None,
        wait: bool = True,
        timeout: float = 120.0,
    ) -> int:
        """Serve a model with one replica, whatever the pipeline says; see `ModelServer.deploy`."""
        chosen = options.resources if options is not None else resources
        return super().deploy(
            name, version, policy=policy, canary=canary, replicas=1, resources=chosen, wait=wait, timeout=timeout
        )


class GangPod:
    """Runs the one job of a training step: this pod is a member of the gang already."""

    def submit(self, spec: AnySpec, listener: Callable[[Event], None] | None = None) -> Ended:
        """Call the entry as the member that this process is, to its end.

        Raises:
            SpecError: the operator started another number of members than the step asks for.
            SystemExit: the member is not the first: its part is done, and the first one has the result.
        """
        member = current_member()
        wanted = sum(role.count for role in spec.roles) if isinstance(spec, Gang) else 1
        if member.world_size != wanted:
            raise SpecError(
                f"{spec.id} wants {wanted} members, but the manifest started {member.world_size}; export the pipeline "
                "again with the parameters it is to have."
            )

        def send(kind: str, value: Any) -> None:
            if kind == "report" and listener is not None:
                listener(
                    MemberReported(at=SystemClock().now(), job=spec.id, member=member.name, attempt=1, values=value)
                )

        set_current_member(
            Member(
                job=spec.id,
                name=member.name,
                role=member.role,
                index=member.index,
                membership=member.membership,
                send=send,
            )
        )
        value = spec.entry.load()(**spec.arguments)
        if member.rank != 0:
            raise SystemExit(0)
        exits = {member.name: Exit(kind=ExitKind.SUCCESS, value=value)}
        return Ended(Outcome(state=OutcomeState.SUCCEEDED, exits=exits))


class Ended:
    """A job that is over."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome

    def wait(self) -> Outcome:
        """How it ended."""
        return self._outcome

    def cancel(self) -> None:
        """Nothing is left to end."""
