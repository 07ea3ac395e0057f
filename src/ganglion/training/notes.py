"""What a person should know while a training goes on, in the words of all who show it."""

from __future__ import annotations

from ganglion.core.events import (
    Event,
    ExitKind,
    MemberExited,
    MemberLeftOut,
    MemberReported,
    MemberReturned,
    MemberStarted,
)


def note_text(event: Event) -> str:
    """What a person should know of an event of a training, in a line; empty where it is nothing out of the ordinary."""
    match event:
        case MemberReported(member=member, values={"paused": {"step": step, "reason": reason}}):
            return f"{member} waits for data in step {step + 1}: {reason}"
        case MemberReported(member=member, values={"resumed": {"seconds": seconds}}):
            return f"{member} has its data again, after {seconds:.1f} s"
        case MemberStarted(member=member, attempt=attempt) if attempt > 1:
            return f"{member} is replaced (attempt {attempt})"
        case MemberExited(member=member, exit=end) if end.kind not in (ExitKind.SUCCESS, ExitKind.CANCELLED):
            return f"{member} is lost: {end.message}"
        case MemberLeftOut(member=member, reason=reason, taking_part=some, members=all_):
            return f"{member} is out of reach ({reason}); {some} of {all_} workers go on"
        case MemberReturned(member=member, taking_part=some, members=all_):
            return f"{member} is back; {some} of {all_} workers go on"
    return ""
