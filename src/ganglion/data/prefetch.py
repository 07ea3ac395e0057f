"""Work done ahead by a background thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")

_END = object()


def prefetch(items: Iterator[Item], depth: int) -> Generator[Item, None, None]:
    """Yield `items` in order while one thread makes up to `depth` of them ahead.

    The thread starts with the iteration and has ended when the iteration ends, is closed or fails. An exception in
    `items` is raised where its item would have been.

    Args:
        items: advanced in the thread alone.
        depth: how many items are held ready at most; 0 makes each when it is asked for, without a thread.
    """
    if depth == 0:
        yield from items
        return
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as executor:
        waiting = deque(executor.submit(next, items, _END) for _ in range(depth))
        try:
            while (item := waiting.popleft().result()) is not _END:
                waiting.append(executor.submit(next, items, _END))
                yield item  # type: ignore[misc]  # the sentinel is excluded, which `is not` does not tell mypy
        finally:
            executor.shutdown(cancel_futures=True)
