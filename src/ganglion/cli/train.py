"""`ganglion train`: run the one training of a file."""

from __future__ import annotations

import signal
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.markup import escape

from ganglion.cli.output import console, metrics_text, state_text, write_json
from ganglion.core import errors
from ganglion.core.errors import ConfigurationError, UserError, suggest
from ganglion.core.project import find_folder
from ganglion.core.registry import load_file
from ganglion.core.resources import parse_size

if TYPE_CHECKING:
    from ganglion.artifacts.store import Artifact
    from ganglion.core.events import Event
    from ganglion.execution.outcome import Outcome
    from ganglion.execution.spec import Gang
    from ganglion.execution.supervisor import Job
    from ganglion.pipelines.train import Training
    from ganglion.platform import Platform
    from ganglion.testing.faults import Fault
    from ganglion.training import TrainingPlan
    from ganglion.workflow.single_job import SingleJob


def train(
    target: Annotated[
        str, typer.Argument(metavar="FILE[:NAME]", help="The file, and the training if it has more than one.")
    ],
    workers: Annotated[int, typer.Option(help="How many workers.", min=1)] = 2,
    logical_workers: Annotated[
        int | None,
        typer.Option(help="Slices of each batch, on which the result depends; by default as many as workers.", min=1),
    ] = None,
    min_workers: Annotated[int | None, typer.Option(help="Begin with so many; the others join.", min=1)] = None,
    epochs: Annotated[int | None, typer.Option(help="Short for --set epochs=N.", min=1)] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A field of the training, or model.KEY for its model."),
    ] = None,
    init_from: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Begin with a published version (NAME or NAME:VERSION), or a folder."),
    ] = None,
    publish: Annotated[str | None, typer.Option(metavar="NAME", help="Publish the model under this name.")] = None,
    limit: Annotated[int | None, typer.Option(help="Take only this many records.", min=1)] = None,
    cpu: Annotated[float, typer.Option(help="Cores for each worker.", min=0.01)] = 0.5,
    memory: Annotated[str | None, typer.Option(metavar="SIZE", help="Limit for each worker, as 1GiB.")] = None,
    faults: Annotated[
        str | None,
        typer.Option(metavar="SPEC", help="Faults on purpose: `kill: rank=1, step=3; ...`, `seed=N` or a .json file."),
    ] = None,
    fix_input: Annotated[
        bool,
        typer.Option("--fix-input", help="More threads or processes and memory for the records; the same result."),
    ] = False,
    backend: Annotated[str | None, typer.Option(help="Where to run: local or ray; else as ganglion.toml says.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the end as one JSON document, nothing else.")] = False,
) -> None:
    """Run one training; workers that are lost meanwhile change its time, not its result.

    Examples:
        ganglion train recipes/one_network.py --workers 2 --epochs 3

        ganglion train recipes/one_network.py --set learning_rate=0.003 --set model.hidden=256 --publish network

        ganglion train recipes/one_network.py --workers 4 --faults "kill: rank=1, step=20; stop: rank=2, step=50"
    """
    from ganglion.pipelines.faster_input import FasterInput, faster_input
    from ganglion.platform import Platform, load_configuration

    training = load_training(target)
    folder = find_folder()
    configuration = load_configuration(folder, [f"execution.backend={backend}"] if backend else [])
    out = console(to_error=json_)
    signal.signal(signal.SIGTERM, lambda _number, _frame: signal.raise_signal(signal.SIGINT))
    with Platform(folder, configuration) as platform:
        overrides = [
            *(set_ or ()),
            *([f"epochs={epochs}"] if epochs else ()),
            *([f"logical_workers={logical_workers}"] if logical_workers else ()),
            *([f"init_from={_folder_of(init_from, platform)}"] if init_from else ()),
        ]
        plan = _plan(training, overrides, limit, platform)
        fixed = faster_input(plan, workers=workers) if fix_input else FasterInput(plan, ())
        plan = fixed.plan
        script, scratch = _script(faults, workers, plan)
        spec = _spec(platform, plan, target, workers, min_workers, cpu, memory)
        parameters: dict[str, Any] = {"workers": workers, "set": overrides}
        if limit is not None:
            parameters["limit"] = limit
        if plan.checkpoints is not None:
            parameters["checkpoints"] = plan.checkpoints.folder
        with (
            scratch as place,
            platform.single_job(target, step="train", kind="train", parameters=parameters, seed=plan.seed) as books,
        ):
            outcome = _run(platform, spec, books, script, place, None if json_ else out)
            document = _document(outcome, script, place)
            document["run"] = books.run
            if publish and outcome.succeeded:
                version = platform.repository.publish(publish, _artifact(outcome, platform))
                document["published"] = [publish, version]
                books.published(publish, version, _made(outcome)[0], outcome.value["metrics"])
            books.finish(outcome, _made(outcome))
        if fix_input:
            document["fixed_input"] = list(fixed.changes)
    if json_:
        write_json(document)
    else:
        _summarise(document, out)
    if not outcome.succeeded:
        _leave(outcome)


def load_training(target: str) -> Training | TrainingPlan:
    """The training that `FILE[:NAME]` names: a `pipelines.train.Training` or a `training.TrainingPlan`.

    Raises:
        UserError: there is no such file or training, or the file has several and none is named.
    """
    from ganglion.pipelines.train import Training
    from ganglion.training import TrainingPlan

    file, _, name = target.partition(":")
    module = load_file(Path(file))
    found = {key: value for key, value in vars(module).items() if isinstance(value, Training | TrainingPlan)}
    if not found:
        raise UserError(
            f"{file} has no training; write training = Training(model, data), with Training from "
            "ganglion.pipelines.train, or training = TrainingPlan(...)."
        )
    if name and name not in found:
        raise UserError(f"{file} has no training {name!r}. {suggest(name, found)}")
    if not name and len(found) > 1:
        raise UserError(f"{file} has several trainings; name one, as in {file}:{next(iter(found))}.")
    return found[name] if name else next(iter(found.values()))


def _plan(
    training: Training | TrainingPlan, overrides: list[str], limit: int | None, platform: Platform
) -> TrainingPlan:
    from ganglion.core import config
    from ganglion.training import TrainingPlan

    if isinstance(training, TrainingPlan):
        if limit is not None:
            raise ConfigurationError("--limit needs a training on a source of records; this one has its own.")
        return config.convert(TrainingPlan, config.merge(msgspec.to_builtins(training), overrides), where="training")
    from ganglion import data

    changed = training.changed(overrides)
    prepared = data.prepare(data.limit(training.data, limit), platform.store)
    return changed.plan(prepared, platform.store)


def _folder_of(reference: str, platform: Platform) -> Path:
    """Where a published version, or a folder that is named instead, lies."""
    if Path(reference).is_dir():
        return Path(reference).absolute()
    return platform.repository.path(*platform.repository.resolve(reference))


def _script(
    text: str | None, workers: int, plan: TrainingPlan
) -> tuple[tuple[Fault, ...], nullcontext[str] | tempfile.TemporaryDirectory[str]]:
    from ganglion.testing.faults import parse

    if text is None:
        return (), nullcontext("")
    return parse(text, workers=workers, steps=plan.max_steps or 10), tempfile.TemporaryDirectory(prefix="ganglion-")


def _spec(
    platform: Platform,
    plan: TrainingPlan,
    target: str,
    workers: int,
    min_workers: int | None,
    cpu: float,
    memory: str | None,
) -> Gang:
    from ganglion.training import gang

    return gang(
        plan,
        id="training",
        workers=workers,
        min_workers=min_workers,
        store=platform.store.root,
        cpu=cpu,
        memory=parse_size(memory) if memory else 0,
        import_path=(str(Path(target.partition(":")[0]).resolve().parent),),
    )


def _run(
    platform: Platform, spec: Gang, books: SingleJob, script: tuple[Fault, ...], place: str, out: Console | None
) -> Outcome:
    from ganglion.testing.faults import with_faults
    from ganglion.training.notes import note_text
    from ganglion.training.progress import ProgressBar

    spec = msgspec.structs.replace(spec, id=books.job, labels={"run": books.run, "step": "train"})
    if script:
        spec = with_faults(spec, script, Path(place))
    with nullcontext() if out is None else ProgressBar(out) as progress:

        def hear(event: Event) -> None:
            books(event)
            if line := note_text(event):
                books.note(line, getattr(event, "member", ""))
            if progress is not None:
                progress(event)

        return _wait(platform.supervisor.submit(spec, hear))


def _wait(job: Job) -> Outcome:
    """Wait for the end; Ctrl-C cancels the job, and once more hurries it."""
    while True:
        try:
            return job.wait()
        except KeyboardInterrupt:
            job.cancel()


def _made(outcome: Outcome) -> list[Artifact]:
    from ganglion.artifacts.store import Artifact

    made = outcome.value["artifact"] if outcome.succeeded and outcome.value else None
    return [msgspec.convert(made, Artifact)] if made else []


def _artifact(outcome: Outcome, platform: Platform) -> tuple[Any, str]:
    return platform.store, outcome.value["artifact"]["digest"]


def _document(outcome: Outcome, script: tuple[Fault, ...], place: str) -> dict[str, Any]:
    from ganglion.testing.faults import happened

    result: dict[str, Any] = outcome.value if outcome.succeeded else {}
    document = {"state": str(outcome.state), "message": outcome.message, "result": result or None}
    if script:
        document["faults"] = {
            "script": msgspec.to_builtins(script),
            "happened": msgspec.to_builtins(happened(Path(place))),
        }
    return document


def _summarise(document: dict[str, Any], out: Console) -> None:
    if result := document["result"]:
        out.print(f"\n{metrics_text(result['metrics'])}", soft_wrap=True)
        out.print(f"{result['parameters']:,} parameters, digest {result['digest'][:16]}", soft_wrap=True)
        if result["bad_slices"]:
            out.print(f"{result['bad_slices']} slices could not be used and were left out")
        if result["checkpoint_problem"]:
            problem = escape(result["checkpoint_problem"])
            out.print(f"[yellow]warning:[/] the last checkpoint could not be saved: {problem}", soft_wrap=True)
        if result["stopped"]:
            out.print(f"ended early: {escape(result['stopped'])}", soft_wrap=True)
        for line in _diagnosis_lines(result["diagnosis"]):
            out.print(line, soft_wrap=True, markup=False, highlight=False)
    for change in document.get("fixed_input", ()):
        out.print(f"--fix-input: {change}", soft_wrap=True, markup=False, highlight=False)
    if "published" in document:
        out.print("published {} version {}".format(*document["published"]))
    if "faults" in document:
        out.print(f"{len(document['faults']['happened'])} faults happened")
    why = f": {escape(document['message'])}" if document["message"] else ""
    out.print(f"{state_text(document['state'])}{why}", soft_wrap=True)


def _diagnosis_lines(document: dict[str, Any]) -> list[str]:
    """What the training was bound by, why that is known, and what can be done; nothing where it is not known."""
    from ganglion.training.diagnosis import Verdict

    verdict = msgspec.convert(document, Verdict)
    if not verdict.summary:
        return []
    headline = f"{verdict.summary}: {verdict.cause}" if verdict.cause else verdict.summary
    return [headline, *(f"  {line}" for line in verdict.evidence), *(f"  try: {line}" for line in verdict.remedies)]


def _leave(outcome: Outcome) -> None:
    """Say why, and end: 130 after Ctrl-C, 2 where what was given cannot work, else 1."""
    if outcome.state == "cancelled":
        sys.exit(130)
    culprit = outcome.exits.get(outcome.culprit or "")
    name = (culprit.error_type or "").rpartition(".")[2] if culprit else ""
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, UserError):
        sys.exit(UserError.exit_code)
    if culprit is not None and culprit.traceback:
        sys.stderr.write(f"\n{outcome.culprit}:\n{culprit.traceback}")
    sys.exit(1)
