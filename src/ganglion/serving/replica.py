"""A replica: a process that loads one model version, says when it is ready, and answers batches until it is drained.

It holds no requests: they belong to the gateway, which tries them elsewhere when the connection ends.
"""

from __future__ import annotations

import select
import selectors
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from ganglion.core import faults
from ganglion.core.errors import ControlError
from ganglion.core.log import get_logger
from ganglion.execution.member import current_member
from ganglion.serving import frames, wire
from ganglion.serving.begun import BegunWriter
from ganglion.serving.functions import Functions
from ganglion.serving.gentle import run_gently
from ganglion.serving.model import LoadedModel

_CHUNK = 2**18
_SEND_TIMEOUT = 30.0
"""Seconds for which a gateway may take nothing of an answer."""

_log = get_logger(part="serving.replica")

Respond = Callable[[frames.Frame], Sequence[frames.Buffer]]


def serve(folder: str, max_batch: int = 32, functions: Sequence[str] = (), gentle: int = 0) -> None:
    """Entry of a replica: load the package in `folder`, check it, warm it, serve until drained.

    Args:
        folder: a model package.
        max_batch: instances of the largest batch that the gateway sends; the model is warmed with it.
        functions: the user's functions that requests to the model need, as `module:function`.
        gentle: the first so many replicas leave the cores to others while they start for the first time, since another
            version answers meanwhile; one that is added or started again is needed and does not.

    Raises:
        ModelError: the package is half written, damaged or cannot be served, answers its checks differently, or a
            function cannot be imported.
    """
    member = current_member()
    loaded = Functions(functions)
    gently = member.attempt == 1 and member.index < gentle

    def load() -> LoadedModel:
        return _load(Path(folder), max_batch)

    with closing(run_gently(load) if gently else load()) as model:
        listener, endpoint = member.listen()
        begun = BegunWriter()
        server = FrameServer(
            listener,
            lambda frame: _answer(model, loaded, begun, frame),
            member.draining,
            answered=lambda: begun.write(0),
        )
        with closing(server):
            member.ready(endpoint)
            server.run()


def _load(folder: Path, max_batch: int) -> LoadedModel:
    try:
        model = LoadedModel(folder)
        model.check()
        model.warm(max_batch)
    except Exception:
        _log.error("load_failed", folder=str(folder), exc_info=True)  # what is raised says no more than one line
        raise
    return model


def _answer(model: LoadedModel, functions: Functions, begun: BegunWriter, frame: frames.Frame) -> list[frames.Buffer]:
    header, body = frame
    batch = wire.decode_batch(header)
    begun.write(batch.id)
    faults.point("serving.batch", id=batch.id)
    if batch.call is not None:
        images = wire.images_of(batch.images, body) if batch.images else []
        tensors = wire.tensors_of(batch.tensors, body) if not batch.images else {}
        outputs, failures = functions.call(batch.call, tensors, images)
    elif batch.images:
        outputs, failures = model.predict_images(wire.images_of(batch.images, body))
    else:
        outputs, failures = model.predict(wire.tensors_of(batch.tensors, body))
    answer = wire.Answer(batch.id, wire.describe(outputs.items()), tuple(failures))
    return frames.encode(answer, [wire.raw(values) for values in outputs.values()])


class FrameServer:
    """Answers frames on a listening socket, one after the other, in the thread that calls `run`.

    Args:
        listener: a listening stream socket; closed with the server.
        respond: from a frame to the buffers of its answer; `ControlError` ends the connection it came from.
        draining: when set, what has arrived is answered and `run` returns.
        answered: called after each frame, also where its answer could not be sent.
    """

    def __init__(
        self,
        listener: socket.socket,
        respond: Respond,
        draining: threading.Event,
        answered: Callable[[], None] = lambda: None,
    ) -> None:
        self._answered = answered
        self._listener = listener
        self._respond = respond
        self._draining = draining
        self._readers: dict[socket.socket, frames.FrameReader] = {}
        self._selector = selectors.DefaultSelector()
        self._waker, self._woken = socket.socketpair()
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        threading.Thread(target=self._wake_when_draining, name="drain", daemon=True).start()

    def run(self) -> None:
        """Serve until drained."""
        while not self._draining.is_set():
            self._step(timeout=None)
        self._selector.unregister(self._listener)
        self._selector.unregister(self._woken)
        while self._readers and (self._step(timeout=0) or any(map(len, self._readers.values()))):
            pass

    def close(self) -> None:
        """Close every socket."""
        for connection in tuple(self._readers):
            self._drop(connection)
        self._listener.close()
        self._selector.close()
        self._woken.close()

    def _wake_when_draining(self) -> None:
        self._draining.wait()
        self._waker.close()  # makes the other end readable

    def _step(self, timeout: float | None) -> bool:
        """Handle what is readable; whether anything was."""
        events = self._selector.select(timeout)
        for key, _mask in events:
            if key.fileobj is self._listener:
                self._accept()
            elif key.fileobj in self._readers:
                self._read(key.fileobj)
        return bool(events)

    def _accept(self) -> None:
        connection, _address = self._listener.accept()
        connection.setblocking(False)  # with a timeout, Python polls before every call
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._readers[connection] = frames.FrameReader()
        self._selector.register(connection, selectors.EVENT_READ)

    def _read(self, connection: socket.socket) -> None:
        reader = self._readers[connection]
        try:
            if reader.room is not None:
                self._read_long(connection, reader)
                return
            data = connection.recv(_CHUNK)
            if not data:
                self._drop(connection)
                return
            for frame in reader.feed(data):
                self._answer(connection, frame)
        except BlockingIOError:
            return  # woken for nothing
        except (OSError, ControlError) as error:
            _log.warning("gateway_dropped", error=f"{type(error).__name__}: {error}")
            self._drop(connection)

    def _read_long(self, connection: socket.socket, reader: frames.FrameReader) -> None:
        """Receive the rest of a long body where it stays, as far as it is there."""
        while (room := reader.room) is not None:
            count = connection.recv_into(room)
            if not count:
                self._drop(connection)
                return
            frame = reader.filled(count)
            if frame is not None:
                self._answer(connection, frame)

    def _answer(self, connection: socket.socket, frame: frames.Frame) -> None:
        buffers = self._respond(frame)  # what fails here is at fault: it stays begun, also when the process has ended
        try:
            _send(connection, buffers)
        finally:
            self._answered()

    def _drop(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        del self._readers[connection]
        connection.close()


def _send(connection: socket.socket, buffers: Sequence[frames.Buffer]) -> None:
    if sum(map(len, buffers)) < _CHUNK:
        _send_all(connection, b"".join(buffers))
    else:
        for buffer in buffers:
            _send_all(connection, buffer)


def _send_all(connection: socket.socket, buffer: frames.Buffer) -> None:
    """Write it all, waiting only when the socket is full.

    Raises:
        TimeoutError: it stayed full.
    """
    left = memoryview(buffer)
    while left:
        try:
            left = left[connection.send(left) :]
        except BlockingIOError:
            poll = select.poll()
            poll.register(connection, select.POLLOUT)
            if not poll.poll(1000 * _SEND_TIMEOUT):
                raise TimeoutError(f"The gateway has taken nothing for {_SEND_TIMEOUT:g} s.") from None
