"""`ganglion run-script`: run somebody's script, unchanged, on many processes that find each other."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ganglion.cli.follower import Follower
from ganglion.cli.output import console, duration_text, make_table, state_text, write_json
from ganglion.core.errors import ConfigurationError, UserError
from ganglion.core.events import Event, Exit, ExitKind, MemberExited, MemberStarted
from ganglion.core.ids import RandomIds
from ganglion.core.project import find_folder
from ganglion.core.resources import Resources, format_size, parse_size
from ganglion.execution.entry import Entry
from ganglion.execution.outcome import Outcome
from ganglion.execution.spec import Gang, MemberPlan, Numerics, Restart, Role, plan_members
from ganglion.execution.supervisor import Job
from ganglion.platform import Platform, load_configuration
from ganglion.workflow.options import parse_duration

FOLLOW_INTERVAL = 0.2
"""Seconds between two looks at what the members have written."""

GRACE = 5.0
"""Seconds between being asked to end and being killed."""


def run_script(
    script: Annotated[Path, typer.Argument(metavar="FILE", help="The script; everything behind `--` is for it.")],
    arguments: Annotated[list[str] | None, typer.Argument(metavar="ARGUMENTS", help="Its command line.")] = None,
    workers: Annotated[int, typer.Option(help="How many workers.", min=0)] = 2,
    ps: Annotated[int, typer.Option(help="How many parameter servers; ended once the others are done.", min=0)] = 0,
    chief: Annotated[
        bool, typer.Option("--chief", help="A chief, rank 0; with --ps it alone decides when the work is done.")
    ] = False,
    evaluator: Annotated[bool, typer.Option("--evaluator", help="An evaluator beside the training.")] = False,
    cpu: Annotated[float, typer.Option(help="Cores for each process.", min=0.01)] = 0.5,
    memory: Annotated[str | None, typer.Option(metavar="SIZE", help="Limit for each process, as 1GiB.")] = None,
    timeout: Annotated[str | None, typer.Option(metavar="DURATION", help="Stop them after so long, as 1h.")] = None,
    restarts: Annotated[int, typer.Option(help="After a failure start all of them again, so many times.", min=0)] = 0,
    python: Annotated[
        str | None, typer.Option(metavar="PATH", help="Another interpreter, as that of a TensorFlow environment.")
    ] = None,
    env: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="A variable; repeatable.")] = None,
    backend: Annotated[str | None, typer.Option(help="Where to run: local or ray; else as ganglion.toml says.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the ends as one JSON document, nothing else.")] = False,
) -> None:
    """Run a PyTorch, TensorFlow or JAX script as a gang: all of its processes start together or none.

    Each finds the others as its framework expects: MASTER_ADDR, RANK, WORLD_SIZE and so on, TF_CONFIG, or JAX's
    variables. What they write is shown line by line behind their names.

    Examples:
        ganglion run-script train.py -- --epochs 3

        ganglion run-script --workers 4 --cpu 1 --timeout 2h train.py

        ganglion run-script --chief --workers 1 --ps 1 --python ~/tensorflow/bin/python train.py

        ganglion run-script --backend ray --workers 8 --cpu 2 train.py
    """
    spec = gang_of(
        script,
        arguments or [],
        roles=_roles(workers=workers, ps=ps, chief=chief, evaluator=evaluator),
        resources=Resources(cpu=cpu, memory=parse_size(memory) if memory else 0),
        timeout=parse_duration(timeout) if timeout else None,
        restarts=restarts,
        python=python,
        environment=_variables(env or []),
    )
    members = Members(spec)
    folder = find_folder()
    configuration = load_configuration(folder, [f"execution.backend={backend}"] if backend else [])
    out = console(to_error=json_)
    signal.signal(signal.SIGTERM, lambda _number, _frame: signal.raise_signal(signal.SIGINT))
    with Platform(folder, configuration) as platform:
        job = platform.supervisor.submit(spec, members)
        outcome = _follow(job, Follower([plan.member for plan in members.plans], sys.stderr if json_ else sys.stdout))
    if json_:
        write_json(members.document(outcome))
    else:
        _summarise(members, outcome, out)
    if not outcome.succeeded:
        culprit = outcome.exits.get(outcome.culprit or "")
        if culprit is not None and culprit.traceback and culprit.error_type != "SystemExit":
            sys.stderr.write(f"\n{outcome.culprit}:\n{culprit.traceback}")
        sys.exit(130 if outcome.state == "cancelled" else 1)


def gang_of(
    script: Path,
    arguments: list[str],
    *,
    roles: tuple[Role, ...],
    resources: Resources,
    timeout: float | None,
    restarts: int,
    python: str | None,
    environment: dict[str, str],
) -> Gang:
    """What `ganglion run-script` runs, as a spec.

    Raises:
        UserError: there is no such script or interpreter.
    """
    file = script.absolute()
    if not file.is_file():
        raise UserError(f"There is no file {script}.")
    interpreter = shutil.which(os.path.expanduser(python)) if python is not None else None
    if python is not None and interpreter is None:
        raise UserError(f"--python {python}: there is no such program, or it may not be executed.")
    numerics = Numerics(threads=max(1, int(resources.cpu)))
    if fixed := environment.keys() & numerics.environment().keys():
        raise UserError(f"--env {', '.join(sorted(fixed))}: how many threads a process has follows from --cpu.")
    return Gang(
        id=RandomIds().new("script"),
        entry=Entry(path="ganglion.execution.script:run_script"),
        arguments={
            "file": str(file),
            "arguments": arguments,
            "python": os.path.abspath(interpreter) if interpreter else None,
        },
        roles=roles,
        resources=resources,
        # The way to the caller's packages is the members' own; what they start has that of the caller's shell.
        environment={"PYTHONPATH": os.environ.get("PYTHONPATH", ""), **environment},
        import_path=(str(file.parent),),
        numerics=numerics,
        timeout=timeout,
        grace=GRACE,
        restart=Restart(budget=restarts),
        labels={"script": file.name},
    )


def _roles(*, workers: int, ps: int, chief: bool, evaluator: bool) -> tuple[Role, ...]:
    """Chief first, so that it has rank 0.

    With a chief and parameter servers, workers wait for what the chief hands them and never end by themselves.
    """
    if not workers and not chief:
        raise UserError("Nobody would do the work: give --workers 1 or more, or --chief.")
    wanted = (
        Role(name="chief") if chief else None,
        Role(name="worker", count=workers, completes=not (chief and ps)) if workers else None,
        Role(name="ps", count=ps, completes=False) if ps else None,
        Role(name="evaluator") if evaluator else None,
    )
    return tuple(role for role in wanted if role is not None)


def _variables(texts: list[str]) -> dict[str, str]:
    variables = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not name or not separator:
            raise ConfigurationError(f"--env {text!r} is not of the form KEY=VALUE.")
        variables[name] = value
    return variables


class Members:
    """A listener that keeps what the ends are reported with: where and when each member ran, and how it ended."""

    def __init__(self, spec: Gang) -> None:
        self.plans = plan_members(spec)
        self._spec = spec
        self._started: dict[str, MemberStarted] = {}
        self._exited: dict[str, MemberExited] = {}

    def __call__(self, event: Event) -> None:
        """Take one event of the job."""
        match event:
            case MemberStarted(member=member):
                self._started[member] = event
                self._exited.pop(member, None)
            case MemberExited(member=member):
                self._exited[member] = event

    def seconds(self, member: str) -> float | None:
        """Wall time of the last attempt."""
        if member not in self._started or member not in self._exited:
            return None
        return self._exited[member].at - self._started[member].at

    def table(self, outcome: Outcome) -> Table:
        """The ends, for people."""
        table = make_table("member", "state", "exit", ">time", ">CPU", ">peak memory", "")
        for plan in self.plans:
            end = outcome.exits.get(plan.member)
            if end is None:
                table.add_row(plan.member, state_text("not started"))
                continue
            table.add_row(
                plan.member,
                state_text(_state(end)),
                _exit_text(end),
                duration_text(self.seconds(plan.member)),
                duration_text(end.cpu_seconds),
                format_size(end.peak_memory),
                f"[dim]{escape(end.message)}[/]",
            )
        return table

    def document(self, outcome: Outcome) -> dict[str, Any]:
        """The ends, for programs."""
        return {
            "job": self._spec.id,
            "state": outcome.state,
            "message": outcome.message,
            "culprit": outcome.culprit,
            "members": [self._describe(plan, outcome.exits.get(plan.member)) for plan in self.plans],
        }

    def _describe(self, plan: MemberPlan, end: Exit | None) -> dict[str, Any]:
        started = self._started.get(plan.member)
        return {
            "member": plan.member,
            "role": plan.role,
            "rank": plan.rank,
            "host": started.host if started else None,
            "attempts": started.attempt if started else 0,
            "state": _state(end) if end else None,
            "message": end.message if end else None,
            "exit": end.code if end else None,
            "signal": end.signal if end else None,
            "error_type": end.error_type if end else None,
            "traceback": end.traceback if end else None,
            "seconds": self.seconds(plan.member),
            "cpu_seconds": end.cpu_seconds if end else None,
            "peak_memory": end.peak_memory if end else None,
        }


def _follow(job: Job, follower: Follower) -> Outcome:
    """Show what the members write until the job is over; Ctrl-C cancels it, and once more hurries it."""
    while True:
        try:
            return _show(job, follower)
        except KeyboardInterrupt:
            job.cancel()


def _show(job: Job, follower: Follower) -> Outcome:
    while True:
        try:
            outcome = job.wait(FOLLOW_INTERVAL)
        except TimeoutError:
            follower.show(job.logs())
        else:
            follower.show(job.logs(), last=True)
            return outcome


def _summarise(members: Members, outcome: Outcome, out: Console) -> None:
    out.print()
    out.print(members.table(outcome))
    why = f": {escape(outcome.message)}" if outcome.message and outcome.culprit else ""
    out.print(f"\n{state_text(outcome.state)}{why}", soft_wrap=True)


def _state(end: Exit) -> str:
    """The word for an end that the rest of the command line uses."""
    words = {ExitKind.SUCCESS: "succeeded", ExitKind.EXCEPTION: "failed"}
    return words.get(end.kind, end.kind.value.replace("_", " "))


def _exit_text(end: Exit) -> str:
    if end.signal is None:
        return "" if end.code is None else str(end.code)
    try:
        return signal.Signals(end.signal).name
    except ValueError:
        return f"signal {end.signal}"
