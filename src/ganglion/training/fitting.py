"""`fit`: train a model on several workers and wait for it, in one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from ganglion.core import config
from ganglion.core.events import Event
from ganglion.core.ids import RandomIds
from ganglion.execution.entry import Entry, entry_of
from ganglion.execution.supervisor import Supervisor
from ganglion.training.plan import Factory, TrainingPlan, gang
from ganglion.training.result import TrainingResult


def fit(
    model: Callable[..., Any] | Entry | Factory,
    *,
    train: Factory,
    supervisor: Supervisor,
    held_out: Factory | None = None,
    workers: int = 2,
    min_workers: int | None = None,
    epochs: int | None = None,
    store: Path | None = None,
    cpu: float = 1.0,
    memory: int = 0,
    import_path: tuple[str, ...] = (),
    id: str | None = None,
    labels: Mapping[str, str] | None = None,
    listener: Callable[[Event], None] | None = None,
    progress: bool = False,
    **settings: Any,
) -> TrainingResult:
    """Train `model` on a gang of workers.

    ```
    result = fit(build_model, train=Factory(entry=...), held_out=Factory(entry=...), supervisor=supervisor,
                 workers=2, epochs=2, learning_rate=0.003, schedule=Schedule(kind="one_cycle"), store=folder)
    ```

    Args:
        model: a function that builds the module; with a `Factory` it gets arguments.
        train: builds the source that is learned from.
        supervisor: runs the gang.
        held_out: builds the source that is measured on.
        workers: number of processes.
        min_workers: how many the training begins with, the others join as resources come; by default all.
        epochs: passes over the training records; one, unless `max_steps` is among the settings.
        store: folder of the artifact store that the model package goes to; without one none is written.
        cpu: cores for each worker.
        memory: bytes for each worker; 0 declares none.
        import_path: folders from which workers import the entries.
        id: of the job; by default a new one.
        labels: for records and logs.
        listener: gets every event of the job, metrics and progress among them, and returns at once.
        progress: show a bar with throughput and time left on a terminal, a line for each epoch elsewhere.
        **settings: any other field of `TrainingPlan`, as a struct or as plain data.

    Raises:
        ConfigurationError: a setting is unknown or wrong; nothing was started.
        SpecError: the backend can never run such a gang.
        JobFailedError: the training failed; the message has the traceback of the worker that did.
    """
    if not isinstance(model, Factory):
        model = Factory(entry=model if isinstance(model, Entry) else entry_of(model))
    values = {"model": model, "train": train, "held_out": held_out, "epochs": epochs, **settings}
    plan = config.convert(TrainingPlan, msgspec.to_builtins(values), where="fit")
    spec = gang(
        plan,
        id=id or RandomIds().new("training"),
        workers=workers,
        min_workers=min_workers,
        store=store,
        cpu=cpu,
        memory=memory,
        import_path=import_path,
        labels=labels,
    )
    with ExitStack() as stack:
        listeners = [listener] if listener else []
        if progress:
            from rich.console import Console

            from ganglion.training.progress import ProgressBar

            listeners.append(stack.enter_context(ProgressBar(Console())))

        def tell(event: Event) -> None:
            for each in listeners:
                each(event)

        outcome = supervisor.submit(spec, tell).wait()
    outcome.raise_for_failure()
    return msgspec.convert(outcome.value, TrainingResult)
