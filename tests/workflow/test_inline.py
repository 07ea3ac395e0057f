from __future__ import annotations

import os
import sys
import threading
import types
from pathlib import Path
from typing import Any

import pytest

from ganglion.core.errors import GraphError
from ganglion.core.run_events import (
    MetricReported,
    ModelPublished,
    ResourcesSampled,
    RunFinished,
    StepFinished,
    StepStarted,
    StepUpdated,
)
from ganglion.execution.entry import Entry
from ganglion.execution.member import current_member
from ganglion.execution.spec import Gang, Role
from ganglion.workflow import RunFailedError, as_completed, current_step, operation, pipeline, step


class Calls(list[Any]):
    """What was called; not part of any fingerprint."""

    def fingerprint(self) -> str:
        return "calls"


CALLS = Calls()


def note(*call: Any) -> None:
    """By import path also for functions that travel by value, so that there is one list."""
    CALLS.append(call)


@pytest.fixture(autouse=True)
def _forget():
    CALLS.clear()


@step
def load(size: int) -> list[int]:
    note("load", size)
    return list(range(size))


@step
def total(numbers: list[int], *, weight: int = 1) -> int:
    note("total", weight)
    return sum(numbers) * weight


@step
def gather(numbers: list[int]) -> list[int]:
    note("gather", list(numbers))
    return sorted(numbers)


@step
def write(text: str) -> Path:
    note("write", text)
    made = current_step().folder / "text.txt"
    made.write_text(text)
    return made


@step
def read(file: Path) -> str:
    return f"{file.name}: {file.read_text()}"


@pipeline
def fan(size: int = 4) -> Any:
    numbers = load(size)
    totals = [total(numbers, weight=weight) for weight in (1, 2, 3)]
    return {"all": gather(totals), "first": totals[0], "item": numbers[-1]}


def test_fan_out_and_fan_in_give_what_the_plain_function_gives(inline: Any):
    result = inline.run(fan.trace())
    assert result.value == {"all": [6, 12, 18], "first": 6, "item": 3}
    assert result.state == "succeeded"
    assert CALLS == [("load", 4), ("total", 1), ("total", 2), ("total", 3), ("gather", [6, 12, 18])]
    assert inline.end("gather").state == "succeeded"


def test_a_second_run_skips_what_has_not_changed_and_says_what_has(inline: Any):
    first = inline.run(fan.trace())
    CALLS.clear()
    assert inline.run(fan.trace()).value == first.value
    assert CALLS == []
    assert inline.end("load").state == "cached"
    assert inline.end("load").attempt == 0
    assert inline.end("load").cache.startswith(f"hit: same code, inputs and environment as in {first.run}")
    assert not inline.of(StepStarted)
    inline.run(fan.trace({"size": 5}))
    assert inline.of(StepStarted, "load")[0].cache == "miss: input `size` changed"
    assert inline.of(StepStarted, "total-3")[0].cache == "miss: input `numbers` changed"


def test_a_step_that_is_not_cached_runs_again_and_its_equal_result_saves_the_rest(inline: Any):
    fresh = load.with_options(cache=False)
    again = pipeline(lambda: total(fresh(3)))
    inline.run(again.trace())
    CALLS.clear()
    inline.run(again.trace())
    assert CALLS == [("load", 3)]
    assert inline.end("load").cache == "miss: caching is off for this step"
    assert inline.end("total").state == "cached"


def test_a_changed_helper_in_another_module_is_a_miss_that_names_it(inline: Any, monkeypatch: pytest.MonkeyPatch):
    helpers = types.ModuleType("some_helpers")
    monkeypatch.setitem(sys.modules, "some_helpers", helpers)

    def edit(source: str) -> None:
        exec(source, vars(helpers))

    edit("def scale(x): return 2 * x\ndef other(): return 1")

    @step
    def scaled(x: int) -> int:
        from some_helpers import scale

        return scale(x)

    doubled = pipeline(lambda: scaled(21))
    assert inline.run(doubled.trace()).value == 42
    edit("def other(): return 2")
    assert inline.run(doubled.trace()).value == 42
    assert inline.end("scaled").state == "cached"
    edit("def scale(x): return 3 * x")
    assert inline.run(doubled.trace()).value == 63
    assert inline.end("scaled").cache == "miss: code of `some_helpers.scale` changed"


def test_files_pass_between_steps_through_the_store_and_a_lost_one_is_made_again(inline: Any):
    both = pipeline(lambda: read(write("hello")))
    assert inline.run(both.trace()).value == "text.txt: hello"
    (artifact,) = inline.end("write").outputs
    assert inline.end("read").inputs == (artifact,)
    CALLS.clear()
    place = inline.store.path(artifact.digest)
    place.chmod(0o644)
    place.write_text("hacked")
    assert inline.run(both.trace()).value == "text.txt: hello"
    assert CALLS == [("write", "hello")]
    assert inline.end("write").cache.endswith("is damaged")
    inline.store.delete(artifact.digest)
    inline.run(both.trace())
    assert inline.end("write").cache.endswith("is gone")


def test_as_completed_executes_again_for_every_arrival_and_the_last_is_final(inline: Any):
    @step
    def best(numbers: list[int]) -> int:
        note("best", list(numbers))
        return max(numbers)

    @step(cache=False)
    def serve(number: int) -> str:
        note("serve", number)
        return f"serving {number}"

    def streaming() -> Any:
        totals = [total([1], weight=weight) for weight in (2, 1, 3)]
        winner = best(as_completed(totals))
        return serve(as_completed(winner)), total([1], weight=winner, name="after")

    result = inline.run(pipeline(streaming).trace())
    assert result.value == ("serving 3", 3)
    assert [call for call in CALLS if call[0] == "best"] == [("best", [2]), ("best", [2, 1]), ("best", [2, 1, 3])]
    assert [call for call in CALLS if call[0] == "serve"] == [("serve", 2), ("serve", 2), ("serve", 3)]
    assert CALLS[-1] == ("total", 3) or CALLS[-2] == ("total", 3)  # the plain edge waited for the last one
    assert len(inline.of(StepUpdated, "best")) == len(inline.of(StepUpdated, "serve")) == 2
    assert len(inline.of(StepStarted, "serve")) == len(inline.of(StepFinished, "serve")) == 1


def test_a_failing_step_is_tried_again_then_fails_the_run_with_its_traceback(inline: Any):
    @step(retries=1, backoff=0)
    def fragile() -> int:
        note("fragile", current_step().attempt)
        raise ValueError("no luck")

    result = inline.run(pipeline(lambda: total([fragile()])).trace())
    assert CALLS == [("fragile", 1), ("fragile", 2)]
    assert result.state == "failed"
    assert result.message.startswith("step `fragile` failed on attempt 2: ")
    assert "no luck" in result.message
    assert 'raise ValueError("no luck")' in result.traceback
    assert [end.state for end in inline.of(StepFinished)] == ["failed", "failed", "cancelled"]
    assert inline.end("total").step == "total"
    assert isinstance(inline.events[-1], RunFinished)
    with pytest.raises(RunFailedError, match="no luck"):
        _ = result.value


def test_what_a_step_cannot_return_fails_it_with_the_reason(inline: Any):
    @step
    def leak() -> Any:
        return [threading.Lock()]

    result = inline.run(pipeline(lambda: leak()).trace())
    assert "the value[0] is a _thread.lock, which cannot travel between steps" in result.message


def test_an_item_that_is_not_there_fails_the_step_that_wants_it(inline: Any):
    result = inline.run(pipeline(lambda: total([load(2)[5]])).trace())
    assert "The result of step `load` has no item [5]" in result.message


def test_steps_know_seed_limit_and_folder_and_report_metrics(inline: Any, tmp_path: Path):
    @step
    def measured(rate: float) -> tuple[int, int | None, str]:
        here = current_step()
        here.report({"loss": 0.5, "epoch": 1, "note": "fine", "done": True})
        here.report({"loss": 0.25, "epoch": 2})
        here.report({"loss": float("nan"), "epoch": 3})  # no line of the journal could be read again
        return here.seed, here.limit, here.step

    inline.engine.limit = 100
    pair = pipeline(lambda: [measured(0.1), measured(0.2)])
    (first, second) = inline.run(pair.trace()).value
    assert first[1:] == (100, "measured")
    assert first[0] != second[0]
    reported = [(event.name, event.value, event.position) for event in inline.of(MetricReported, "measured")]
    assert reported == [("loss", 0.5, 1.0), ("loss", 0.25, 2.0)]
    assert inline.end("measured").metrics == {"loss": 0.25}
    inline.run(pair.trace())
    assert inline.end("measured").metrics == {"loss": 0.25}  # also of a step that was skipped
    inline.engine.limit = None
    inline.run(pair.trace())
    assert inline.of(StepStarted, "measured")[0].cache == "miss: limit 100 -> None"


def test_operations_run_gangs_inline_as_one_member_and_record_what_happens(inline: Any):
    @operation(kind="training")
    def train(host: Any, data: list[int], scale: int = 1) -> dict[str, Any]:
        spec = Gang(
            id=host.job_id(),
            entry=Entry(path=f"{__name__}:gang_entry"),
            arguments={"data": data, "scale": scale},
            roles=(Role(count=4),),
            environment={"SOME_VARIABLE": "set"},
            labels=host.call.labels,
        )
        outcome = host.run(spec)
        outcome.raise_for_failure()
        host.report({"final": 1.0}, member="chief")
        host.published("net", 1, "sha256:0", {"accuracy": 0.9}, ("champion",))
        return {"value": outcome.value, "inline": host.inline, "final": host.call.final}

    result = inline.run(pipeline(lambda: train(load(3), scale=2)).trace())
    assert result.value == {"value": [6, 1, "0/1", "set"], "inline": True, "final": True}
    assert [event.name for event in inline.of(MetricReported)] == ["sum", "final"]
    (published,) = inline.of(ModelPublished)
    assert (published.step, published.model, published.aliases) == ("train", "net", ("champion",))
    assert "SOME_VARIABLE" not in os.environ
    assert "RANK" not in os.environ
    assert not inline.of(ResourcesSampled)


def gang_entry(data: list[int], scale: int) -> list[Any]:
    current_member().report({"sum": sum(data)})
    place = f"{os.environ['RANK']}/{os.environ['WORLD_SIZE']}"
    return [sum(data) * scale, current_member().world_size, place, os.environ["SOME_VARIABLE"]]


def test_a_live_operation_is_never_taken_from_memory_and_services_are_asked_for_by_name(inline: Any):
    @operation(kind="service", resumable=False)
    def deploy(host: Any, what: int) -> str:
        return str(host.service("models").deploy(what))

    class Models:
        def deploy(self, what: int) -> str:
            note("deploy", what)
            return f"at {what}"

    inline.engine.services["models"] = Models()
    live = pipeline(lambda: deploy(7))
    for _ in range(2):
        assert inline.run(live.trace()).value == "at 7"
    assert CALLS == [("deploy", 7), ("deploy", 7)]
    del inline.engine.services["models"]
    assert "no service 'models'" in inline.run(live.trace()).message


def test_a_malformed_pipeline_leaves_nothing_behind(inline: Any):
    graph = fan.trace()
    graph.returned = None
    with pytest.raises(GraphError, match="Nothing uses the result of `gather`"):
        inline.run(graph)
    assert not inline.folder.exists()


def test_an_interrupt_in_a_function_cancels_the_run(inline: Any):
    @step
    def interrupted() -> None:
        raise KeyboardInterrupt

    result = inline.run(pipeline(lambda: total([interrupted()])).trace())
    assert result.state == "cancelled"
    assert [end.state for end in inline.of(StepFinished)] == ["cancelled", "cancelled"]


def test_a_listener_that_fails_does_not_fail_the_run(inline: Any):
    def broken(_event: Any) -> None:
        raise OSError("view is gone")

    inline.engine.listeners = (broken, *inline.engine.listeners)
    assert inline.run(fan.trace()).succeeded


def test_a_path_given_as_an_argument_stays_where_it_is_and_counts_by_its_content(inline: Any, tmp_path: Path):
    given = tmp_path / "given.txt"
    given.write_text("one")

    @step
    def look(file: Path) -> str:
        return f"{file} {file.read_text()}"

    looking = pipeline(lambda: look(given))
    assert inline.run(looking.trace()).value == f"{given} one"
    assert inline.end("look").inputs == ()
    given.write_text("two")
    assert inline.run(looking.trace()).value == f"{given} two"
    assert inline.end("look").cache == "miss: input `file` changed"
    given.write_text("one")
    inline.run(looking.trace())
    assert inline.end("look").state == "cached"
