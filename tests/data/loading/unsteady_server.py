"""A web server that goes away at a scripted request, in a scripted way, and comes back.

Run as `python unsteady_server.py FOLDER`. It prints its port, then `away TIME` and `back TIME` as it happens, with the
clock that `time.monotonic` reads. A request for `/script/HOW/REQUESTS/SECONDS` says what comes: after so many further
requests it is away for so many seconds. HOW it is away: `silent` takes connections and never answers, `resetting`
breaks them, `refusing` does not take any. An answer that is on its way when it happens is hit too.
"""

from __future__ import annotations

import re
import socket
import struct
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

PIECE = 512
_NOW = struct.pack("ii", 1, 0)  # on closing, what was sent is dropped and the other end is told so


class Server:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.how, self.left, self.seconds = "", -1, 0.0
        self.back = threading.Event()
        self.back.set()
        self.lock = threading.Lock()
        self.listener = self.listen(0)
        self.port = self.listener.getsockname()[1]

    def listen(self, port: int) -> socket.socket:
        return socket.create_server(("127.0.0.1", port))

    def run(self) -> None:
        tell(self.port)
        while True:
            try:
                connection = self.listener.accept()[0]
            except OSError:  # it was shut down, to refuse
                self.listener.close()
                self.back.wait()
                self.listener = self.listen(self.port)
                continue
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection: socket.socket) -> None:
        with connection, suppress(ConnectionError):  # clients may go away, too
            request = b""
            while b"\r\n\r\n" not in request:
                piece = connection.recv(65536)
                if not piece:
                    return
                request += piece
            method, path = request.decode().split()[:2]
            if path.startswith("/script/"):
                _, _, self.how, left, seconds = path.split("/")
                self.left, self.seconds = int(left), float(seconds)
                connection.sendall(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
                return
            self.count()
            if self.gone(connection):
                return
            self.answer(connection, method, path, request.decode())

    def count(self) -> None:
        with self.lock:
            self.left -= 1
            if self.left == -1 and self.how:
                self.back.clear()
                tell("away", time.monotonic())
                if self.how == "refusing":
                    self.listener.shutdown(socket.SHUT_RDWR)
                threading.Timer(self.seconds, self.return_).start()

    def return_(self) -> None:
        tell("back", time.monotonic())
        self.how = ""
        self.back.set()

    def gone(self, connection: socket.socket) -> bool:
        """Whether the server is away; does to the connection what that means."""
        if self.back.is_set():
            return False
        if self.how == "silent":
            self.back.wait()
        else:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NOW)
        return True

    def answer(self, connection: socket.socket, method: str, path: str, request: str) -> None:
        file = self.folder / path.lstrip("/")
        if not file.is_file():
            connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        body = file.read_bytes()
        found = re.search(r"(?im)^range: bytes=(\d+)-", request)
        start = int(found.group(1)) if found else 0
        lines = [
            "HTTP/1.1 206 Partial Content" if found else "HTTP/1.1 200 OK",
            f"Content-Length: {len(body) - start}",
            f'ETag: "{file.name}-{file.stat().st_mtime_ns}"',
            "Connection: close",
        ]
        if found:
            lines.append(f"Content-Range: bytes {start}-{len(body) - 1}/{len(body)}")
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        for begin in range(start, len(body) if method == "GET" else start, PIECE):
            if self.gone(connection):
                return
            connection.sendall(body[begin : begin + PIECE])


def tell(*what: object) -> None:
    sys.stdout.write(" ".join(map(str, what)) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    Server(Path(sys.argv[1])).run()
