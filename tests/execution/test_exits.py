"""How a process ended, from what agent and backend saw."""

import pytest

from ganglion.core.events import ExitKind
from ganglion.execution.exits import AgentReport, Evidence, StopReason, classify

GOOD = AgentReport(succeeded=True, value={"loss": 0.5})
BAD = AgentReport(succeeded=False, error_type="ValueError", message="no", traceback="line 1", code=1)
THEIRS = AgentReport(succeeded=False, error_type="shop.models.Broken", message="no")
OURS = AgentReport(succeeded=False, error_type="ganglion.core.errors.ModelError", message="the vocabulary is empty")
FULL = AgentReport(succeeded=False, error_type="MemoryError", message="", traceback="line 1", allocation_failed=True)


@pytest.mark.parametrize(
    ("evidence", "reason", "kind", "message"),
    [
        (Evidence(code=0, report=GOOD), None, ExitKind.SUCCESS, ""),
        (Evidence(code=1, report=BAD), None, ExitKind.EXCEPTION, "ValueError: no"),
        (Evidence(code=1, report=THEIRS), None, ExitKind.EXCEPTION, "Broken: no"),
        (Evidence(code=1, report=OURS), None, ExitKind.EXCEPTION, "the vocabulary is empty"),
        (Evidence(code=0), None, ExitKind.EXCEPTION, "exited with status 0 before its entry returned"),
        (Evidence(code=3), None, ExitKind.EXCEPTION, "exited with status 3 and no report"),
        (Evidence(code=137), None, ExitKind.EXCEPTION, "exited with status 137 and no report"),
        (Evidence(signal=9), None, ExitKind.KILLED, "killed by SIGKILL"),
        (Evidence(signal=250), None, ExitKind.KILLED, "killed by signal 250"),
        (Evidence(signal=11, report=GOOD), None, ExitKind.KILLED, "killed by SIGSEGV"),
        (Evidence(signal=9, memory_killed=True), None, ExitKind.OUT_OF_MEMORY, "out of memory"),
        (Evidence(signal=9, memory_killed=True, note="cgroup"), None, ExitKind.OUT_OF_MEMORY, "out of memory: cgroup"),
        (Evidence(code=1, report=FULL), None, ExitKind.OUT_OF_MEMORY, "out of memory"),
        (Evidence(), None, ExitKind.LOST, "nobody saw how it ended"),
        (Evidence(note="the node is gone"), None, ExitKind.LOST, "the node is gone"),
        (Evidence(signal=15), StopReason.CANCELLED, ExitKind.CANCELLED, "cancelled"),
        (Evidence(code=1, report=BAD), StopReason.CANCELLED, ExitKind.CANCELLED, "cancelled"),
        (Evidence(signal=9), StopReason.TIMED_OUT, ExitKind.TIMED_OUT, "stopped because its time was up"),
        (Evidence(signal=9), StopReason.LOST, ExitKind.LOST, "gave no sign of life"),
        (Evidence(signal=15), StopReason.DRAINED, ExitKind.SUCCESS, "drained"),
        (Evidence(code=0, report=GOOD), StopReason.TIMED_OUT, ExitKind.SUCCESS, ""),
        (Evidence(code=0, report=GOOD), StopReason.CANCELLED, ExitKind.SUCCESS, ""),
    ],
)
def test_the_kind_follows_from_the_evidence(evidence, reason, kind, message):
    exit_ = classify(evidence, reason)
    assert (exit_.kind, exit_.message) == (kind, message)


def test_only_a_success_has_a_value():
    assert classify(Evidence(code=0, report=GOOD)).value == {"loss": 0.5}
    assert classify(Evidence(signal=9, report=GOOD)).value is None


def test_what_was_seen_is_kept():
    exit_ = classify(Evidence(code=1, report=BAD, cpu_seconds=1.5, peak_memory=4096))
    assert (exit_.error_type, exit_.traceback, exit_.code, exit_.signal) == ("ValueError", "line 1", 1, None)
    assert (exit_.cpu_seconds, exit_.peak_memory) == (1.5, 4096)
