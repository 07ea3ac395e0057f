"""Where a model server takes commands of other processes of its user: a Unix socket that nobody else can open."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ganglion.core.errors import ControlError, GanglionError
from ganglion.core.ids import Ids, RandomIds
from ganglion.core.log import get_logger
from ganglion.execution.supervisor import runtime_folder
from ganglion.serving.controller import ModelServer
from ganglion.serving.frames import FrameReader
from ganglion.serving.service_directory import ServiceDirectory, ServiceEntry
from ganglion.serving.service_messages import (
    AnyCommand,
    AnyReply,
    Describe,
    Done,
    Failed,
    RollBack,
    RollOut,
    Scale,
    Stop,
    decode_command,
    encode,
)

_CHUNK = 2**16
_LONGEST = 2**20
"""Bytes of the longest command."""

_PATIENCE = 10.0
"""Seconds that a caller may take to say what it wants, or to read the answer."""

_log = get_logger(part="serving.services")


class ServiceSocket:
    """Takes commands for a model server until it is closed; use as a context manager.

    Args:
        server: carries them out.
        project: the project folder, in which others find it.
        on_stopped: called when, by a command, nothing is served any more.
        ids: where its id comes from.
    """

    def __init__(
        self, server: ModelServer, project: Path, on_stopped: Callable[[], None], *, ids: Ids | None = None
    ) -> None:
        self._server = server
        self._on_stopped = on_stopped
        id_ = (ids or RandomIds()).new("service")
        self._path = runtime_folder(project) / f"{id_}.sock"
        self._listener = _listen(self._path)
        self._threads: set[threading.Thread] = set()
        self._accepting = threading.Thread(target=self._accept, name="ganglion-services", daemon=True)
        self._accepting.start()
        self._file = ServiceDirectory(project).add(ServiceEntry.of_this_process(id_, server.url, self._path))

    def close(self) -> None:
        """Take no more commands; those in hand are answered."""
        self._file.unlink(missing_ok=True)
        with suppress(OSError):  # some systems refuse it on a listening socket; there, closing wakes the thread
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._path.unlink(missing_ok=True)
        self._accepting.join()
        for thread in tuple(self._threads):
            thread.join(_PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _address = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,), name="ganglion-command", daemon=True)
            self._threads.add(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                connection.settimeout(_PATIENCE)
                command = decode_command(_receive(connection))
                connection.settimeout(None)
                reply, over = self._answer(command)
                connection.settimeout(_PATIENCE)
                connection.sendall(encode(reply))
            if over:
                self._on_stopped()
        except (OSError, ControlError) as error:
            _log.warning("command_dropped", error=f"{type(error).__name__}: {error}")
        finally:
            self._threads.discard(threading.current_thread())

    def _answer(self, command: AnyCommand) -> tuple[AnyReply, bool]:
        """The reply, and whether nothing is served any more."""
        try:
            value = self._carry_out(command)
        except GanglionError as error:
            return Failed(error=type(error).__name__, message=str(error)), False
        except Exception as error:  # noqa: BLE001  one command that fails must not end what is served
            _log.error("command_failed", exc_info=True)
            return Failed(error=type(error).__name__, message=str(error)), False
        return Done(value=value), isinstance(command, Stop) and not value

    def _carry_out(self, command: AnyCommand) -> Any:
        server = self._server
        match command:
            case Describe():
                return server.status()
            case Scale():
                server.scale(command.model, command.replicas, timeout=command.timeout)
                return None
            case RollOut():
                return server.update(command.model, command.version, canary=command.canary, timeout=command.timeout)
            case RollBack():
                return server.roll_back(command.model, timeout=command.timeout)
            case Stop():
                server.undeploy(command.model, timeout=command.timeout)
                status = server.status()
                return [*status["models"], *status["ensembles"]]


def _listen(path: Path) -> socket.socket:
    """A listening socket that only this user can connect to."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        os.chmod(path, 0o600)  # nobody can connect before it listens
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener


def _receive(connection: socket.socket) -> memoryview:
    """The header of the one frame that a caller sends."""
    reader = FrameReader()
    while True:
        data = connection.recv(_CHUNK)
        if not data:
            raise ControlError("A caller went away before it had said what it wants.")
        frames = reader.feed(data)
        if frames:
            return frames[0][0]
        if len(reader) > _LONGEST:
            raise ControlError(f"A command is longer than {_LONGEST} bytes.")
