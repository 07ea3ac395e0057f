"""One execution of one step: inputs, fingerprint, memory, operation, result."""

from __future__ import annotations

import hashlib
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ganglion.artifacts.store import FolderStore
from ganglion.core import faults
from ganglion.core.clock import Clock
from ganglion.core.errors import UserError
from ganglion.core.run_events import AnyRunEvent, StepFinished, StepStarted, StepUpdated
from ganglion.execution.outcome import JobFailedError
from ganglion.workflow import codec
from ganglion.workflow.fingerprint import Fingerprint, take_fingerprint
from ganglion.workflow.graph import AsCompleted, Graph, Node, StepOutput, substitute
from ganglion.workflow.host import CancelledError, StepHost
from ganglion.workflow.memo import Lookup, Memo, MemoEntry
from ganglion.workflow.operation import StepCall
from ganglion.workflow.plan import Execute

if TYPE_CHECKING:
    from ganglion.execution.supervisor import Supervisor

UNUSED = Lookup(entry=None, reason="miss: caching is off for this step")


@dataclass(frozen=True)
class RunContext:
    """What all executions of a run share.

    Attributes:
        run: id of the run.
        graph: its steps.
        folder: of the run.
        seed: of the run.
        limit: records of each source; `None` for all.
        inline: whether everything runs in this process.
        store: where artifacts are.
        memo: earlier results.
        supervisor: runs jobs.
        services: long-lived controllers by name.
        clock: for the times of events.
        emit: takes an event; with `wait` it returns once the event is in the journal.
        metrics: the last value of every metric, by step.
    """

    run: str
    graph: Graph
    folder: Path
    seed: int
    limit: int | None
    inline: bool
    store: FolderStore
    memo: Memo
    supervisor: Supervisor | None
    services: Mapping[str, Any]
    clock: Clock
    emit: Callable[..., None]
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)


class StepExecutor:
    """Executes a step once; everything that becomes of it is an event.

    Args:
        context: of the run.
        node: the step.
        action: what the plan asked for.
        number: of this execution within the run, for the ids of its jobs.
    """

    def __init__(self, context: RunContext, node: Node, action: Execute, number: int) -> None:
        self._context = context
        self._node = node
        self._action = action
        self._number = number
        self._begun = not action.begins
        self._cancelled = threading.Event()
        self._host: StepHost | None = None
        self._guard = threading.Lock()

    def cancel(self) -> None:
        """End it; from any thread."""
        with self._guard:
            self._cancelled.set()
            if self._host is not None:
                self._host.cancel()

    def run(self) -> None:
        """Execute the step and emit its end."""
        try:
            event = self._perform()
        except Exception as error:  # noqa: BLE001  # whatever goes wrong is the end of this attempt, not of the orchestrator
            self._begin(None, "")
            event = self._failure(error)
        except KeyboardInterrupt:  # inline, in the function itself
            self._context.emit(self._end("cancelled", message="interrupted"))
            raise
        self._context.emit(event)

    def _perform(self) -> AnyRunEvent:
        if self._action.delay and self._cancelled.wait(self._action.delay):
            raise CancelledError("the run ended before the next attempt")
        options = self._node.options
        arguments = substitute(self._node.arguments, self._resolve)
        fingerprint, lookup = None, UNUSED
        if options.cache and self._node.operation.resumable:
            fingerprint = self._fingerprint(arguments)
            lookup = self._context.memo.look_up(fingerprint, owner=self._owner, max_age=options.max_age)
        digest = fingerprint.digest if fingerprint else None
        encoded = {name: codec.encode(value, self._context.store, keep_paths=True) for name, value in arguments.items()}
        if lookup.entry is not None:
            self._context.metrics[self._node.name] = dict(lookup.entry.metrics)
            return self._success(lookup.entry.result, encoded, digest, lookup.reason, skipped=self._action.begins)
        self._begin(digest, lookup.reason)
        result = self._execute(encoded)
        faults.point("workflow.executed", step=self._node.name)
        if fingerprint is not None:
            self._remember(fingerprint, result)
        return self._success(result, encoded, digest, lookup.reason, skipped=False)

    def _resolve(self, found: StepOutput | AsCompleted) -> Any:
        if isinstance(found, AsCompleted):
            there = [self._value(output) for output in found.outputs if output.step in self._action.inputs]
            return there if isinstance(found.sources, list) else there[0]
        return self._value(found)

    def _value(self, output: StepOutput) -> codec.Encoded:
        data = self._action.inputs[output.step]
        for key in output.keys:
            data = codec.select(data, key, f"The result of step `{output.step}`")
        return codec.Encoded(data)

    def _fingerprint(self, arguments: dict[str, Any]) -> Fingerprint:
        options = self._node.options
        settings = {
            "seed": str(self._seed),
            "threads": str(options.numerics.threads),
            "instructions": options.numerics.instructions or "best",
            "limit": str(self._context.limit),
        }
        return take_fingerprint(self._node.operation.material(), arguments, settings, options.environment)

    def _begin(self, digest: str | None, reason: str) -> None:
        if not self._begun:
            self._begun = True
            self._context.emit(
                StepStarted(
                    at=self._context.clock.now(),
                    run=self._context.run,
                    step=self._node.name,
                    attempt=self._action.attempt,
                    fingerprint=digest,
                    cache=reason,
                ),
                wait=True,
            )

    def _execute(self, encoded: dict[str, Any]) -> Any:
        context, node, action = self._context, self._node, self._action
        call = StepCall(
            run=context.run,
            pipeline=context.graph.pipeline,
            step=node.name,
            attempt=action.attempt,
            seed=self._seed,
            limit=context.limit,
            options=node.options,
            import_path=context.graph.import_path,
            encoded=encoded,
            final=action.final,
            folder=context.folder / "steps" / node.name,
            store=context.store,
        )
        host = StepHost(
            call,
            supervisor=context.supervisor,
            services=context.services,
            emit=context.emit,
            clock=context.clock,
            inline=context.inline,
            cancelled=self._cancelled,
            number=self._number,
        )
        host.metrics = context.metrics.setdefault(node.name, {})
        with self._guard:
            self._host = host
        if self._cancelled.is_set():
            raise CancelledError("the run ended before the step began")
        return codec.encode(node.operation.execute(call, host), context.store)

    def _remember(self, fingerprint: Fingerprint, result: Any) -> None:
        entry = MemoEntry(
            at=self._context.clock.now(),
            run=self._context.run,
            step=self._node.name,
            parts=fingerprint.parts,
            result=result,
            metrics=dict(self._context.metrics.get(self._node.name, {})),
        )
        self._context.memo.remember(fingerprint, entry, owner=self._owner, final=self._action.final)

    def _success(
        self, result: Any, encoded: dict[str, Any], digest: str | None, reason: str, *, skipped: bool
    ) -> AnyRunEvent:
        attempt = 0 if skipped else self._action.attempt
        if not self._action.final:
            return StepUpdated(
                at=self._context.clock.now(),
                run=self._context.run,
                step=self._node.name,
                attempt=attempt,
                result=result,
            )
        return msgspec.structs.replace(
            self._end("cached" if skipped else "succeeded"),
            attempt=attempt,
            fingerprint=digest,
            cache=reason,
            result=result,
            inputs=codec.references(list(encoded.values())),
            outputs=codec.references(result),
        )

    def _failure(self, error: Exception) -> StepFinished:
        if self._cancelled.is_set() or isinstance(error, CancelledError):
            return self._end("cancelled", message=str(error).partition("\n")[0])
        if isinstance(error, JobFailedError):
            return self._end("failed", message=error.outcome.message, trace=error.outcome.traceback)
        message = f"{type(error).__name__}: {error}"
        if isinstance(error, UserError):
            return self._end("failed", message=message, permanent=True)
        return self._end("failed", message=message, trace="".join(traceback.format_exception(error)))

    def _end(self, state: str, *, message: str = "", trace: str | None = None, permanent: bool = False) -> StepFinished:
        return StepFinished(
            at=self._context.clock.now(),
            run=self._context.run,
            step=self._node.name,
            attempt=self._action.attempt,
            state=state,
            message=message,
            traceback=trace,
            permanent=permanent,
            metrics=dict(self._context.metrics.get(self._node.name, {})),
        )

    @property
    def _owner(self) -> str:
        return f"{self._context.graph.pipeline}/{self._node.name}"

    @property
    def _seed(self) -> int:
        """Of the step: 31 bits, which every library takes, from the seed of the run and the name of the step."""
        whole = hashlib.sha256(f"{self._context.seed}/{self._node.name}".encode()).digest()
        return int.from_bytes(whole[:4], "big") & 0x7FFFFFFF
