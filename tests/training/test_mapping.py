import itertools

from hypothesis import given
from hypothesis import strategies as st

from ganglion.training.mapping import CERTAIN, RETRY, WINDOW, Balance, adders, assign, duration

costs = st.lists(st.floats(0.001, 10.0), min_size=1, max_size=8)


@given(costs, st.integers(1, 32))
def test_every_logical_worker_is_computed_once_and_in_order(costs, logical):
    spans = assign(costs, logical)
    assert [worker for span in spans for worker in span] == list(range(logical))
    assert len(spans) == len(costs)


@given(costs, st.integers(1, 32), st.data())
def test_no_other_cut_ends_earlier(costs, logical, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, logical), min_size=len(costs) - 1, max_size=len(costs) - 1)))
    bounds = [0, *cuts, logical]
    other = [range(a, b) for a, b in itertools.pairwise(bounds)]
    assert duration(assign(costs, logical), costs) <= duration(other, costs) * (1 + 1e-9)


@given(st.integers(1, 8), st.integers(1, 32))
def test_equals_get_equal_parts(world, logical):
    sizes = [len(span) for span in assign([1.0] * world, logical)]
    assert max(sizes) - min(sizes) <= 1


def test_a_process_four_times_as_slow_is_relieved_once_that_is_certain():
    balance = Balance(2, 8)
    for step in range(CERTAIN):
        assert [len(span) for span in balance.spans] == [4, 4], step
        balance.observe([4.0, 16.0])
    assert [len(span) for span in balance.spans] == [7, 1]
    for _ in range(2 * WINDOW):
        balance.observe([7.0, 4.0])
    assert [len(span) for span in balance.spans] == [7, 1]


def test_a_process_that_is_now_and_then_held_up_is_relieved_once_that_is_usual():
    balance = Balance(2, 8)
    for step in range(WINDOW):
        assert [len(span) for span in balance.spans] == [4, 4], step
        balance.observe([4.0, 4.0 if step % 3 == 0 else 16.0])
    assert [len(span) for span in balance.spans] == [7, 1]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8).filter(any))
def test_the_sum_is_made_by_the_fast_ones_and_nobody_else(sizes):
    ends = list(itertools.accumulate(sizes))
    spans = [range(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    chosen = adders(spans)
    assert sizes.index(max(sizes)) in chosen
    assert all((rank in chosen) == (2 * size > max(sizes)) for rank, size in enumerate(sizes))


def test_noise_changes_nothing():
    balance = Balance(2, 8)
    for step in range(10 * WINDOW):
        balance.observe([4.0 + 0.3 * (step % 3), 4.4 if step % 7 else 40.0])
    assert [len(span) for span in balance.spans] == [4, 4]


def test_whoever_was_relieved_of_everything_is_tried_again_ever_more_seldom():
    balance = Balance(2, 2)
    sizes = []
    for step in range(40 * RETRY):
        sizes.append([len(span) for span in balance.spans])
        balance.observe([1.0 * len(balance.spans[0]), (9.0 if step < 30 * RETRY else 1.0) * len(balance.spans[1])])
    assert sizes[CERTAIN : CERTAIN + RETRY] == [[2, 0]] * RETRY
    assert sizes[CERTAIN + RETRY] == [1, 1]
    slow = sizes[: 30 * RETRY]
    assert slow.count([1, 1]) == CERTAIN * 5, "after 64 steps, 128, 256 and so on"
    assert sizes[-1] == [1, 1]
