"""A supervisor that tells a test what happens to the processes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from ganglion.core.events import Event, MemberExited, MemberReady, MemberStarted
from ganglion.execution.spec import AnySpec
from ganglion.execution.supervisor import Job, Supervisor

PATIENCE = 60.0
"""Seconds that a test waits at most."""


def wait_until(condition: Callable[[], bool], patience: float = PATIENCE) -> None:
    """Wait until something that is shown has come true."""
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)  # there is no event to wait for: a person would look again, too


class Watched(Supervisor):
    """A supervisor that also tells a test what happens."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.seen: list[Event] = []
        self.news = threading.Condition()

    def submit(self, spec: AnySpec, listener: Callable[[Event], None] | None = None) -> Job:
        def listen(event: Event) -> None:
            if listener is not None:
                listener(event)
            with self.news:
                self.seen.append(event)
                self.news.notify_all()

        return super().submit(spec, listen)

    def wait_for(self, condition: Callable[[list[Event]], bool]) -> None:
        with self.news:
            assert self.news.wait_for(lambda: condition(self.seen), PATIENCE)

    def pids(self, job: str) -> dict[str, int]:
        """Processes of a job that are alive and ready, by member.

        What the backend and what a member says come by different ways, so a member can be ready before it is started.
        """
        started: dict[tuple[str, str, int], int] = {}
        ready: set[tuple[str, str, int]] = set()
        ended: set[tuple[str, str, int]] = set()
        for event in list(self.seen):
            if event.job.startswith(job):
                match event:
                    case MemberStarted(member=member, attempt=attempt, pid=pid):
                        started[event.job, member, attempt] = pid
                    case MemberReady(member=member, attempt=attempt):
                        ready.add((event.job, member, attempt))
                    case MemberExited(member=member, attempt=attempt):
                        ended.add((event.job, member, attempt))
        return {key[1]: started[key] for key in sorted(ready & started.keys() - ended)}

    def wait_for_pid(self, job: str, *, other_than: int = 0) -> int:
        """The process of the first replica of a job, once it is ready."""
        self.wait_for(lambda _events: self.pids(job).get("replica-0", other_than) != other_than)
        return self.pids(job)["replica-0"]
