"""Items are taken as they come, never waited for."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

import pytest

from ganglion.serving.arrivals import Arrivals


def test_all_items_come_once_in_order() -> None:
    with Arrivals(range(1000), ahead=7) as arrivals:
        found: list[int] = []
        while taken := arrivals.take(5):
            assert len(taken) <= 5
            found += taken
    assert found == list(range(1000))
    assert arrivals.take(1) == [], "and then nothing"


def test_what_is_there_is_given_without_waiting_for_more() -> None:
    given: queue.SimpleQueue[int] = queue.SimpleQueue()
    with Arrivals(iter(given.get, -1), ahead=10) as arrivals:
        given.put(1)
        assert arrivals.take(10) == [1]
        given.put(2)
        assert arrivals.take(10) == [2]
        given.put(-1)
        assert arrivals.take(10) == []


def test_no_more_is_taken_ahead_than_was_said() -> None:
    taken: list[int] = []
    full = threading.Event()

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            if number == 4:
                full.set()
            yield number

    with Arrivals(items(), ahead=4) as arrivals:
        assert full.wait(20)
        assert arrivals.take(2) == [0, 1]
        assert len(taken) <= 4 + 1 + 2


def test_an_error_comes_in_the_place_of_the_item() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("the sensor is gone")

    with Arrivals(items(), ahead=4) as arrivals:
        assert arrivals.take(4) == [1]
        with pytest.raises(OSError, match="the sensor is gone"):
            arrivals.take(4)


def test_who_waits_is_let_go_when_it_is_closed() -> None:
    never = threading.Event()
    found: queue.SimpleQueue[list[int]] = queue.SimpleQueue()

    def items() -> Iterator[int]:
        never.wait()
        yield 1

    with Arrivals(items(), ahead=4) as arrivals:
        waiter = threading.Thread(target=lambda: found.put(arrivals.take(1)))
        waiter.start()
    assert found.get(timeout=20) == []
    never.set()
    waiter.join()
