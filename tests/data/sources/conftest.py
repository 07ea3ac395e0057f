from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ganglion.data.sources import line_blocks, line_source

pytest.register_assert_rewrite("source_contract")


class Web:
    """A real HTTP server with files, which can be told to misbehave.

    Attributes:
        files: content by path.
        ranges: whether it can begin in the middle of a file.
        validators: whether it says which version of a file it has.
        refusals: status codes that the next requests are answered with.
        broken: bytes of a body after which the next answers break off.
        asked: method, path and range of each request.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.ranges = self.validators = True
        self.head = True
        self.refusals: list[int] = []
        self.broken: list[int] = []
        self.asked: list[tuple[str, str, str]] = []
        self.silent = threading.Event()
        self.waiting = threading.Semaphore(0)
        self.resume = threading.Event()
        web = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args) -> None:
                pass

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                asked = self.headers.get("Range", "")
                web.asked.append((self.command, self.path, asked))
                if web.silent.is_set():
                    web.waiting.release()
                    web.resume.wait(30)
                    self.close_connection = True
                    return
                if web.refusals or (self.command == "HEAD" and not web.head):
                    self.send_error(web.refusals.pop(0) if web.refusals else 405)
                    return
                body = web.files.get(self.path)
                if body is None and self.path.endswith("/"):
                    names = [name for name in web.files if name.rpartition("/")[0] + "/" == self.path]
                    body = "".join(f"<a href='{name.rpartition('/')[2]}'>x</a>" for name in names).encode()
                if body is None:
                    self.send_error(404)
                    return
                start = 0
                if asked and web.ranges:
                    start = int(asked.removeprefix("bytes=").removesuffix("-"))
                    if start >= len(body):
                        self.send_response(416)
                        self.send_header("Content-Range", f"bytes */{len(body)}")
                        self.send_header("Content-Length", "0")
                        self.end_headers()
                        return
                    self.send_response(206)
                    self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
                else:
                    self.send_response(200)
                if web.validators:
                    self.send_header("ETag", f'"{hash(body)}"')
                self.send_header("Content-Length", str(len(body) - start))
                self.end_headers()
                if self.command == "HEAD":
                    return
                if web.broken:
                    self.wfile.write(body[start : start + web.broken.pop(0)])
                    self.wfile.flush()
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self.wfile.write(body[start:])

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *args: None  # clients that go away are what is tested
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setenv("no_proxy", "*")
    served = Web()
    thread = threading.Thread(target=served.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield served
    served.resume.set()
    served.server.shutdown()
    served.server.server_close()
    thread.join()


@pytest.fixture
def put(tmp_path: Path):
    """Write a file and return its path."""

    def write(name: str, content: bytes) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return str(path)

    return write


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Blocks and units of text files so small that small files have many."""
    monkeypatch.setattr(line_blocks, "BLOCK", 400)
    monkeypatch.setattr(line_blocks, "UNIT", 1000)
    monkeypatch.setattr(line_source, "UNIT", 1000)
    line_source._inferred.cache_clear()
    line_source._pieces.cache_clear()
    yield
    line_source._inferred.cache_clear()
    line_source._pieces.cache_clear()
