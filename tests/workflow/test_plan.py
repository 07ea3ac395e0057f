from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ganglion.core.run_events import RunFinished, RunStarted, StepFinished, StepStarted, StepUpdated
from ganglion.workflow.plan import (
    Abandon,
    CancelRequested,
    Execute,
    Finish,
    Phase,
    ResultLost,
    StepPlan,
    Stop,
    Stream,
    advance,
    begin,
    replay,
)


class Play:
    """Feeds events to the machine and keeps what it asks for."""

    def __init__(self, **plan: StepPlan) -> None:
        self.plan = plan
        self.state = begin(plan)
        self.journal: list[Any] = []

    def tell(self, event: Any) -> list[Any]:
        self.state, actions = advance(self.state, event, self.plan)
        if not isinstance(event, CancelRequested | ResultLost):
            self.journal.append(event)
        return actions

    def start(self, *, resumed: bool = False) -> list[Any]:
        return self.tell(RunStarted(at=0, run="r", pipeline="p", resumed=resumed))

    def begins(self, step: str, attempt: int = 1) -> list[Any]:
        return self.tell(StepStarted(at=0, run="r", step=step, attempt=attempt))

    def updates(self, step: str, result: Any) -> list[Any]:
        return self.tell(StepUpdated(at=0, run="r", step=step, attempt=1, result=result))

    def ends(self, step: str, result: Any = None, state: str = "succeeded", attempt: int = 1) -> list[Any]:
        return self.tell(
            StepFinished(at=0, run="r", step=step, attempt=attempt, state=state, result=result, message="broke")
        )

    def crash(self) -> None:
        self.state = replay(self.journal, self.plan)


def names(actions: list[Any]) -> list[str]:
    return [action.step for action in actions if isinstance(action, Execute)]


def test_independent_steps_start_together_and_a_fan_in_waits_for_all():
    play = Play(a=StepPlan(), b=StepPlan(), c=StepPlan(needs=("a", "b")))
    assert names(play.start()) == ["a", "b"]
    play.begins("a"), play.begins("b")
    assert play.ends("b", 2) == []
    (execute,) = play.ends("a", 1)
    assert execute == Execute(step="c", attempt=1, begins=True, inputs={"a": 1, "b": 2}, final=True)
    assert play.ends("c") == [Finish("succeeded", "")]


def test_an_as_completed_list_is_executed_once_for_each_arrival_in_the_order_of_arrival():
    play = Play(a=StepPlan(), b=StepPlan(), c=StepPlan(), s=StepPlan(streams=(Stream(("a", "b", "c"), False),)))
    play.start()
    (first,) = play.ends("c", "C")
    assert first.inputs == {"c": "C"}
    assert not first.final
    play.begins("s")
    assert play.ends("a", "A") == []  # the first execution is still going on
    assert play.ends("b", "B") == []
    (second,) = play.updates("s", 1)
    assert second.inputs == {"a": "A", "c": "C"}
    assert not second.begins
    assert not second.final
    (third,) = play.updates("s", 2)
    assert third.inputs == {"a": "A", "b": "B", "c": "C"}
    assert third.final
    assert play.ends("s", 3) == [Finish("succeeded", "")]


def test_as_completed_of_one_step_follows_its_updates_and_a_plain_edge_waits_for_the_end():
    play = Play(
        a=StepPlan(),
        b=StepPlan(),
        best=StepPlan(streams=(Stream(("a", "b"), False),)),
        serve=StepPlan(streams=(Stream(("best",), True),)),
        ask=StepPlan(needs=("serve",)),
    )
    play.start()
    play.ends("a", "A")
    play.begins("best")
    (serve,) = play.updates("best", ["A"])
    assert (serve.step, serve.inputs, serve.final) == ("serve", {"best": ["A"]}, False)
    play.begins("serve")
    assert play.updates("serve", "v1") == []
    play.ends("b", "B")
    (serve,) = play.ends("best", ["B", "A"])
    assert serve.final
    assert names(play.ends("serve", "v2")) == ["ask"]


def test_a_failed_step_is_tried_again_after_a_growing_delay_with_the_same_inputs():
    play = Play(a=StepPlan(retries=2, backoff=0.5))
    play.start()
    play.begins("a")
    (again,) = play.ends("a", state="failed")
    assert (again.attempt, again.delay, again.begins) == (2, 0.5, True)
    play.begins("a", 2)
    (again,) = play.ends("a", state="failed", attempt=2)
    assert (again.attempt, again.delay) == (3, 1.0)
    play.begins("a", 3)
    assert play.ends("a", state="failed", attempt=3) == [
        Finish("failed", "step `a` failed on attempt 3: broke"),
    ]


def test_a_failure_stops_what_runs_and_abandons_what_waits():
    play = Play(a=StepPlan(), b=StepPlan(), c=StepPlan(needs=("a", "b")))
    play.start()
    play.begins("a"), play.begins("b")
    assert play.ends("a", state="failed") == [Stop("b")]
    (abandon,) = play.ends("b", state="cancelled")
    assert isinstance(abandon, Abandon)
    assert abandon.step == "c"
    (finish,) = play.ends("c", state="cancelled", attempt=0)
    assert finish == Finish("failed", "step `a` failed on attempt 1: broke")


def test_a_cancelled_run_ends_as_cancelled_even_when_the_running_step_still_succeeds():
    play = Play(a=StepPlan(), b=StepPlan(needs=("a",)))
    play.start()
    play.begins("a")
    assert play.tell(CancelRequested()) == [Stop("a")]
    assert play.tell(CancelRequested()) == []
    (abandon,) = play.ends("a", 1)
    assert abandon.step == "b"
    assert play.ends("b", state="cancelled", attempt=0) == [Finish("cancelled", "cancelled by the user")]


def test_a_resumed_run_keeps_finished_steps_and_counts_attempts_on():
    play = Play(a=StepPlan(), b=StepPlan(needs=("a",), retries=1), c=StepPlan(needs=("b",)))
    play.start()
    play.begins("a")
    play.ends("a", 1)
    play.begins("b")
    play.ends("b", state="failed")
    play.begins("b", 2)
    play.crash()
    (execute,) = play.start(resumed=True)
    assert (execute.step, execute.attempt, execute.inputs) == ("b", 3, {"a": 1})
    play.begins("b", 3)
    assert play.ends("b", state="failed", attempt=3)[-1].step == "c"  # the retry was used before the crash


def test_a_live_result_is_made_again_on_resumption_and_a_lost_one_too():
    play = Play(a=StepPlan(), service=StepPlan(needs=("a",), resumable=False), c=StepPlan(needs=("service",)))
    play.start()
    play.begins("a"), play.ends("a", 1)
    play.begins("service"), play.ends("service", "old address")
    play.crash()
    (execute,) = play.start(resumed=True)
    assert (execute.step, execute.attempt) == ("service", 2)
    play.crash()
    play.tell(ResultLost("a"))
    (execute,) = play.start(resumed=True)
    assert (execute.step, execute.attempt) == ("a", 2)


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, StepPlan]:
    count = draw(st.integers(1, 6))
    plan: dict[str, StepPlan] = {}
    for number in range(count):
        earlier = sorted(plan)
        needs = tuple(draw(st.lists(st.sampled_from(earlier), unique=True, max_size=2))) if earlier else ()
        streams: tuple[Stream, ...] = ()
        if earlier and draw(st.booleans()):
            sources = tuple(draw(st.lists(st.sampled_from(earlier), unique=True, min_size=1, max_size=3)))
            streams = (Stream(sources, draw(st.booleans()) and len(sources) == 1),)
        plan[f"s{number}"] = StepPlan(
            needs=needs, streams=streams, retries=draw(st.integers(0, 2)), resumable=draw(st.booleans())
        )
    return plan


@given(plan=graphs(), data=st.data())
def test_every_run_ends_whatever_fails_and_wherever_it_crashes(plan: dict[str, StepPlan], data: st.DataObject):
    """Simulates an executor: nothing runs before what it needs, at most one execution of a step at a time."""
    play = Play(**plan)
    running: dict[str, Execute] = {}
    pending: list[Any] = []
    crashes, version = 2, 0

    def take(actions: list[Any]) -> None:
        for action in actions:
            if isinstance(action, Execute):
                assert action.step not in running
                assert set(plan[action.step].needs) <= set(action.inputs)
                running[action.step] = action
            elif isinstance(action, Abandon | Finish):
                pending.append(action)

    take(play.start())
    for _ in range(400):
        if play.state.finished:
            break
        if pending:
            action = pending.pop(0)
            if isinstance(action, Finish):
                take(play.tell(RunFinished(at=0, run="r", state=action.state)))
            else:
                take(play.ends(action.step, state="cancelled", attempt=action.attempt))
            continue
        assert running, "nothing runs and the run is not over"
        step = data.draw(st.sampled_from(sorted(running)))
        action = running.pop(step)
        if action.begins:
            take(play.begins(step, action.attempt))
        what = data.draw(st.sampled_from(["end", "end", "end", "fail", "crash"]))
        if what == "crash" and crashes:
            crashes -= 1
            running.clear()
            pending.clear()
            play.crash()
            take(play.start(resumed=True))
        elif what == "fail":
            take(play.ends(step, state="failed", attempt=action.attempt))
        elif action.final:
            take(play.ends(step, version, attempt=action.attempt))
        else:
            take(play.updates(step, version))
        version += 1
    assert play.state.finished
    if not play.state.stopping:
        assert all(progress.phase is Phase.SUCCEEDED for progress in play.state.steps.values())
    assert not running
