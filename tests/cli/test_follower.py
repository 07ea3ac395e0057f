from __future__ import annotations

import io
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from ganglion.cli.follower import Follower

TEXTS = st.lists(st.sampled_from(["a", "bc", "\n", "é", "→"])).map("".join)


def pieces(logs: dict[tuple[str, int], bytes], lengths: dict[tuple[str, int], int], size: int) -> Iterator[tuple]:
    for (member, attempt), log in logs.items():
        written = log[: lengths[member, attempt]]
        for start in range(0, len(written), size):
            yield member, attempt, written[start : start + size]


@given(st.lists(TEXTS, min_size=2, max_size=2), st.lists(st.floats(0, 1), max_size=5), st.integers(1, 5))
def test_every_line_is_shown_once_and_whole_however_it_arrives(
    texts: list[str], moments: list[float], size: int
) -> None:
    logs = {("worker-0", 1): texts[0].encode(), ("ps-0", 2): texts[1].encode()}
    out = io.StringIO()
    follower = Follower(["worker-0", "ps-0"], out)
    for moment in sorted(moments):
        follower.show(pieces(logs, {key: int(len(log) * moment) for key, log in logs.items()}, size))
    follower.show(pieces(logs, {key: len(log) for key, log in logs.items()}, size), last=True)
    shown = out.getvalue().splitlines()
    for label, text in zip(("worker-0 | ", "ps-0     attempt 2 | "), texts, strict=True):
        expected = text.removesuffix("\n").split("\n") if text else []
        assert [line.removeprefix(label) for line in shown if line.startswith(label)] == expected


def test_a_progress_bar_is_shown_as_a_terminal_leaves_it() -> None:
    out = io.StringIO()
    Follower(["worker-0"], out).show([("worker-0", 1, b"10 %\r50 %\r100 %\r\nbad \xff byte\n")])
    assert out.getvalue() == "worker-0 | 100 %\nworker-0 | bad \ufffd byte\n"
