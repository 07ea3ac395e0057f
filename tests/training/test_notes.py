"""What a person is told while a training goes on."""

import io

import pytest
from rich.console import Console

from ganglion.core.events import (
    Exit,
    ExitKind,
    MemberExited,
    MemberLeftOut,
    MemberReady,
    MemberReported,
    MemberReturned,
    MemberStarted,
)
from ganglion.training.notes import note_text
from ganglion.training.progress import ProgressBar

WHO = {"at": 1.0, "job": "job", "member": "worker-1"}


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            MemberLeftOut(**WHO, attempt=1, reason="it is not heard of", taking_part=1, members=2),
            "worker-1 is out of reach (it is not heard of); 1 of 2 workers go on",
        ),
        (MemberReturned(**WHO, attempt=1, taking_part=2, members=2), "worker-1 is back; 2 of 2 workers go on"),
        (MemberStarted(**WHO, attempt=2, host="here", pid=1), "worker-1 is replaced (attempt 2)"),
        (
            MemberExited(**WHO, attempt=1, exit=Exit(kind=ExitKind.KILLED, message="killed by SIGKILL [9]")),
            "worker-1 is lost: killed by SIGKILL [9]",
        ),
        (
            MemberReported(**WHO, attempt=1, values={"paused": {"step": 4, "reason": "[x] is away"}}),
            "worker-1 waits for data in step 5: [x] is away",
        ),
    ],
)
def test_what_is_out_of_the_ordinary_is_a_line(event, line):
    assert note_text(event) == line
    screen = io.StringIO()
    ProgressBar(Console(file=screen, width=200))(event)
    assert screen.getvalue() == f"{line}\n"


@pytest.mark.parametrize(
    "event",
    [
        MemberStarted(**WHO, attempt=1, host="here", pid=1),
        MemberReady(**WHO, attempt=1, endpoint="unix:/x"),
        MemberReported(**WHO, attempt=1, values={"step": 3}),
        MemberExited(**WHO, attempt=1, exit=Exit(kind=ExitKind.SUCCESS)),
    ],
)
def test_what_is_usual_is_none(event):
    assert note_text(event) == ""
