"""The control channel: frames, greetings, and a server that no agent can stop."""

from __future__ import annotations

import contextlib
import queue
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.core import log
from ganglion.core.errors import ControlError
from ganglion.execution.channel import ControlServer
from ganglion.execution.control import (
    LONGEST_FRAME,
    AnyDown,
    AnyUp,
    FrameReader,
    Hello,
    Joined,
    Message,
    Ready,
    Report,
    Sample,
    encode,
)
from ganglion.execution.member import Membership, Peer, connect

TOKEN = "right-token"
PATIENCE = 60.0


def hello(member: str = "task-0", attempt: int = 1, token: str = TOKEN) -> Hello:
    return Hello(job="job", member=member, attempt=attempt, token=token, address="127.0.0.1:1")


class Served:
    """A server and what it received."""

    def __init__(self, where: str) -> None:
        self.received: queue.SimpleQueue[tuple[Hello, AnyUp]] = queue.SimpleQueue()
        self.server = ControlServer(where, TOKEN, lambda greeting, message: self.received.put((greeting, message)))

    def dial(self, *messages: bytes) -> socket.socket:
        client = connect(self.server.address, PATIENCE)
        client.sendall(b"".join(messages))
        return client

    def next(self) -> AnyUp:
        return self.received.get(timeout=PATIENCE)[1]


@pytest.fixture(params=["unix", "tcp"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    served = Served(f"unix:{tmp_path / 'control.sock'}" if request.param == "unix" else "tcp:127.0.0.1")
    yield served
    served.server.close()
    assert not (tmp_path / "control.sock").exists()


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> pytest.CaptureFixture[str]:
    """Log to what this test captures."""
    log.configure()
    return capsys


# frames


@given(bodies=st.lists(st.binary(max_size=300), max_size=8), data=st.data())
def test_frames_survive_any_cut_of_the_stream(bodies: list[bytes], data: st.DataObject):
    stream = b"".join(encode(Message(value=body)) for body in bodies)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    reader, frames = FrameReader(), []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        frames += reader.feed(stream[begin:end])
    assert [msgspec.msgpack.decode(frame, type=AnyDown).value for frame in frames] == bodies


def test_an_incomplete_frame_is_kept_for_later():
    frame = encode(Ready(endpoint="unix:/x"))
    reader = FrameReader()
    assert [reader.feed(frame[n : n + 1]) for n in range(len(frame) - 1)] == [[]] * (len(frame) - 1)
    assert len(reader.feed(frame[-1:])) == 1


def test_a_frame_that_is_too_long_is_refused_by_its_head():
    with pytest.raises(ControlError, match=f"A control frame of {LONGEST_FRAME + 1} bytes"):
        FrameReader().feed((LONGEST_FRAME + 1).to_bytes(4, "big"))


@pytest.mark.parametrize(
    "message",
    [hello(), Ready(endpoint="unix:/x"), Report(values={"a": [1, None]}), Sample(cpu_seconds=1.0, memory=2, threads=3)],
)
def test_messages_of_agents_are_told_apart_by_their_tag(message):
    assert msgspec.msgpack.decode(encode(message)[4:], type=AnyUp) == message


@pytest.mark.parametrize(
    "message",
    [
        Joined(
            membership=Membership(generation=2, peers=(Peer(member="a-0", role="a", index=0, rank=0, address="x:1"),))
        ),
        Message(value={"routes": [1, "two", 3.0, None, b"raw"]}),
    ],
)
def test_messages_of_the_supervisor_are_told_apart_by_their_tag(message):
    assert msgspec.msgpack.decode(encode(message)[4:], type=AnyDown) == message


# the server


def test_an_agent_is_heard_in_order_after_its_greeting(served: Served):
    with served.dial(encode(hello()), *(encode(Report(values={"n": n})) for n in range(100))):
        assert served.next() == hello()
        assert [served.next().values["n"] for _ in range(100)] == list(range(100))


def test_a_member_is_answered_and_a_stranger_is_not(served: Served):
    assert not served.server.send("job", "task-0", Message(value=1))
    with served.dial(encode(hello())) as client:
        served.next()
        assert served.server.send("job", "task-0", Message(value="word"))
        frames: list[bytes] = []
        reader = FrameReader()
        while not frames:
            frames = reader.feed(client.recv(4096))
        assert msgspec.msgpack.decode(frames[0], type=AnyDown) == Message(value="word")
        assert not served.server.send("other", "task-0", Message(value=1))


def test_a_later_attempt_takes_the_place_of_an_earlier_one(served: Served):
    with served.dial(encode(hello(attempt=1))) as old, served.dial(encode(hello(attempt=1))):
        assert served.next().attempt == 1
        assert served.next().attempt == 1
        with served.dial(encode(hello(attempt=2))) as new:
            assert served.next().attempt == 2
            served.server.send("job", "task-0", Message(value="for the new one"))
            assert b"for the new one" in new.recv(4096)
            old.close()
            with served.dial(encode(hello("task-1"))):
                served.next()
            assert served.server.send("job", "task-0", Message(value="still"))
            assert b"still" in new.recv(4096)


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(encode(hello(token="wrong-token")), id="wrong token"),
        pytest.param(encode(hello(token="schlüssel")), id="a token that is not ASCII"),
        pytest.param(encode(Ready(endpoint="unix:/x")), id="no greeting"),
        pytest.param(b"\xff\xff\xff\xff", id="oversize frame"),
        pytest.param(b"\0\0\0\3\xc1\xc1\xc1", id="not msgpack"),
        pytest.param(encode(hello("task-\x00")).replace(b"task-\x00", b"task-\xff"), id="not UTF-8"),
        pytest.param((200_000).to_bytes(4, "big") + b"\x81\xa1x" + b"\x91" * 199_996 + b"\xc0", id="nested too deep"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="another protocol"),
        pytest.param(b"\0\0\0\1\xc0", id="not a message"),
    ],
)
def test_who_does_not_greet_is_refused_and_everybody_else_is_served(served: Served, written, first: bytes):
    with served.dial(encode(hello("task-1"))) as friend, served.dial(first) as stranger:
        with contextlib.suppress(ConnectionResetError):  # it was refused with bytes unread
            assert stranger.recv(1) == b""
        friend.sendall(encode(Ready(endpoint="unix:/friend")))
        assert served.next() == hello("task-1")
        assert served.next() == Ready(endpoint="unix:/friend")
        assert served.received.empty()
    text = written.readouterr().err
    assert "control connection refused" in text
    assert "wrong-token" not in text
    assert TOKEN not in text


def test_a_stopped_agent_blocks_nobody(served: Served):
    """It does not read what it is sent; everybody else gets theirs."""
    large = Message(value=b"x" * 4 * 2**20)
    with served.dial(encode(hello("deaf-0"))), served.dial(encode(hello("task-1"))) as client:
        served.next(), served.next()
        for _ in range(4):
            assert served.server.send("job", "deaf-0", large)
        assert served.server.send("job", "task-1", Message(value="through"))
        assert b"through" in client.recv(4096)
        client.sendall(encode(Report(values={"still": "heard"})))
        assert served.next() == Report(values={"still": "heard"})


def test_what_a_dead_member_had_said_is_taken_in_before_its_end(served: Served):
    with served.dial(encode(hello()), *(encode(Report(values={"n": n})) for n in range(1000))):
        pass
    settled = threading.Event()
    seen: list[int] = []

    def then() -> None:
        seen.append(served.received.qsize())
        settled.set()

    served.server.settle("job", "task-0", then)
    assert settled.wait(PATIENCE)
    assert seen == [1001]


def test_settling_a_member_that_never_dialled_is_at_once(served: Served):
    settled = threading.Event()
    served.server.settle("job", "nobody", settled.set)
    assert settled.wait(PATIENCE)


@pytest.mark.skipif(sys.platform != "linux", reason="modes of sockets are a matter of Linux")
def test_the_socket_is_private(tmp_path: Path):
    path = tmp_path / "control.sock"
    served = Served(f"unix:{path}")
    assert path.stat().st_mode & 0o777 == 0o600
    served.server.close()


def test_closing_hangs_up_on_everybody(tmp_path: Path):
    served = Served(f"unix:{tmp_path / 'control.sock'}")
    with served.dial(encode(hello())) as client:
        served.next()
        served.server.close()
        assert client.recv(1) == b""
