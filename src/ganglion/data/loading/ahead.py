"""Work done ahead of whoever needs its results, in order, within a bound of bytes.

Threads take pieces of work one after the other, and results come out in the order of the work, whoever did it and
however long it took. Nobody waits for a piece that nobody has begun: the consumer then does it himself, and while a
piece that he needs is being done by a thread he does another one. So one thread and a consumer in a hurry make two
workers, and a consumer who is slow finds everything ready.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from ganglion.core.resources import cores

Work = TypeVar("Work")
Result = TypeVar("Result")

THREADS = "loader"
"""Names of threads begin with it."""

_WAITING, _RUNNING, _DONE = range(3)
_JUDGED = 16  # results after which the number of threads is thought over
_SPARE = 3  # results ready or in the making beyond one for each thread; with 2, a thread often waits for the consumer


def threads_wanted(threads: int, most: int, late: int, asked: int) -> int:
    """How many threads there should be, from how often a result was not ready when it was asked for; pure.

    Args:
        threads: how many there are.
        most: how many there may be.
        late: results of the last `asked` that were not ready.
        asked: results that were asked for.

    Returns:
        One more where more than a quarter was late, one less where none was, within 1 and `most`.
    """
    if 4 * late > asked:
        return min(most, threads + 1)
    return max(1, threads - 1) if late == 0 else threads


class _Job(Generic[Work, Result]):
    __slots__ = ("error", "result", "size", "state", "work")

    def __init__(self, work: Work, size: int) -> None:
        self.work = work
        self.size = size
        self.state = _WAITING
        self.result: Result | None = None
        self.error: BaseException | None = None


class Ahead(Generic[Work, Result]):
    """Results of pieces of work, in order; an iterator. An error takes the place of the result, and is the last.

    A consumer who does work too makes the first result himself, so that it is there as soon as can be. Threads start
    when a result is asked for after that, and have ended when the iterator ends, fails or is closed.

    Args:
        work: the pieces, taken by the consumer's thread alone.
        make: does one piece; called by several threads at a time.
        size: bytes that a piece and its result take.
        limit: bytes that pieces may take that are being done, are ready, or were handed out last; one piece beside the
            one that was handed out is done in any case.
        threads: how many; 0 for none, so that the consumer does everything; `None` to find out how many are worth it.
        helps: whether the consumer does work too.
    """

    def __init__(
        self,
        work: Iterator[Work],
        make: Callable[[Work], Result],
        *,
        size: Callable[[Work], int],
        limit: int,
        threads: int | None = None,
        helps: bool = True,
    ) -> None:
        self._work = work
        self._make = make
        self._size = size
        self._limit = limit
        self._most = max(1, cores() - 1) if threads is None else threads
        self._tuned = threads is None
        self._wanted = min(1, self._most) if threads is None else threads
        self._helps = helps or threads == 0
        self._begun = False
        self._jobs: deque[_Job[Work, Result]] = deque()
        self._bytes = 0
        self._handed_out = 0
        self._exhausted = False
        self._closed = False
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._asked = self._late = 0

    def __iter__(self) -> Ahead[Work, Result]:
        return self

    def __next__(self) -> Result:
        with self._changed:
            self._bytes -= self._handed_out
            self._handed_out = 0
        self._fill(self._wanted + _SPARE if self._begun or not self._helps else 1)
        self._begun = True
        with self._changed:
            head = self._jobs[0] if self._jobs else None
            if head is not None:
                self._judge(head.state != _DONE)
        if head is None:
            self.close()
            raise StopIteration
        while head.state != _DONE:
            self._help_or_wait(head)
        with self._changed:
            self._jobs.popleft()
            self._handed_out = head.size
        if head.error is not None:
            self.close()
            raise head.error
        return head.result  # type: ignore[return-value]  # there is one where there is no error

    def close(self) -> None:
        """End the threads, after the pieces that they are at; what they made is dropped."""
        with self._changed:
            self._closed = True
            self._jobs.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _fill(self, most: int) -> None:
        """Take in as much work as the limit admits, `most` pieces at most, and start threads that are missing.

        Finding out what the next piece is takes time, in which threads go on with those that are known.
        """
        while not self._exhausted and not self._closed and len(self._jobs) < most:
            if self._jobs and self._bytes >= self._limit:
                break
            try:
                work = next(self._work)
            except StopIteration:
                self._exhausted = True
                break
            job: _Job[Work, Result] = _Job(work, self._size(work))
            if self._jobs and self._bytes + job.size > self._limit:
                self._work = _preceded(work, self._work)
                break
            with self._changed:
                if self._closed:
                    break
                self._bytes += job.size
                self._jobs.append(job)
                self._changed.notify()
        while not self._closed and most > 1 and len(self._threads) < min(self._wanted, len(self._jobs)):
            thread = threading.Thread(target=self._serve, name=f"{THREADS}-{len(self._threads)}", daemon=True)
            with self._changed:
                self._threads.append(thread)
            thread.start()

    def _judge(self, late: bool) -> None:
        self._asked += 1
        self._late += late
        if self._tuned and self._asked == _JUDGED:
            self._wanted = threads_wanted(self._wanted, self._most, self._late, self._asked)
            self._asked = self._late = 0
            self._changed.notify_all()

    def _help_or_wait(self, head: _Job[Work, Result]) -> None:
        with self._changed:
            own = self._begin() if self._helps else None
            if own is None:
                if head.state != _DONE:
                    self._changed.wait()
                return
        self._do(own)

    def _begin(self) -> _Job[Work, Result] | None:
        """The first piece that nobody has begun, as begun."""
        for job in self._jobs:
            if job.state == _WAITING:
                job.state = _RUNNING
                return job
        return None

    def _do(self, job: _Job[Work, Result]) -> None:
        try:
            job.result = self._make(job.work)
        except BaseException as error:
            job.error = error  # is raised where the result is asked for
            if not isinstance(error, Exception):
                raise
        finally:
            with self._changed:
                job.state = _DONE
                self._changed.notify_all()

    def _serve(self) -> None:
        me = threading.current_thread()
        while True:
            with self._changed:
                while (job := self._begin() if not self._closed else None) is None:
                    if self._closed:
                        return
                    if len(self._threads) > self._wanted and self._threads[-1] is me:
                        self._threads.pop()
                        return
                    self._changed.wait()
            self._do(job)
            del job  # its result is the consumer's alone, so that its memory can be used again


def _preceded(first: Work, rest: Iterator[Work]) -> Iterator[Work]:
    yield first
    yield from rest
