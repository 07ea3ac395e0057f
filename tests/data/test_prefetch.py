from __future__ import annotations

import threading
from itertools import count

import pytest

from ganglion.data.prefetch import prefetch


def test_items_come_in_order_and_are_made_by_another_thread() -> None:
    makers = set()

    def items():
        for item in range(100):
            makers.add(threading.get_ident())
            yield item

    assert list(prefetch(items(), 3)) == list(range(100))
    assert len(makers) == 1
    assert threading.get_ident() not in makers


def test_no_more_than_the_depth_is_made_ahead() -> None:
    made = threading.Semaphore(0)
    total = []

    def items():
        for item in count():
            total.append(item)
            made.release()
            yield item

    ahead = prefetch(items(), 2)
    for taken in range(5):
        assert next(ahead) == taken
    for _ in range(7):  # five taken and two ahead are made without anybody asking
        assert made.acquire(timeout=60)
    ahead.close()
    assert len(total) == 7


def test_an_exception_is_raised_where_its_item_would_have_been() -> None:
    def items():
        yield 1
        yield 2
        raise OSError("the disk is gone")

    ahead = prefetch(items(), 2)
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(OSError, match="the disk is gone"):
        next(ahead)
    assert not any(thread.name.startswith("prefetch") for thread in threading.enumerate())


def test_without_depth_there_is_no_thread() -> None:
    makers = set()

    def items():
        makers.add(threading.get_ident())
        yield 1

    assert list(prefetch(items(), 0)) == [1]
    assert makers == {threading.get_ident()}
