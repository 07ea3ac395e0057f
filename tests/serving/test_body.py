"""Large bodies are written to where they stay; whatever happens meanwhile, nothing of that memory is kept."""

from __future__ import annotations

import hashlib
import random
import socket
import time
import tracemalloc
from collections.abc import Iterator

import httptools
import pytest
from gateway_samples import PATIENCE, GatewayThread

from ganglion.serving.gateway.body import DIRECT
from ganglion.serving.gateway.exchange import Exchange
from ganglion.serving.gateway.limits import HttpLimits

LIMITS = HttpLimits(body=3_000_000, bodies=8_000_000, body_timeout=0.5)
MOST = LIMITS.bodies // 4


class Answers:
    """Reads answers on a socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._parser = httptools.HttpResponseParser(self)
        self._bodies: list[bytes] = []
        self._body = b""

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        self._bodies.append(b"%d %b" % (self._parser.get_status_code(), self._body))
        self._body = b""

    def next(self, count: int) -> list[bytes]:
        """Status and content of the next answers."""
        while len(self._bodies) < count:
            data = self._socket.recv(2**16)
            assert data, "the gateway closed the connection"
            self._parser.feed_data(data)
        found, self._bodies = self._bodies[:count], self._bodies[count:]
        return found


def echo(exchange: Exchange) -> None:
    """Answers what arrived."""
    exchange.respond(200, digest(exchange.body))


def digest(body: bytes) -> bytes:
    return b"%d %b" % (len(body), hashlib.sha256(body).hexdigest().encode())


def request(body: bytes, *fields: bytes, length: int | None = None) -> bytes:
    lines = b"".join(field + b"\r\n" for field in fields)
    size = len(body) if length is None else length
    return b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n%b\r\n%b" % (size, lines, body)


@pytest.fixture
def gateway() -> Iterator[GatewayThread]:
    thread = GatewayThread(LIMITS)
    thread.gateway.http.handler = echo
    yield thread
    thread.close()


@pytest.fixture
def connect(gateway: GatewayThread) -> Iterator[list[socket.socket]]:
    """Connections that a test makes with `connection`."""
    made: list[socket.socket] = []
    yield made
    for one in made:
        one.close()


def connection(gateway: GatewayThread, connect: list[socket.socket], *data: bytes) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", gateway.port), PATIENCE)
    connect.append(made)
    for piece in data:
        made.sendall(piece)
    return made


def wait(gateway: GatewayThread, *, held: int, promised: int) -> None:
    """Until so many bytes have arrived and memory for so many is there."""
    http = gateway.gateway.http
    end = time.monotonic() + PATIENCE
    while (http.held, http.promised) != (held, promised):
        assert time.monotonic() < end, f"{http.held} are held and {http.promised} promised"
        time.sleep(0.001)


def bodies(*sizes: int) -> list[bytes]:
    return [random.Random(size).randbytes(size) for size in sizes]


@pytest.mark.parametrize("piece", [1_000, 65_537, 300_000, 10_000_000])
def test_small_and_large_bodies_arrive_whole_however_the_stream_is_cut(
    gateway: GatewayThread, connect: list[socket.socket], piece: int
) -> None:
    sent = bodies(5, 300_000, 0, MOST, DIRECT, 2_500_000, 7, DIRECT + 1)
    stream = b"".join(map(request, sent))
    made = connection(gateway, connect, *(stream[at : at + piece] for at in range(0, len(stream), piece)))
    assert Answers(made).next(len(sent)) == [b"200 " + digest(body) for body in sent]
    wait(gateway, held=0, promised=0)


def test_a_large_body_has_its_memory_at_once_and_others_wait_for_theirs(
    gateway: GatewayThread, connect: list[socket.socket]
) -> None:
    first, second = bodies(MOST - 1000, 500_000)
    one = connection(gateway, connect, request(first[:200_000], length=len(first)))
    wait(gateway, held=200_000, promised=len(first))
    other = connection(gateway, connect, request(second))
    assert Answers(other).next(1) == [b"200 " + digest(second)]
    wait(gateway, held=200_000, promised=len(first))
    one.sendall(first[200_000:])
    assert Answers(one).next(1) == [b"200 " + digest(first)]
    wait(gateway, held=0, promised=0)


def test_a_large_body_is_in_memory_once(gateway: GatewayThread, connect: list[socket.socket]) -> None:
    (body,) = bodies(MOST)
    stream = request(body)
    made = connection(gateway, connect)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        made.sendall(stream)
        assert Answers(made).next(1) == [b"200 " + digest(body)]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert MOST <= peak - before < 1.8 * MOST


@pytest.mark.parametrize(("field", "ends"), [(b"connection: close", True), (b"upgrade: h2c", False)])
def test_what_the_head_says_of_the_connection_holds(
    gateway: GatewayThread, connect: list[socket.socket], field: bytes, ends: bool
) -> None:
    (body,) = bodies(700_000)
    fields = (field,) if ends else (b"connection: upgrade", field)
    made = connection(gateway, connect, request(body, *fields))
    assert Answers(made).next(1) == [b"200 " + digest(body)]
    if ends:
        assert made.recv(1) == b""
    else:
        made.sendall(request(body))
        assert Answers(made).next(1) == [b"200 " + digest(body)]


def test_a_large_body_that_does_not_arrive_in_time_gives_its_memory_back(
    gateway: GatewayThread, connect: list[socket.socket]
) -> None:
    made = connection(gateway, connect, request(bytes(10), length=1_000_000))
    wait(gateway, held=10, promised=1_000_000)
    (answer,) = Answers(made).next(1)
    assert answer.startswith(b"408 ")
    wait(gateway, held=0, promised=0)
    made.sendall(bytes(400_000))  # is discarded
    made.shutdown(socket.SHUT_WR)
    assert made.recv(1) == b""


def test_a_client_that_leaves_gives_the_memory_back(gateway: GatewayThread, connect: list[socket.socket]) -> None:
    made = connection(gateway, connect, request(bytes(10), length=1_000_000))
    wait(gateway, held=10, promised=1_000_000)
    made.close()
    wait(gateway, held=0, promised=0)


def test_a_large_body_is_refused_once_too_much_is_arriving(
    gateway: GatewayThread, connect: list[socket.socket]
) -> None:
    made = connection(gateway, connect, request(bytes(10), length=1_000_000))
    wait(gateway, held=10, promised=1_000_000)
    chunk = b"2dc6c0\r\n" + bytes(2_700_000)  # of three million: these are never complete
    head = b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    for number in range(2):
        connection(gateway, connect, head + chunk)
        wait(gateway, held=10 + (number + 1) * 2_700_000, promised=1_000_000)
    connection(gateway, connect, request(bytes(2_500_000), length=2_600_000))
    wait(gateway, held=10 + 7_900_000, promised=1_000_000)
    made.sendall(bytes(150_000))
    (answer,) = Answers(made).next(1)
    assert answer.startswith(b"503 ")
    wait(gateway, held=7_900_000, promised=0)
