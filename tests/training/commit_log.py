"""What `WatchCommits` has written down: which worker committed which step when."""

import threading
import time

from ganglion.testing.recorder import PATIENCE


def commits(folder, member):
    """When the first process of a member committed which step."""
    path = folder / f"{member}.1"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(int(step), float(at)) for step, at, _ in (line.split() for line in lines if line.endswith(" ."))]


def until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        threading.Event().wait(0.005)


def assert_each_step_once(folder, members, steps):
    """The first member has committed every step once; the others none twice, and at the end all together."""
    for member in members:
        found = [step for step, _ in commits(folder, member)]
        assert found == sorted(set(found))
        assert found[-1] == steps
    assert [step for step, _ in commits(folder, members[0])] == list(range(1, steps + 1))
