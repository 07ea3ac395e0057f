"""The fault API: what a script says, and that it happens."""

import json
import os
import signal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.core import faults
from ganglion.core.errors import ConfigurationError
from ganglion.execution.member import Member
from ganglion.testing.faults import POINTS, Fault, Injector, draw, happened, parse


@pytest.fixture
def inject(tmp_path):
    """Put this process under a script, as a member of a gang."""

    def install(*script, index=0, attempt=1):
        faults.install(Injector(script, Member(name=f"worker-{index}", index=index, attempt=attempt), tmp_path))

    yield install
    faults.install(None)


def names(tmp_path):
    return [(entry.fault.kind, entry.member, entry.step) for entry in happened(tmp_path)]


def test_a_script_is_read_from_a_line():
    assert parse("kill: rank=1, point=in_reduce, step=3; slow: seconds=0.2, times=0; preempt") == (
        Fault(kind="kill", rank=1, point="in_reduce", step=3),
        Fault(kind="slow", seconds=0.2, times=0),
        Fault(kind="preempt"),
    )


def test_a_script_is_read_from_a_file(tmp_path):
    script = draw(3, workers=4, steps=9)
    path = tmp_path / "script.json"
    path.write_bytes(msgspec.json.encode(script))
    assert parse(str(path)) == script
    path.write_text(json.dumps({"kind": "kill"}))
    with pytest.raises(ConfigurationError, match="does not read as a list of faults"):
        parse(str(path))


@given(st.integers(), st.integers(1, 9), st.integers(1, 50))
def test_a_drawn_script_is_the_same_for_the_same_seed_and_within_its_bounds(seed, workers, steps):
    script = draw(seed, workers=workers, steps=steps)
    assert script == draw(seed, workers=workers, steps=steps) == parse(f"seed={seed}", workers=workers, steps=steps)
    assert 1 <= len(script) <= 4
    for fault in script:
        assert fault.rank < workers
        assert fault.step < steps
        assert fault.place in POINTS


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kil: rank=1", "no fault 'kil'.*Did you mean 'kill'"),
        ("kill: rnk=1", "unknown key 'rnk'.*Did you mean 'rank'"),
        ("kill: point=comit", "'training.comit'.*Did you mean 'training.commit'"),
        ("disk_full: point=commit", "'disk_full' cannot happen at 'training.commit'.*checkpoint_write"),
        ("join: rank=1", "needs the rank that joins and the step"),
        ("hold: rank=1", "hold and release need one"),
        ("seed=often", "not of the form seed=N"),
        (" ; ", "are none"),
    ],
)
def test_what_a_script_cannot_say(text, words):
    with pytest.raises(ConfigurationError, match=words):
        parse(text)


def test_a_fault_happens_in_its_step_to_its_rank_and_attempt_once(inject, tmp_path):
    mark = Fault(kind="mark", point="commit", step=2, rank=1)
    for index, attempt in ((0, 1), (1, 2), (1, 1)):
        inject(mark, index=index, attempt=attempt)
        for step in (0, 1, 2, 2):
            faults.point("training.commit", step=step)
            faults.point("training.optimizer", step=step)
    assert names(tmp_path) == [("mark", "worker-1", 2)]


def test_a_point_without_a_step_belongs_to_the_one_before(inject, tmp_path):
    inject(Fault(kind="mark", point="in_reduce", step=4))
    faults.point("training.before_reduce", step=4)
    faults.point("training.in_reduce")
    assert names(tmp_path) == [("mark", "worker-0", 4)]


def test_what_is_to_happen_every_time_does(inject, tmp_path):
    inject(Fault(kind="slow", seconds=0, times=0), Fault(kind="slow", seconds=0, times=2))
    for step in range(3):
        faults.point("training.before_reduce", step=step)
    assert len(names(tmp_path)) == 3 + 2


def test_signals_reach_this_process(inject):
    got = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: got.append(number))
    try:
        inject(Fault(kind="preempt"))
        faults.point("training.before_reduce", step=0)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert got == [signal.SIGTERM]


def test_a_full_disk_is_the_error_that_it_is(inject):
    inject(Fault(kind="disk_full"))
    with pytest.raises(OSError, match=os.strerror(28)):
        faults.point("training.checkpoint_write", step=0)


def test_a_worker_that_joins_waits_for_a_commit_of_another(inject, tmp_path):
    """The gate is open once another worker has committed the step, and not before."""
    join = Fault(kind="join", rank=1, step=3)
    inject(join, index=0)
    faults.point("training.commit", step=2)
    assert not list(tmp_path.glob("*.gate"))
    faults.point("training.commit", step=3)
    assert len(list(tmp_path.glob("*.gate"))) == 1
    inject(join, index=1)
    faults.point("training.ready")  # comes back
    assert names(tmp_path) == [("release", "worker-0", 3), ("hold", "worker-1", 0)]
