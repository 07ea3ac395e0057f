"""What a training is bound by: the pure verdict, the stopwatch, and trainings in which something is slow on purpose."""

from __future__ import annotations

import io
import os
import time
from typing import NamedTuple

import msgspec
import numpy as np
import pytest
from bottleneck_samples import burn, waits
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from ganglion.core.events import MemberReported
from ganglion.execution.entry import Entry
from ganglion.testing.faults import Fault
from ganglion.training import Factory, Optimizer, TrainingPlan, TrainingResult
from ganglion.training.diagnosis import CLEAR, ENOUGH, Circumstances, Verdict, diagnose
from ganglion.training.measures import Measures, Survey, Tally
from ganglion.training.progress import ProgressBar
from ganglion.training.timing import Laps, Stage, StepTimer, Usage

SECONDS = st.floats(0, 100, allow_nan=False)


class Lap(NamedTuple):
    """One step on one process."""

    seconds: tuple[float, ...]
    usage: Usage | None = None


def laps_of(*steps):
    """Steps of one process, as it tells of them."""
    return Laps(np.array([step.seconds for step in steps]).tobytes(), tuple(step.usage for step in steps if step.usage))


def add(tally, step):
    tally.add([laps_of(lap) for lap in step])


@st.composite
def usages(draw):
    return Usage(*(draw(SECONDS) for _ in Usage.__struct_fields__))


@st.composite
def laps(draw, workers):
    usage = draw(st.none() | usages())
    return [Lap(tuple(draw(SECONDS) for _ in Stage), usage) for _ in range(workers)]


def measured(steps):
    tally = Tally(lambda: 0.0)
    for step in steps:
        add(tally, step)
    return tally.total()


def alike(workers=2, steps=ENOUGH, usage=None, **seconds):
    """Steps in which all workers do the same; stages that are not named take 1 ms."""
    lap = Lap(tuple(seconds.get(stage.name.lower(), 0.001) for stage in Stage), usage)
    return [[lap] * workers] * steps


def with_more(step, stage, seconds):
    """The same step, in which a stage takes longer on every process."""
    return [
        Lap(tuple(value + seconds * (place == stage) for place, value in enumerate(lap.seconds)), lap.usage)
        for lap in step
    ]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4).flatmap(lambda workers: st.lists(laps(workers), max_size=ENOUGH + 2)))
def test_there_is_a_verdict_on_whatever_is_measured_and_its_shares_are_all_of_the_time(steps):
    verdict = diagnose(measured(steps), Circumstances())
    if verdict.bound == "unknown":
        assert len(steps) < ENOUGH or verdict.step_seconds == 0
        return
    assert sum(verdict.shares.values()) == pytest.approx(1, abs=1e-3)
    assert all(share >= 0 for share in verdict.shares.values())
    if verdict.bound == "balanced":
        assert max(verdict.shares.values()) < CLEAR + 1e-3
    else:
        assert verdict.shares[verdict.bound] == max(verdict.shares.values())
        assert verdict.evidence
        assert verdict.remedies
    assert msgspec.json.decode(msgspec.json.encode(verdict), type=Verdict) == verdict


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 4).flatmap(lambda workers: st.lists(laps(workers), min_size=ENOUGH, max_size=ENOUGH)),
    st.sampled_from([(Stage.LOAD, "input"), (Stage.REDUCE, "communication"), (Stage.REST, "overhead")]),
    st.floats(0, 1000, allow_nan=False),
)
def test_more_of_what_binds_a_training_never_leads_away_from_that_verdict(steps, added, seconds):
    stage, bound = added
    before = diagnose(measured(steps))
    after = diagnose(measured([with_more(step, stage, seconds) for step in steps]))
    if before.bound == bound:
        assert after.bound == bound
        assert after.shares[bound] >= before.shares[bound] - 1e-3


@settings(max_examples=40, deadline=None)
@given(st.lists(laps(2), min_size=ENOUGH, max_size=ENOUGH), st.floats(0, 1000))
def test_more_page_faults_never_lead_away_from_memory(steps, faults):
    def with_faults_in(lap):
        usage = lap.usage and msgspec.structs.replace(lap.usage, faults=lap.usage.faults + faults)
        return lap._replace(usage=usage)

    before = diagnose(measured(steps))
    after = diagnose(measured([[with_faults_in(lap) for lap in step] for step in steps]))
    assert after.shares.get("memory", 0) >= before.shares.get("memory", 0) - 1e-3
    if before.bound == "memory":
        assert after.bound == "memory"


@pytest.mark.parametrize(
    ("stage", "bound", "words"),
    [
        ("load", "input", "--fix-input"),
        ("compute", "compute", "precision=bfloat16"),
        ("reduce", "communication", "--workers"),
        ("rest", "overhead", "checkpoints.shortest"),
    ],
)
def test_the_stage_that_takes_the_time_is_the_verdict(stage, bound, words):
    verdict = diagnose(measured(alike(**{stage: 0.03})))
    assert (verdict.bound, verdict.rank) == (bound, None)
    assert verdict.summary == f"{bound}-bound {100 * verdict.shares[bound]:.0f}%"
    assert words in " ".join(verdict.remedies)


def test_nothing_stands_out_where_everything_takes_as_long_and_one_worker_has_nobody_to_talk_to():
    assert diagnose(measured(alike(load=0.01, compute=0.01, reduce=0.01, rest=0.01))).summary == "balanced"
    assert diagnose(measured(alike(workers=1, reduce=0.03))).bound == "compute"
    assert diagnose(Measures()) == Verdict()
    assert diagnose(measured(alike(steps=ENOUGH - 1))).summary == ""


def test_who_is_waited_for_is_named():
    late = Lap((0.001, 0.05, 0.001, 0.001, 0.0), Usage(compute=0.05, compute_cpu=0.005))
    others = Lap((0.001, 0.01, 0.041, 0.001, 0.0))
    verdict = diagnose(measured([[others, others, late]] * 9), Circumstances(logical=3))
    assert (verdict.bound, verdict.rank, verdict.cause) == ("communication", 2, "waiting for rank 2")
    assert "It uses a core for 10% of that time." in verdict.evidence
    assert "--logical-workers 12" in " ".join(verdict.remedies)


def test_a_worker_that_only_its_records_keep_is_bound_by_input_not_by_the_others_waiting():
    late = Lap((0.05, 0.01, 0.001, 0.001, 0.0))
    other = Lap((0.001, 0.01, 0.05, 0.001, 0.0))
    verdict = diagnose(measured([[other, late]] * 9))
    assert (verdict.bound, verdict.rank) == ("input", 1)


def test_loader_threads_that_take_the_core_from_the_training_are_input():
    usage = Usage(compute=0.05, compute_cpu=0.01, queued=0.04, helpers=0.045)
    verdict = diagnose(measured(alike(compute=0.05, usage=usage)))
    assert verdict.bound == "input"
    assert verdict.cause == "threads that make records take the core from the training"
    someone_else = msgspec.structs.replace(usage, helpers=0.0)
    verdict = diagnose(measured(alike(compute=0.05, usage=someone_else)), Circumstances(cores=2))
    assert (verdict.bound, verdict.cause) == ("compute", "more busy processes than cores")


def test_what_competes_with_one_worker_is_not_held_against_what_another_takes():
    slow, short = Usage(compute=0.06, compute_cpu=0.06), Usage(compute=0.001, compute_cpu=0.0003, helpers=0.0007)
    late = [Lap((0.0002, 0.06, 0.0001, 0.0001, 0.0), slow), Lap((0.0002, 0.001, 0.0591, 0.0001, 0.0), short)]
    soon = [Lap((0.0002, 0.0, 0.001, 0.0001, 0.0)), Lap((0.0002, 0.001, 0.0, 0.0001, 0.0), short)]
    verdict = diagnose(measured([late] * 3 + [soon] * 26))
    assert (verdict.bound, verdict.rank) == ("communication", 0)


def test_standing_still_is_memory_only_as_far_as_faults_or_pressure_explain_it():
    usage = Usage(compute=0.05, compute_cpu=0.01)
    assert diagnose(measured(alike(compute=0.05, usage=usage))).bound == "compute"
    faults = msgspec.structs.replace(usage, faults=20)
    verdict = diagnose(measured(alike(compute=0.05, usage=faults)))
    assert verdict.bound == "memory"
    assert "micro_batches=2" in verdict.remedies[0]
    assert diagnose(measured(alike(compute=0.05, usage=msgspec.structs.replace(usage, stalled=0.05)))).bound == "memory"
    full = msgspec.structs.replace(faults, filled=0.97)
    assert any("97% of its memory limit" in line for line in diagnose(measured(alike(usage=full))).evidence)


def test_what_is_recent_forgets_and_the_total_does_not():
    now = 0.0
    tally = Tally(lambda: now)
    for step in alike(steps=20, load=1.0):
        add(tally, step)
        now += 1.0
    for step in alike(steps=20, compute=1.0):
        add(tally, step)
        now += 1.0
    assert diagnose(tally.recent()).bound == "compute"
    assert tally.recent().steps <= 11
    assert tally.total().steps == 40
    assert tally.total().load == pytest.approx(0.5, abs=0.01)
    for step in alike(workers=3, steps=6, rest=1.0):
        add(tally, step)
    assert (len(tally.recent().ranks), tally.recent().steps, tally.total().steps) == (3, 6, 46)


def test_steps_add_up_to_the_same_however_many_are_told_together():
    chance = np.random.default_rng(0)
    steps = [[Lap(tuple(chance.exponential(size=len(Stage)))) for _ in range(3)] for _ in range(20)]
    together = Tally(lambda: 0.0)
    for begin, end in ((0, 1), (1, 8), (8, 20)):
        together.add([laps_of(*(step[rank] for step in steps[begin:end])) for rank in range(3)])
    one_by_one = measured(steps)
    assert together.total().steps == 20
    assert together.total().seconds == pytest.approx(one_by_one.seconds)
    for mine, other in zip(together.total().ranks, one_by_one.ranks, strict=True):
        assert msgspec.structs.astuple(mine)[:2] == msgspec.structs.astuple(other)[:2]
        assert mine.longest_load == other.longest_load
    late = laps_of(*[Lap((0.0, 1.0, 0.0, 0.0, 0.0))] * 2)
    others = laps_of(*[Lap((9.0, 9.0, 9.0, 9.0, 9.0))] * 3, *[Lap((0.0, 0.5, 0.5, 0.0, 0.0))] * 2)
    joined = Tally(lambda: 0.0)
    joined.add([others, late])
    assert (joined.total().steps, joined.total().ranks[1].last, joined.total().ranks[0].compute) == (2, 2, 0.5)


def take(timer):
    """A step in which nothing happens."""
    timer.start()
    for stage in (Stage.LOAD, Stage.COMPUTE, Stage.REDUCE, Stage.UPDATE):
        timer.ended(stage)
    timer.finish()


def test_the_stopwatch_tells_processor_time_from_waiting():
    timer = StepTimer()
    timer.finish()
    assert not timer.due
    timer.start()
    waits(0.02)
    timer.ended(Stage.LOAD)
    burn(0.02)
    timer.ended(Stage.COMPUTE)
    timer.ended(Stage.REDUCE)
    timer.ended(Stage.UPDATE)
    timer.finish()
    laps = timer.laps()
    assert timer.due
    assert laps.table.shape == (1, len(Stage))
    assert laps.table[0, Stage.LOAD] >= 0.02
    (usage,) = laps.usages
    assert usage.load_cpu < 0.01
    assert usage.compute_cpu >= 0.019
    timer.start()
    timer.ended(Stage.LOAD)
    assert timer.laps() == laps, "a step that is under way has no lap"
    take(timer)
    assert timer.laps().table.shape == (2, len(Stage)), "one that is begun anew has one"
    timer.forget()
    assert not timer.due


def test_the_kernel_is_not_asked_about_every_short_step():
    timer = StepTimer()
    for _ in range(200):
        take(timer)
    assert 1 <= len(timer.laps().usages) <= 20


def test_short_steps_are_told_many_at_a_time_by_all_who_have_taken_them():
    first, second = Survey(), Survey()
    told = []
    replaced = False
    began = time.monotonic()
    for step in range(600):
        if step >= 300 and not replaced and isinstance(first.say(left=9), Laps):
            second, replaced = Survey(), True  # a newcomer, who does not know what was asked for
        notes = []
        for survey in (first, second):
            survey.timer.start()
            survey.timer.ended(Stage.LOAD)
            survey.timer.ended(Stage.COMPUTE)
            notes.append(survey.say(left=9))
        told.append(isinstance(notes[0], Laps))
        for survey in (first, second):
            survey.hear(notes)
            survey.timer.ended(Stage.REDUCE)
            survey.timer.ended(Stage.UPDATE)
            survey.timer.finish()
        waits(0.001)
    seconds = time.monotonic() - began
    assert sum(told) <= 20 + 5 * seconds, "two for each of the first ten steps, then one for every fifth of a second"
    assert replaced
    steps = first.tally.total().steps
    assert 200 < steps <= 600
    assert [rank.steps for rank in first.tally.total().ranks] == [steps, steps]
    first.timer.start()
    first.timer.ended(Stage.LOAD)
    first.forget()
    assert first.say(left=9) is False, "what was not told is not told after another's state was taken over"
    first.timer.finish()  # of an evaluation, say: the step that had begun is not gone on with
    assert first.say(left=9) is False
    take(first.timer)
    assert first.timer.laps().table.shape == (1, len(Stage))


def test_the_bar_says_what_a_training_is_bound_by_while_it_runs():
    shown = io.StringIO()
    values = {"step": 3, "steps": 10, "bound": "input-bound 62%"}
    with ProgressBar(Console(file=shown, force_terminal=True, width=160)) as bar:
        bar(MemberReported(at=0.0, job="job", member="worker-0", attempt=1, values=values))
    assert "input-bound 62%" in shown.getvalue()


# real trainings


def point_plan(model=None, source=None, **fields):
    def part(name, arguments):
        return Factory(entry=Entry(path=f"bottleneck_samples:{name}"), arguments=arguments or {})

    return TrainingPlan(
        model=part("Network", model),
        train=part("Points", source),
        input_column="point",
        optimizer=Optimizer(name="sgd"),
        **fields,
    )


def verdict_of(outcome):
    outcome.raise_for_failure()
    return msgspec.convert(outcome.value, TrainingResult).diagnosis


def test_a_slow_source_is_found_while_the_training_runs_and_at_its_end(train):
    events = []
    verdict = verdict_of(train(point_plan(source={"sleep": 0.1}), workers=2, events=events))
    assert verdict.bound == "input"
    assert verdict.cause == "waiting for records"
    said = [event.values for event in events if isinstance(event, MemberReported) and "bound" in event.values]
    assert said, "nothing was said while it ran"
    assert said[-1]["bound"].startswith("input-bound ")
    assert said[-1]["input_share"] == max(value for name, value in said[-1].items() if name.endswith("_share"))


def test_a_slow_model_is_found(train):
    verdict = verdict_of(train(point_plan(model={"work": 0.08}), workers=1))
    assert verdict.bound == "compute"


def test_a_slow_transport_is_found_and_a_slow_peer_named(train):
    slow = Fault(kind="slow", point="in_reduce", seconds=0.08, times=0)
    verdict = verdict_of(train(point_plan(), workers=2, faults=(slow,)))
    assert (verdict.bound, verdict.cause) == ("communication", "the sum itself")

    late = Fault(kind="slow", seconds=0.08, times=0, rank=1)
    verdict = verdict_of(train(point_plan(), workers=2, faults=(late,)))
    assert (verdict.bound, verdict.rank) == ("communication", 1)


def test_memory_that_is_read_back_from_disk_is_found(train, tmp_path):
    table = tmp_path / "table"
    table.write_bytes(os.urandom(32 * 2**20))
    os.sync()
    verdict = verdict_of(train(point_plan(model={"table": str(table), "pages": 1000}), workers=1))
    assert verdict.bound == "memory"
    assert "pages a second had to be read from a disk" in " ".join(verdict.evidence)
