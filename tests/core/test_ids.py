"""Names and times that are passed in."""

import re
import time

from ganglion.core.clock import SystemClock
from ganglion.core.ids import CountingIds, RandomIds


def test_random_ids_differ_and_sort_by_time():
    ids = [RandomIds().new("run") for _ in range(50)]
    assert len(set(ids)) == 50
    assert all(re.fullmatch(r"run-\d{8}-\d{6}-[0-9a-f]{6}", name) for name in ids)
    assert [name[:19] for name in ids] == sorted(name[:19] for name in ids)


def test_counting_ids_count():
    ids = CountingIds()
    assert [ids.new("job"), ids.new("job"), ids.new("run")] == ["job-1", "job-2", "run-3"]


def test_the_clock_of_the_machine():
    clock = SystemClock()
    assert abs(clock.now() - time.time()) < 60
    assert clock.monotonic() <= clock.monotonic()
