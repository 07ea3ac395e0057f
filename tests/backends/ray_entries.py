"""Entries of the tests of the Ray backend."""

import os
import time

from ganglion.execution.member import current_member
from ganglion.testing.entries import write_lines


def write_and_wait(count: int, label: str) -> None:
    """Write numbered lines, report the pid, and wait to be ended."""
    write_lines(count, label)
    current_member().report({"pids": [os.getpid()]})
    time.sleep(600)
