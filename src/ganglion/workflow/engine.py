"""Executes what the plan decides: one loop, one thread for each execution, and the journal before everything else.

Threads execute steps and put what happened into a queue; the loop, in the caller's thread, writes each event to the
journal, tells the listeners, feeds it to the pure machine in `plan` and carries out the actions that follow.
"""

from __future__ import annotations

import platform
import queue
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import msgspec

from ganglion.artifacts.store import FolderStore
from ganglion.core import faults
from ganglion.core.clock import Clock, SystemClock
from ganglion.core.ids import Ids, RandomIds
from ganglion.core.log import get_logger
from ganglion.core.run_events import AnyRunEvent, RunFinished, RunStarted, StepFinished
from ganglion.fingerprints import ganglion_version
from ganglion.workflow import codec, plan
from ganglion.workflow.executor import RunContext, StepExecutor
from ganglion.workflow.graph import Graph, Node, StepOutput, substitute
from ganglion.workflow.journal import Journal
from ganglion.workflow.memo import Memo
from ganglion.workflow.result import RunResult
from ganglion.workflow.resume import code_of, open_unfinished

if TYPE_CHECKING:
    from ganglion.execution.supervisor import Supervisor

Listener = Callable[[AnyRunEvent], None]
"""Takes the events of a run, in order, each after it is in the journal; called in the thread of `Engine.run`.

A resumed run begins with all its earlier events: taking one twice must change nothing.
"""


class Engine:
    """Runs pipelines in a project folder.

    Args:
        folder: the project folder; runs live in `runs/<run>`, earlier results in `memo`.
        store: where artifacts are.
        supervisor: runs the processes of steps; may be `None` with `inline`.
        services: long-lived controllers that operations ask for by name.
        listeners: get every event.
        seed: of the runs.
        limit: number of records that steps take from each source; `None` for all.
        inline: run everything in this process, in order, so that a debugger stops in it.
        clock: for the times of events and the ages of results.
        ids: for new runs.
    """

    def __init__(
        self,
        folder: Path,
        store: FolderStore,
        supervisor: Supervisor | None = None,
        *,
        services: Mapping[str, Any] | None = None,
        listeners: Sequence[Listener] = (),
        seed: int = 0,
        limit: int | None = None,
        inline: bool = False,
        clock: Clock | None = None,
        ids: Ids | None = None,
    ) -> None:
        if supervisor is None and not inline:
            raise ValueError("An engine needs a supervisor, or inline=True.")
        self.folder = folder
        self.store = store
        self.supervisor = supervisor
        self.services = {} if services is None else services  # may be filled later
        self.listeners = tuple(listeners)
        self.seed = seed
        self.limit = limit
        self.inline = inline
        self.clock = clock or SystemClock()
        self._ids = ids or RandomIds()
        self._runs: list[_Run] = []

    def run(self, graph: Graph, *, resume: bool = True) -> RunResult:
        """Run a pipeline to its end, in this thread; Ctrl-C cancels it (a second one interrupts).

        Args:
            graph: what `Pipeline.trace` returned, or built by hand.
            resume: go on with an unfinished run of the same pipeline, parameters, code and environment, if any.

        Raises:
            GraphError: the graph is not well-formed; nothing was written.
            OSError: the journal cannot be written; running steps were cancelled.
        """
        order = graph.check()
        started = RunStarted(
            at=self.clock.now(),
            run=self._ids.new("run"),
            pipeline=graph.pipeline,
            parameters=graph.parameters,
            seed=self.seed,
            graph=[_describe(graph.nodes[name]) for name in order],
            environment={
                "Python": platform.python_version(),
                "ganglion": ganglion_version(),
                "code": code_of(graph),
                "limit": str(self.limit),
            },
        )
        runs = self.folder / "runs"
        journal = open_unfinished(runs, started) if resume else None
        if journal is not None:
            started = msgspec.structs.replace(started, run=journal.run, resumed=True)
        with journal or Journal(runs / started.run) as opened:
            run = _Run(self, graph, opened, started)
            self._runs.append(run)
            try:
                with _interrupts(self.cancel, when=not self.inline):
                    return run.go()
            finally:
                self._runs.remove(run)

    def cancel(self) -> None:
        """Cancel what is being run; from any thread or signal handler."""
        for run in list(self._runs):
            run.cancel()


class _Run:
    """The loop of one run."""

    def __init__(self, engine: Engine, graph: Graph, journal: Journal, started: RunStarted) -> None:
        self.engine = engine
        self.graph = graph
        self.journal = journal
        self.started = started
        self.plan = {node.name: _plan_of(node) for node in graph.nodes.values()}
        self.state = plan.begin(self.plan)
        self.ends: dict[str, StepFinished] = {}
        self.finished: RunFinished | None = None
        self.inbox: queue.SimpleQueue[tuple[Any, threading.Event]] = queue.SimpleQueue()
        self.waiting: deque[StepExecutor] = deque()  # inline
        self.active: dict[str, StepExecutor] = {}
        self.count = 0
        self.closed = False
        self.guard = threading.RLock()  # inline, events of other threads are taken in theirs
        folder = engine.folder / "runs" / started.run
        self.context = RunContext(
            run=started.run,
            graph=graph,
            folder=folder,
            seed=engine.seed,
            limit=engine.limit,
            inline=engine.inline,
            store=engine.store,
            memo=Memo(engine.folder / "memo", engine.store, engine.clock),
            supervisor=engine.supervisor,
            services=engine.services,
            clock=engine.clock,
            emit=self.emit,
        )

    def go(self) -> RunResult:
        try:
            self.recall()
            self.take(self.started)
            while self.finished is None:
                if self.waiting and self.inbox.empty():
                    self.perform(self.waiting.popleft())
                else:
                    event, written = self.inbox.get()
                    self.take(event)
                    written.set()
        finally:
            self.close()
        folder = self.context.folder / "result"
        return RunResult(
            run=self.started.run,
            state=self.finished.state,
            message=self.finished.message,
            steps=self.ends,
            resumed=self.started.resumed,
            decode=lambda: substitute(self.graph.returned, lambda found: self.value(found, folder)),
        )

    def cancel(self) -> None:
        self.inbox.put((plan.CancelRequested(), threading.Event()))

    # from the threads of steps and jobs

    def emit(self, event: AnyRunEvent, *, wait: bool = False) -> None:
        if self.context.inline:
            with self.guard:
                if not self.closed:  # a job that outlives the run may still report
                    self.take(event)
            return
        written = threading.Event()
        self.inbox.put((event, written))
        while wait and not written.wait(1.0) and not self.closed:
            pass  # the loop may have ended with an error

    # the loop

    def recall(self) -> None:
        """Take in what an earlier orchestrator has written."""
        for event in self.journal.events:
            self.notice(event)
            self.state, _ = plan.advance(self.state, event, self.plan)
        for name, progress in self.state.steps.items():
            if progress.phase is plan.Phase.SUCCEEDED and not self.is_there(progress.results[-1]):
                self.state, _ = plan.advance(self.state, plan.ResultLost(name), self.plan)

    def is_there(self, result: Any) -> bool:
        return all(artifact.digest in self.context.store for artifact in codec.references(result))

    def take(self, event: AnyRunEvent | plan.CancelRequested) -> None:
        """Journal first, then the listeners, then the plan."""
        pending = deque([event])
        with self.guard:
            while pending:
                current = pending.popleft()
                if not isinstance(current, plan.CancelRequested):
                    self.journal.append(current)
                    self.notice(current)
                self.state, actions = plan.advance(self.state, current, self.plan)
                for action in actions:
                    if (caused := self.act(action)) is not None:
                        pending.append(caused)

    def notice(self, event: AnyRunEvent) -> None:
        if isinstance(event, StepFinished):
            self.ends[event.step] = event
            self.active.pop(event.step, None)
        elif isinstance(event, RunFinished):
            self.finished = event
        for listener in self.engine.listeners:
            try:
                listener(event)
            except Exception:  # noqa: BLE001  # the journal is the truth; a view that fails must not end the run
                get_logger(run=self.started.run).error("a listener raised an exception", exc_info=True)

    def act(self, action: plan.Action) -> AnyRunEvent | None:
        """Carry out an action; returns the event that it consists of, if it is nothing but an event."""
        faults.point("workflow.act", action=action)
        now, run = self.engine.clock.now(), self.started.run
        match action:
            case plan.Execute(step=step):
                self.count += 1
                executor = StepExecutor(self.context, self.graph.nodes[step], action, self.count)
                self.active[step] = executor
                if self.context.inline:
                    self.waiting.append(executor)
                else:
                    threading.Thread(target=executor.run, name=f"ganglion-step-{step}", daemon=True).start()
            case plan.Stop(step=step):
                self.active[step].cancel()
            case plan.Abandon(step=step, attempt=attempt, message=message):
                return StepFinished(at=now, run=run, step=step, attempt=attempt, state="cancelled", message=message)
            case plan.Finish(state=state, message=message):
                return RunFinished(at=now, run=run, state=state, message=message)
        return None

    def perform(self, executor: StepExecutor) -> None:
        try:
            executor.run()
        except KeyboardInterrupt:
            self.take(plan.CancelRequested())

    def close(self) -> None:
        with self.guard:
            self.closed = True
        if self.finished is None:
            for executor in self.active.values():
                executor.cancel()

    def value(self, found: Any, folder: Path) -> Any:
        output: StepOutput = found
        data = self.state.steps[output.step].results[-1]
        for key in output.keys:
            data = codec.select(data, key, f"The result of step `{output.step}`")
        return codec.decode(data, self.context.store, folder)


def _describe(node: Node) -> dict[str, Any]:
    streams = list(dict.fromkeys(output.step for stream in node.streams() for output in stream.outputs))
    return {"step": node.name, "kind": node.operation.kind, "needs": node.needs(), "streams": streams}


def _plan_of(node: Node) -> plan.StepPlan:
    return plan.StepPlan(
        needs=tuple(node.needs()),
        streams=tuple(
            plan.Stream(tuple(output.step for output in stream.outputs), updates=isinstance(stream.sources, StepOutput))
            for stream in node.streams()
        ),
        retries=node.options.retries,
        backoff=node.options.backoff,
        resumable=node.operation.resumable,
    )


@contextmanager
def _interrupts(cancel: Callable[[], None], *, when: bool) -> Iterator[None]:
    """Let the first Ctrl-C cancel; an exception in the middle of a journal entry would tear it."""
    if not when or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def interrupted(_signal: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        cancel()

    signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
