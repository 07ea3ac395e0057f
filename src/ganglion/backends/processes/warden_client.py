"""The backend's end of a warden: starts the process, sends requests, passes notices on."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Mapping, Sequence

import msgspec

from ganglion.backends.processes.warden_process import ForkedWarden, SpawnedWarden, WardenProcess, thread_count
from ganglion.backends.processes.wire import Notice, Request, encode
from ganglion.core.errors import ControlError
from ganglion.execution.control import FrameReader


class WardenClient:
    """One warden process.

    Attributes:
        preload: modules that it has imported.
        pid: its process id.
    """

    def __init__(
        self,
        *,
        preload: tuple[str, ...],
        environment: Mapping[str, str],
        fork: bool,
        import_path: Sequence[str],
        orphan: bool = False,
        share: bool = False,
        receive: Callable[[Notice], None],
        lost: Callable[[], None],
    ) -> None:
        """Start the process; it loads `preload` while requests already wait in its socket.

        Args:
            preload: modules to import before the first fork.
            environment: variables on top of this process's own (threads, instruction set).
            fork: fork members from the preloaded process, or start an interpreter for each.
            import_path: where its members look for modules.
            orphan: the process must not be a child of this one.
            share: fork it from this process, if that has one thread; it holds nothing that members must not have.
            receive: takes every notice, in the reading thread.
            lost: called once when the process is gone without having been closed.
        """
        self.preload = preload
        self._receive = receive
        self._lost = lost
        self._closing = False
        self._lock = threading.Lock()
        self._channel, theirs = socket.socketpair()
        with theirs:
            variables = {**os.environ, **environment, "PYTHONPATH": os.pathsep.join(filter(None, import_path))}
            self._process: WardenProcess
            if share and fork and thread_count() == 1:
                self._process = ForkedWarden(theirs, self._channel, preload=preload, environment=variables)
            else:
                self._process = SpawnedWarden(theirs, fork=fork, preload=preload, environment=variables, orphan=orphan)
        self.pid = self._process.pid
        self._thread = threading.Thread(target=self._read, name="ganglion-warden", daemon=True)
        self._thread.start()

    def send(self, request: Request) -> None:
        """Send a request.

        Raises:
            ControlError: the process is gone.
        """
        try:
            with self._lock:
                self._channel.sendall(encode(request))
        except OSError as error:
            raise ControlError(f"The process that starts members (pid {self.pid}) is gone.") from error

    def close(self, *, wait: bool = True) -> None:
        """Let the process end what stops with its controller.

        Args:
            wait: for its own end; it does not come while it has members that go on without a controller.
        """
        self._closing = True
        with contextlib.suppress(OSError):  # it was lost a moment ago
            self._channel.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._channel.close()
        if wait:
            self._process.wait()
        else:
            self._process.leave()

    def _read(self) -> None:
        decoder = msgspec.msgpack.Decoder(Notice)
        reader = FrameReader()
        try:
            while data := self._channel.recv(65536):
                for frame in reader.feed(data):
                    self._receive(decoder.decode(frame))
        except OSError:
            pass  # a reset is an end of file
        if not self._closing:
            self._process.kill()
            self._process.wait()
            self._channel.close()
            self._lost()
