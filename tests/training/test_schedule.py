import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.core.errors import ConfigurationError
from ganglion.training import Schedule

kinds = st.sampled_from(["constant", "one_cycle", "cosine", "linear", "exponential"])


@given(kinds, st.integers(1, 500), st.floats(0, 1), st.data())
def test_the_factor_lies_between_nothing_and_the_peak(kind, steps, warm_up, data):
    step = data.draw(st.integers(0, steps - 1))
    assert 0 <= Schedule(kind=kind, warm_up=warm_up).factor(step, steps) <= 1


@given(st.integers(10, 500))
def test_one_cycle_rises_to_the_peak_and_falls_to_the_end(steps):
    schedule = Schedule(kind="one_cycle", warm_up=0.3, initial=0.1, final=0.01)
    factors = [schedule.factor(step, steps) for step in range(steps)]
    peak = factors.index(max(factors))
    assert factors[0] == pytest.approx(0.1)
    assert factors[-1] == pytest.approx(0.01)
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
    assert abs(peak - 0.3 * (steps - 1)) <= 1


def test_cosine_is_half_way_down_in_the_middle():
    schedule = Schedule(kind="cosine", final=0.0)
    assert [schedule.factor(step, 101) for step in (0, 50, 100)] == pytest.approx([1.0, 0.5, 0.0])


def test_a_training_of_one_step_uses_a_schedule_without_dividing_by_zero():
    assert Schedule(kind="one_cycle", warm_up=1.0).factor(0, 1) == pytest.approx(0.04)
    assert Schedule(kind="one_cycle", warm_up=0.0).factor(0, 1) == 1.0


def test_a_share_beyond_one_is_refused():
    with pytest.raises(ConfigurationError, match=r"warm_up is 30.*between 0 and 1"):
        Schedule(kind="one_cycle", warm_up=30)


@given(kinds, st.integers(1, 20), st.integers(1, 9), st.data())
def test_by_epoch_it_moves_only_between_epochs(kind, epochs, steps_per_epoch, data):
    schedule, steps = Schedule(kind=kind, by="epoch"), epochs * steps_per_epoch
    factors = [schedule.factor(step, steps, steps_per_epoch) for step in range(steps)]
    epoch = data.draw(st.integers(0, epochs - 1))
    of_epoch = factors[epoch * steps_per_epoch : (epoch + 1) * steps_per_epoch]
    assert set(of_epoch) == {Schedule(kind=kind).factor(epoch, epochs)}


def test_a_straight_line_and_a_decay_by_epoch():
    assert [Schedule(kind="linear", final=0.0).factor(step, 5) for step in (0, 2, 4)] == [1.0, 0.5, 0.0]
    assert Schedule(kind="exponential", decay=0.25).factor(5, 100, 10) == pytest.approx(0.5)


def test_stairs_go_down_at_the_end_of_their_epochs():
    stairs = Schedule(kind="stairs", milestones=(1, 3), decay=0.5)
    assert [stairs.factor(step, 8, 2) for step in range(8)] == [1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25]
    with pytest.raises(ConfigurationError, match="stairs have milestones"):
        Schedule(kind="stairs")
