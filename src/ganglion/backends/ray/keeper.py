"""The Ray actor that runs the members of a node: forks them through wardens, tells how they end, reads their logs.

A member is no Ray worker: those are used again, so that a signal, a crash or a memory limit of one entry would be the
next one's; and how a worker died Ray does not say. It is a process of its own, forked within milliseconds from a warm
warden under the keeper, while Ray holds its resources. Orders and notices do not pass through Ray, whose calls would
take longer than the tasks: whoever follows a keeper dials it (see `orders`).

The keeper of a node belongs to one backend and dies with it. A member that goes on without its controller, or that
needs GPUs, has a keeper of its own, in its bundle of the placement group: there Ray says which GPUs are meant.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import platform
import secrets
import socket
import sys
import threading
import time
from importlib import metadata
from pathlib import Path

import msgspec
import ray
from ray.util.placement_group import get_current_placement_group, remove_placement_group

from ganglion.backends.processes.wardens import Wardens
from ganglion.backends.processes.wire import Ended, Notice, StartMember, StopMember, encode
from ganglion.backends.ray.orders import TOKEN_LENGTH, Order
from ganglion.core.errors import ControlError
from ganglion.execution.control import FrameReader
from ganglion.execution.exits import Evidence

LINGER = 3.0
"""Seconds for which a detached keeper with no member left waits for a controller."""

GREETING = 10.0
"""Seconds within which whoever connects has to show the token."""


class Keeper:
    """Created by `keeper_client`, which follows it: dials it, gives orders and is told what comes of them."""

    def __init__(self, directory: str, host: str, *, own: bool, detached: bool) -> None:
        """Listen for whoever follows; start nothing yet.

        Args:
            directory: where members run, if there is such a folder here; empty for where Ray puts this process.
            host: address of this node, at which to listen.
            own: it serves one member; its notices are then kept for whoever may ask for them later.
            detached: it outlives the process that made it, and ends by itself when it is of no more use.
        """
        self._own = own
        self._detached = detached
        self._notices: list[bytes] = []
        self._followers: list[socket.socket] = []
        self._left_at = time.monotonic()
        self._started: set[str] = set()
        self._lock = threading.Lock()
        if os.path.isdir(directory):
            os.chdir(directory)
        if not ray.get_gpu_ids():
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the devices of the node are other members'
        self._wardens = Wardens(self._receive, fork=sys.platform == "linux", import_path=_import_path(), orphans=True)
        self._token = secrets.token_bytes(TOKEN_LENGTH)
        self._listener = socket.create_server((host, 0))
        threading.Thread(target=self._accept, name="ganglion-keeper", daemon=True).start()
        if detached:
            threading.Thread(target=self._linger, name="ganglion-linger", daemon=True).start()

    def versions(self) -> tuple[str, str]:
        """Of Python and Ganglion."""
        return platform.python_version(), metadata.version("ganglion")

    def endpoint(self) -> tuple[str, bytes, str]:
        """Where it listens, what to send there first, and the name of this machine."""
        host, port = self._listener.getsockname()[:2]
        return f"tcp:{host}:{port}", self._token, socket.gethostname()

    def read(self, path: str, offset: int, size: int) -> bytes:
        """A piece of a file on this machine; empty at its end, and if there is none."""
        with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
            file.seek(offset)
            return file.read(size)
        return b""

    def close(self) -> None:
        """End every member."""
        self._wardens.close()

    # the threads

    def _accept(self) -> None:
        while True:
            channel, _ = self._listener.accept()
            threading.Thread(target=self._serve, args=(channel,), name="ganglion-follower", daemon=True).start()

    def _serve(self, channel: socket.socket) -> None:
        """One follower, from its token to its end; what is tied to it ends with it."""
        with channel:
            try:
                channel.settimeout(GREETING)
                if not hmac.compare_digest(channel.recv(TOKEN_LENGTH, socket.MSG_WAITALL), self._token):
                    return
                channel.settimeout(None)
            except OSError:
                return
            channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with contextlib.suppress(OSError):  # a reset is an end of file
                self._follow(channel)
            with self._lock:
                self._followers = [follower for follower in self._followers if follower is not channel]
                self._left_at = time.monotonic()
        if not self._detached:
            self._wardens.close()

    def _follow(self, channel: socket.socket) -> None:
        with self._lock:
            channel.sendall(b"".join(self._notices))
            if not self._own:
                self._notices.clear()
            self._followers.append(channel)
        decoder = msgspec.msgpack.Decoder(Order)
        reader = FrameReader()
        while data := channel.recv(65536):
            for frame in reader.feed(data):
                self._obey(decoder.decode(frame))

    def _obey(self, order: Order) -> None:
        """Carry an order out; what comes of it is a notice."""
        if isinstance(order, StopMember):
            self._wardens.stop(order.key, order.grace)
        elif not isinstance(order, StartMember):
            self._wardens.warm(order.numerics, order.preload)
        elif order.key not in self._started:
            if self._own:
                self._started.add(order.key)  # its follower repeats what it asked for when it dials again
            try:
                self._wardens.start(order)
            except (ControlError, OSError) as error:
                evidence = Evidence(note=f"could not be started: {error}")
                self._receive(Ended(key=order.key, at=time.time(), evidence=evidence))

    def _receive(self, notice: Notice) -> None:
        frame = encode(notice)
        with self._lock:
            if self._own or not self._followers:
                self._notices.append(frame)
            for follower in self._followers:
                with contextlib.suppress(OSError):  # the thread that reads it sees the same loss
                    follower.sendall(frame)

    def _linger(self) -> None:
        """Give up the reservation, and with it this process, once no member runs and nobody has asked for a while."""
        while True:
            time.sleep(LINGER / 3)
            with self._lock:
                followed = bool(self._followers) or time.monotonic() - self._left_at < LINGER
            if not followed and not self._wardens.running:
                remove_placement_group(get_current_placement_group())


def _import_path() -> list[str]:
    """Where this process looks for modules, without the libraries that Ray brings along for itself."""
    own = Path(ray.__file__).parent
    return [folder for folder in sys.path if not Path(folder).is_relative_to(own)]
