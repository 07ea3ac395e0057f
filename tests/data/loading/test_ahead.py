from __future__ import annotations

import threading
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ganglion.data.loading.ahead import THREADS, Ahead, threads_wanted


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(THREADS)]


def ahead(work, make, **options) -> Ahead:
    return Ahead(iter(work), make, **{"size": lambda _: 1, "limit": 5, "threads": 2} | options)


@settings(max_examples=30)
@given(
    sizes=st.lists(st.integers(1, 9), max_size=60),
    limit=st.integers(1, 30),
    count=st.sampled_from([None, 0, 1, 4]),
    helps=st.booleans(),
)
def test_results_come_in_order_and_within_the_limit(sizes, limit, count, helps) -> None:
    lock, held, most = threading.Lock(), 0, 0

    def work():
        nonlocal held, most
        for place, size in enumerate(sizes):
            with lock:
                held += size
                most = max(most, held - size)  # the last one taken may have to wait for room
            yield place, size

    found = []
    results = ahead(work(), lambda item: item, size=lambda item: item[1], limit=limit, threads=count, helps=helps)
    for place, size in results:
        found.append(place)
        with lock:
            held -= size
    assert found == list(range(len(sizes)))
    assert most <= limit + 2 * max(sizes, default=0)
    assert threads() == []


def test_the_consumer_does_what_nobody_has_begun() -> None:
    makers = []
    go_on = threading.Event()

    def make(number: int) -> int:
        makers.append(threading.current_thread().name)
        if number == 1:
            assert go_on.wait(30)
        if number == 2:
            go_on.set()
        return number

    results = ahead(range(4), make, threads=1)
    assert list(results) == [0, 1, 2, 3]
    assert len(set(makers)) == 2, "while one is at the first piece, the other does the next"


def test_without_threads_the_consumer_does_everything_when_it_is_asked_for() -> None:
    made = []
    results = ahead(range(10), made.append, threads=0)
    next(results)
    next(results)
    assert made == [0, 1]
    results.close()


def test_an_error_takes_the_place_of_its_result_and_ends_the_threads() -> None:
    def make(number: int) -> int:
        if number == 3:
            raise OSError("broken")
        return number

    results = ahead(range(10), make)
    assert list(islice(results, 3)) == [0, 1, 2]
    with pytest.raises(OSError, match="broken"):
        next(results)
    assert threads() == []
    assert next(results, None) is None


def test_closing_ends_the_threads_after_what_they_are_at() -> None:
    started, go_on = threading.Event(), threading.Event()

    def make(number: int) -> int:
        if number:
            started.set()
            assert go_on.wait(30)
        return number

    results = ahead(range(10), make, threads=1, helps=False)
    assert next(results) == 0
    assert started.wait(30)
    go_on.set()
    results.close()
    assert threads() == []


@given(now=st.integers(1, 8), most=st.integers(1, 8), asked=st.integers(1, 64), data=st.data())
def test_threads_are_added_when_results_are_late_and_taken_away_when_none_is(now, most, asked, data) -> None:
    late = data.draw(st.integers(0, asked))
    now = min(now, most)
    wanted = threads_wanted(now, most, late, asked)
    assert 1 <= wanted <= most
    assert abs(wanted - now) <= 1
    if 4 * late > asked and now < most:
        assert wanted == now + 1
    if late == 0 and now > 1:
        assert wanted == now - 1


def test_threads_grow_with_a_consumer_in_a_hurry() -> None:
    names = set()
    barrier = threading.Semaphore(0)

    def make(number: int) -> int:
        names.add(threading.current_thread().name)
        barrier.acquire(timeout=0.002)
        return number

    results = Ahead(iter(range(300)), make, size=lambda _: 1, limit=100, threads=None, helps=False)
    results._most = 3
    assert list(results) == list(range(300))
    assert len(names) == 3
