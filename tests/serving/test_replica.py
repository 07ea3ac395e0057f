"""How a replica answers frames on its sockets."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from ganglion.serving import frames, replica, wire
from ganglion.serving.replica import FrameServer

PATIENCE = 20.0
LARGE = 32 * 2**20
Connect = Callable[[], socket.socket]


def respond(frame: frames.Frame) -> list[frames.Buffer]:
    """As many bytes as the number of the batch says."""
    number = wire.decode_batch(frame[0]).id
    return frames.encode(wire.Answer(number), [bytes(number)])


@pytest.fixture
def connect() -> Iterator[Connect]:
    """A server on a thread; what it returns makes connections to it."""
    listener = socket.create_server(("127.0.0.1", 0))
    address, draining = listener.getsockname(), threading.Event()
    with closing(FrameServer(listener, respond, draining)) as server:
        thread = threading.Thread(target=server.run)
        thread.start()
        yield lambda: socket.create_connection(address, PATIENCE)
        draining.set()
        thread.join(PATIENCE)
        assert not thread.is_alive()


def ask(connection: socket.socket, size: int) -> None:
    connection.sendall(b"".join(frames.encode(wire.Batch(size), [])))


def answers(connection: socket.socket, count: int) -> list[int]:
    """Bytes of the bodies of the next answers."""
    reader = frames.FrameReader()
    sizes: list[int] = []
    while len(sizes) < count:
        received = connection.recv(2**20)
        assert received, "the replica closed the connection"
        for header, body in reader.feed(received):
            assert wire.decode_answer(header).id == body.nbytes
            sizes.append(body.nbytes)
    return sizes


def test_an_answer_larger_than_the_socket_holds_waits_for_its_reader(connect: Connect) -> None:
    with connect() as connection:
        for size in (LARGE, 5, LARGE):
            ask(connection, size)
            assert connection.recv(1, socket.MSG_PEEK)  # it has begun, and cannot end before it is read
            assert answers(connection, 1) == [size]


def test_a_gateway_that_reads_nothing_is_left_and_others_are_answered(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica, "_SEND_TIMEOUT", 0.1)
    with connect() as deaf, connect() as other:
        ask(deaf, LARGE)
        ask(other, 7)
        assert answers(other, 1) == [7]
        with pytest.raises((ConnectionError, AssertionError)):
            answers(deaf, 1)


def test_a_large_batch_is_answered_however_it_arrives(connect: Connect) -> None:
    batch = b"".join(frames.encode_sized(wire.Batch(9), [bytes(LARGE)], LARGE))
    small = b"".join(frames.encode(wire.Batch(4), []))
    with connect() as connection:
        for piece in (2**16 + 1, len(batch) - 5):
            stream = small + batch + small
            for start in range(0, len(stream), piece):
                connection.sendall(stream[start : start + piece])
            assert answers(connection, 3) == [4, 9, 4]
        connection.sendall(batch[:-1])
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b"", "it has ended in mid-batch"
    with connect() as other:
        ask(other, 3)
        assert answers(other, 1) == [3]


def test_a_frame_that_is_no_batch_ends_its_connection_alone(connect: Connect) -> None:
    with connect() as broken, connect() as other:
        broken.sendall(struct.pack(">IQ", 1, 0) + b"x")
        assert broken.recv(1) == b""
        ask(other, 3)
        assert answers(other, 1) == [3]


def test_what_a_replica_fails_on_is_not_over() -> None:
    """Whoever looks at what it has begun finds the cause of its end."""
    over = []

    def fail(_frame: frames.Frame) -> list[frames.Buffer]:
        raise MemoryError

    listener = socket.create_server(("127.0.0.1", 0))
    server = FrameServer(listener, fail, threading.Event(), answered=lambda: over.append(1))
    with closing(server), socket.create_connection(listener.getsockname(), PATIENCE) as connection:
        ask(connection, 4)
        with pytest.raises(MemoryError):
            server.run()
    assert not over


def test_what_has_arrived_when_it_is_drained_is_answered() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    draining = threading.Event()
    with closing(FrameServer(listener, respond, draining)) as server:
        thread = threading.Thread(target=server.run)
        thread.start()
        with socket.create_connection(listener.getsockname(), PATIENCE) as connection:
            ask(connection, LARGE)
            connection.recv(1, socket.MSG_PEEK)
            ask(connection, 4)
            draining.set()
            assert answers(connection, 2) == [LARGE, 4]
        thread.join(PATIENCE)
        assert not thread.is_alive()
