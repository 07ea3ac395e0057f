from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime

import httpx
import pytest
from gateway_samples import PATIENCE, GatewayThread, ScriptedReplica

from ganglion.serving.gateway import known_heads
from ganglion.serving.gateway.exchange import Exchange
from ganglion.serving.gateway.limits import HttpLimits

LIMITS = HttpLimits(
    body=10_000, head=2_000, url=500, headers=20, connections=30, head_timeout=0.5, body_timeout=0.5, idle_timeout=1.5
)


@pytest.fixture
def gateway() -> Iterator[GatewayThread]:
    thread = GatewayThread(LIMITS)
    yield thread
    thread.close()


class Raw:
    """A connection on which a test says every byte."""

    def __init__(self, gateway: GatewayThread) -> None:
        self.socket = socket.create_connection(("127.0.0.1", gateway.port), PATIENCE)
        self._buffer = b""

    def send(self, data: bytes) -> Raw:
        self.socket.sendall(data)
        return self

    def line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            self._more()
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def answer(self, *, head: bool = False) -> tuple[int, dict[str, str], bytes]:
        status = int(self.line().split()[1])
        headers = {}
        while line := self.line():
            name, _, value = line.decode().partition(": ")
            headers[name] = value
        length = 0 if head else int(headers["content-length"])
        while len(self._buffer) < length:
            self._more()
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        return status, headers, body

    def ended(self) -> bool:
        """Whether the other side closes without a further byte."""
        return not self._buffer and not self.socket.recv(1)

    def _more(self) -> None:
        data = self.socket.recv(2**16)
        if not data:
            raise EOFError(self._buffer)
        self._buffer += data


@pytest.fixture
def raw(gateway: GatewayThread) -> Iterator[Callable[[], Raw]]:
    made: list[Raw] = []

    def connect() -> Raw:
        made.append(Raw(gateway))
        return made[-1]

    yield connect
    for connection in made:
        connection.socket.close()


Connect = Callable[[], Raw]
GET = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"


def post(body: bytes, *headers: bytes) -> bytes:
    lines = b"".join(header + b"\r\n" for header in headers)
    return b"POST /v1/models/m:predict HTTP/1.1\r\nhost: x\r\n" + lines + b"\r\n" + body


def test_one_connection_carries_many_requests_byte_by_byte(raw: Connect) -> None:
    connection = raw()
    for byte in GET * 2:
        connection.send(bytes([byte]))
    assert [connection.answer()[0] for _ in range(2)] == [200, 200]
    connection.send(GET)
    assert connection.answer()[1]["connection"] == "keep-alive"


def test_a_head_that_another_connection_sent_before_means_the_same(
    gateway: GatewayThread, raw: Connect, replicas: Callable[[], ScriptedReplica]
) -> None:
    replica = replicas()
    gateway.serve(replica)

    def ask(number: int, *headers: bytes) -> Raw:
        body = b'{"instances":[[%d,0]]}' % number
        return raw().send(post(body, b"content-length: %d" % len(body), *headers))

    for number in range(1, 6):  # on a connection of its own each
        asked = ask(number)
        assert replica.echo() == [number]
        assert json.loads(asked.answer()[2])["predictions"] == [number]
    assert len(gateway.gateway.http.heads) == 1
    cut = raw().send(post(b"", b"content-length: 22"))  # the known head, and a body that comes later
    cut.send(b'{"instances":[[6,0]]}\n')
    assert replica.echo() == [6]
    assert cut.answer()[0] == 200
    assert ask(7, b"x-request-timeout-ms: soon").answer()[0] == 400
    assert ask(8, b"x-request-timeout-ms: soon").answer()[0] == 400, "another head is another request"


def test_only_so_many_heads_are_known(gateway: GatewayThread, raw: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_heads, "MOST", 10)
    connection = raw()
    for number in range(35):
        connection.send(b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-number: %d\r\n\r\n" % number)
        assert connection.answer()[0] == 200
        assert 1 <= len(gateway.gateway.http.heads) <= 10
    long = b"x-long: " + b"x" * 1100
    connection.send(b"GET /healthz HTTP/1.1\r\nhost: x\r\n" + long + b"\r\n\r\n")
    assert connection.answer()[0] == 200
    assert all(len(head) <= 1024 for head in gateway.gateway.http.heads)


def test_pipelined_requests_are_answered_in_order(
    gateway: GatewayThread, raw: Connect, replicas: Callable[[], ScriptedReplica]
) -> None:
    one, two = replicas(), replicas()
    gateway.serve(one, two)
    connection = raw()
    bodies = [json.dumps({"instances": [[number, 0]]}).encode() for number in (1, 2)]
    requests = [post(body, b"content-length: %d" % len(body)) for body in bodies]
    connection.send(b"".join(requests) + GET + b"GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n")
    batches = [(replica, *replica.next()) for replica in (one, two)]
    for replica, batch, x in sorted(batches, key=lambda item: -item[2][0, 0]):  # the second request first
        replica.answer(batch, x[:, 0])
    answers = [connection.answer() for _ in range(4)]
    assert [answer[0] for answer in answers] == [200, 200, 200, 404]
    assert [json.loads(answer[2])["predictions"] for answer in answers[:2]] == [[1], [2]]


def test_chunked_bodies_are_joined(
    gateway: GatewayThread, raw: Connect, replicas: Callable[[], ScriptedReplica]
) -> None:
    replica = replicas()
    gateway.serve(replica)
    connection = raw().send(post(b"", b"transfer-encoding: chunked"))
    for part in (b'{"instances"', b": [[4, 0]", b"]}"):
        connection.send(b"%x\r\n%b\r\n" % (len(part), part))
    connection.send(b"0\r\n\r\n")
    replica.echo()
    assert json.loads(connection.answer()[2]) == {"predictions": [4]}


def test_a_client_that_asks_first_is_told_to_go_on(raw: Connect) -> None:
    connection = raw().send(post(b"", b"content-length: 2", b"expect: 100-continue"))
    assert connection.line() == b"HTTP/1.1 100 Continue"
    assert connection.line() == b""
    assert connection.send(b"{}").answer()[0] == 503, "no routes yet"
    refused = raw().send(post(b"", b"content-length: 99999", b"expect: 100-continue"))
    assert refused.answer()[0] == 413


def test_head_gives_the_head_only(raw: Connect) -> None:
    connection = raw().send(b"HEAD /healthz HTTP/1.1\r\nhost: x\r\n\r\n" + GET)
    status, headers, _ = connection.answer(head=True)
    assert (status, headers["content-length"]) == (200, "15")
    assert connection.answer()[2] == b'{"status":"ok"}'


def test_answers_say_when_they_were_given(raw: Connect) -> None:
    before = int(time.time())
    _, headers, _ = raw().send(GET).answer()
    given = parsedate_to_datetime(headers["date"])
    assert headers["date"].endswith("GMT")
    assert before <= given.timestamp() <= time.time()


def test_the_connection_ends_when_the_client_wants_it(raw: Connect) -> None:
    closing = raw().send(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n" + GET)
    assert closing.answer()[1]["connection"] == "close"
    assert closing.ended()
    old = raw().send(b"GET /healthz HTTP/1.0\r\n\r\n")
    assert old.answer()[0] == 200
    assert old.ended()


def test_an_upgrade_is_not_taken(raw: Connect) -> None:
    upgrade = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"
    connection = raw().send(upgrade * 3 + GET)
    assert [connection.answer()[0] for _ in range(4)] == [200] * 4


UPGRADE = (b"connection: upgrade, http2-settings", b"upgrade: h2c", b"http2-settings: AAMAAABkAAQAAP__")


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("closes", [b"", b", close"])
def test_the_body_of_a_request_that_would_upgrade_is_its_body(
    gateway: GatewayThread, raw: Connect, replicas: Callable[[], ScriptedReplica], chunked: bool, closes: bytes
) -> None:
    replica = replicas()
    gateway.serve(replica)
    hidden = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n"
    body = b'{"instances": [[4, 0]]}' + b" " * 200
    for content, status in ((body, 200), (hidden, 400)):
        framing = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % len(content)
        sent = b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content) if chunked else content
        request, half = post(sent, framing, UPGRADE[0] + closes, *UPGRADE[1:]), len(sent) // 2
        connection = raw().send(request[:-half]).send(request[-half:] + (b"" if closes else GET))
        if status == 200:
            assert replica.echo() == [4]
        assert connection.answer()[0] == status
        assert connection.ended() if closes else connection.answer()[2] == b'{"status":"ok"}'


def test_fields_behind_a_chunked_body_mean_nothing(
    gateway: GatewayThread, raw: Connect, replicas: Callable[[], ScriptedReplica]
) -> None:
    replica = replicas()
    gateway.serve(replica)
    trailers = b"x-request-timeout-ms: soon\r\nhost: y\r\nexpect: magic\r\ncontent-encoding: gzip\r\n"
    chunk = b'17\r\n{"instances": [[4, 0]]}\r\n0\r\n'
    connection = raw().send(post(chunk + trailers + b"\r\n", b"transfer-encoding: chunked") + GET)
    assert replica.echo() == [4]
    assert [connection.answer()[0] for _ in range(2)] == [200, 200]


FLOODS = {"trailer": b"0\r\na: ", "name": b"0\r\n", "extension": b"1;", "size": b""}


@pytest.mark.parametrize("name", FLOODS)
def test_what_surrounds_chunks_is_bounded(raw: Connect, name: str) -> None:
    connection = raw().send(post(FLOODS[name], b"transfer-encoding: chunked"))
    for _ in range(3):
        connection.send(b"0" * 1_000)
    status, _headers, body = connection.answer()
    assert (status, "surrounds the chunks" in json.loads(body)["error"]) == (400, True)


def test_bodies_in_chunks_of_one_byte_are_read(raw: Connect) -> None:
    connection = raw().send(post(b"1\r\nx\r\n" * 5_000 + b"0\r\n\r\n", b"transfer-encoding: chunked"))
    assert connection.answer()[0] == 503, "no routes yet"


def test_many_requests_in_one_piece_are_no_long_head(raw: Connect) -> None:
    connection = raw().send(GET * 200 + GET[:20])
    assert [connection.answer()[0] for _ in range(200)] == [200] * 200
    assert connection.send(GET[20:]).answer()[0] == 200


def test_a_target_may_name_the_server(raw: Connect) -> None:
    for target in (b"http://x/healthz", b"HTTP://x:80/healthz?a=b"):
        assert raw().send(GET.replace(b"/healthz", target)).answer()[2] == b'{"status":"ok"}'
    assert raw().send(GET.replace(b"/healthz", b"ftp://x/healthz")).answer()[0] == 404


def test_old_clients_are_not_told_to_go_on(raw: Connect) -> None:
    old = post(b"{}", b"content-length: 2", b"expect: 100-continue").replace(b"HTTP/1.1", b"HTTP/1.0")
    assert raw().send(old).answer()[0] == 503, "no routes yet"


def test_refusals_are_counted_by_status(gateway: GatewayThread, raw: Connect) -> None:
    for request, status, _message in [*REFUSED[:5], *REFUSED[:1]]:
        assert raw().send(request).answer()[0] == status
    page = raw().send(GET.replace(b"/healthz", b"/metrics")).answer()[2].decode()
    assert 'ganglion_refused_total{status="400"} 5' in page
    assert 'ganglion_refused_total{status="413"} 1' in page


REFUSED = [
    (b"nonsense\r\n\r\n", 400, "not HTTP/1.1"),
    (b"GET / HTTP/1.1\r\n\r\n", 400, "host header"),
    (post(b"", b"content-length: 1", b"transfer-encoding: chunked"), 400, "not HTTP/1.1"),
    (post(b"", b"content-length: -1"), 400, "not HTTP/1.1"),
    (post(b"", b"content-length: 10001"), 413, "larger than 10000 bytes"),
    (post(b"", b"content-length: " + b"9" * 30), 400, "not HTTP/1.1"),
    (post(b"0\r\n\r\n", b"transfer-encoding: gzip, chunked"), 400, "transfer-encoding"),
    (post(b"", b"host: y"), 400, "one host"),
    (b"GET / HTTP/1.1\r\nhost: a/b\r\n\r\n", 400, "one host"),
    (b"GET / HTTP/2.0\r\nhost: x\r\n\r\n", 400, "version 2.0"),
    (post(b"", b"x-api-key: one", b"X-API-Key: two"), 400, "'x-api-key' is there twice"),
    (post(b"2711\r\n" + b"x" * 10_001, b"transfer-encoding: chunked"), 413, "larger than 10000 bytes"),
    (post(b"", b"content-encoding: gzip", b"content-length: 2"), 415, "Compressed"),
    (post(b"", b"expect: magic", b"content-length: 2"), 417, "100-continue"),
    (b"GET /" + b"x" * 600 + b" HTTP/1.1\r\nhost: x\r\n\r\n", 414, "longer than 500"),
    (b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 21, 431, "At most 20 headers"),
    (b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"x" * 2600, 431, "2000 bytes"),
]


@pytest.mark.parametrize(("request_", "status", "message"), REFUSED)
def test_what_is_refused_is_refused_once_and_after_the_answers_in_hand(
    raw: Connect, request_: bytes, status: int, message: str
) -> None:
    connection = raw().send(GET + request_)
    assert connection.answer()[0] == 200
    given, headers, body = connection.answer()
    assert given == status
    assert message in json.loads(body)["error"]
    assert headers["connection"] == "close"
    assert connection.ended()


def test_a_refused_client_can_read_why_although_it_goes_on_sending(raw: Connect) -> None:
    connection = raw().send(post(b"", b"content-length: 2000000"))
    assert connection.answer()[0] == 413
    connection.send(b"x" * 2_000_000)
    assert connection.ended()


@pytest.mark.parametrize(
    ("begun", "status"),
    [(b"GET /heal", 408), (post(b"", b"content-length: 10") + b"123", 408), (b"", None), (b"\r\n\r\n", None)],
)
def test_slow_clients_are_cut(raw: Connect, begun: bytes, status: int | None) -> None:
    connection = raw().send(begun)
    if status is not None:
        assert connection.answer()[0] == status
    assert connection.ended()


def test_more_connections_than_allowed_are_refused(raw: Connect) -> None:
    kept = [raw().send(GET) for _ in range(30)]
    assert all(connection.answer()[0] == 200 for connection in kept)
    extra = raw()
    assert extra.answer()[0] == 503
    kept[0].socket.close()
    for _ in range(200):
        connection = raw().send(GET)
        if connection.answer()[0] == 200:
            return
        connection.socket.close()
    raise AssertionError("a closed connection makes no room")


def test_a_fault_in_the_gateway_is_an_answer_and_not_the_end(gateway: GatewayThread, raw: Connect) -> None:
    handler = gateway.gateway.http.handler

    def faulty(exchange: Exchange) -> None:
        if exchange.path == "/faulty":
            raise ZeroDivisionError
        handler(exchange)

    gateway.gateway.http.handler = faulty
    connection = raw().send(b"GET /faulty HTTP/1.1\r\nhost: x\r\n\r\n" + GET)
    assert [connection.answer()[0] for _ in range(2)] == [500, 200]


def test_draining_answers_what_is_in_hand_and_closes_the_rest(
    gateway: GatewayThread, raw: Connect, replicas: Callable[[], ScriptedReplica]
) -> None:
    replica = replicas()
    gateway.serve(replica)
    idle = raw().send(GET)
    idle.answer()
    body = b'{"instances": [[1, 0]]}'
    busy = raw().send(post(body, b"content-length: %d" % len(body)))
    batch, x = replica.next()
    gateway.drain()
    assert idle.ended()
    replica.answer(batch, x[:, 0])
    assert busy.answer()[0] == 200
    assert busy.ended()


def test_an_independent_client_agrees(gateway: GatewayThread) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{gateway.port}") as client:
        for _ in range(3):
            assert client.get("/healthz").json() == {"status": "ok"}
        assert client.post("/healthz", content=b"x" * 9_000).status_code == 405
