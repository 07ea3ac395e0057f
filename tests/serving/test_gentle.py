"""Work that leaves the cores to others, in a process with a session of its own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from ganglion.serving.gentle import GENTLE, run_gently, session_nice

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="priorities of threads are Linux's")

PROGRAM = """
import json, os, threading, time
from ganglion.serving.gentle import run_gently, session_nice

def nice():
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id()), session_nice()

def patient():
    while nice()[1] != before[1]:
        time.sleep(0.01)
    return nice()

before = nice()
print(json.dumps([before, run_gently(nice), run_gently(patient, patience=0.05), nice()]))
"""


@pytest.mark.parametrize("own", [True, False])
def test_only_the_work_is_nice_and_nothing_stays_so(own: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, start_new_session=own, check=True
    )
    before, during, long, after = json.loads(done.stdout)
    assert after == before
    assert long[1] == before[1], "after a while it is as any other"
    assert during[0] == min(19, before[0] + GENTLE)
    if before[1] is not None:
        assert during[1] == (before[1] + GENTLE if own else before[1]), "a session of others is left alone"


def test_what_it_raises_is_raised_and_the_session_is_as_before() -> None:
    before = session_nice()

    def fail() -> None:
        raise ValueError("no model")

    with pytest.raises(ValueError, match="no model"):
        run_gently(fail)
    assert session_nice() == before
