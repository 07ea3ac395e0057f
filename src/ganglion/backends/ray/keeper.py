"""The Ray actor that runs the members of a node: forks them through wardens, tells how they end, reads their logs.

A member is no Ray worker: those are used again, so that a signal, a crash or a memory limit of one entry would be the
next one's; and how a worker died Ray does not say. It is a process of its own, forked within milliseconds from a warm
warden under the keeper, while Ray holds its resources.

The keeper of a node belongs to one backend and dies with it. A member that goes on without its controller, or that
needs GPUs, has a keeper of its own, in its bundle of the placement group: there Ray says which GPUs are meant.
"""

from __future__ import annotations

import contextlib
import os
import platform
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
from ganglion.backends.processes.wire import Ended, Notice, Request, StartMember
from ganglion.core.errors import ControlError
from ganglion.execution.exits import Evidence
from ganglion.execution.spec import Numerics

POLL = 2.0
"""Seconds after which a reader that waits for notices is sent away with none."""

LINGER = 3.0
"""Seconds for which a detached keeper with no member left waits for a controller."""

READERS = 16
"""Calls that may wait for notices or read logs at the same time."""


class Keeper:
    """Created by `keeper_client`; its orders are carried out one after the other, in the order of the calls."""

    def __init__(self, directory: str, *, own: bool, detached: bool) -> None:
        """Start nothing yet.

        Args:
            directory: where members run, if there is such a folder here; empty for where Ray puts this process.
            own: it serves one member; its notices are then kept for whoever may ask for them later.
            detached: it outlives the process that made it, and ends by itself when it is of no more use.
        """
        self._own = own
        self._notices: list[bytes] = []
        self._first = 0
        self._changed = threading.Condition()
        self._readers = 0
        self._read_at = time.monotonic()
        if os.path.isdir(directory):
            os.chdir(directory)
        if not ray.get_gpu_ids():
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the devices of the node are other members'
        self._wardens = Wardens(self._receive, fork=sys.platform == "linux", import_path=_import_path(), orphans=True)
        if detached:
            threading.Thread(target=self._linger, name="ganglion-linger", daemon=True).start()

    def versions(self) -> tuple[str, str]:
        """Of Python and Ganglion."""
        return platform.python_version(), metadata.version("ganglion")

    def warm(self, numerics: bytes, preload: tuple[str, ...]) -> None:
        """Start to load what members to come will need."""
        self._wardens.warm(msgspec.msgpack.decode(numerics, type=Numerics), preload)

    def order(self, message: bytes) -> None:
        """Start or stop a member; what comes of it is a notice."""
        request = msgspec.msgpack.decode(message, type=Request)
        if not isinstance(request, StartMember):
            self._wardens.stop(request.key, request.grace)
            return
        try:
            self._wardens.start(request)
        except (ControlError, OSError) as error:
            evidence = Evidence(note=f"could not be started: {error}")
            self._receive(Ended(key=request.key, at=time.time(), evidence=evidence))

    @ray.method(concurrency_group="readers")
    def take(self, after: int) -> tuple[str, list[bytes]]:
        """The name of this machine, and the notices from number `after` on; waits until there are any."""
        with self._changed:
            self._readers += 1
            if not self._own:
                del self._notices[: after - self._first]
                self._first = after
            self._changed.wait_for(lambda: self._first + len(self._notices) > after, POLL)
            self._readers -= 1
            self._read_at = time.monotonic()
            return socket.gethostname(), self._notices[after - self._first :]

    @ray.method(concurrency_group="readers")
    def read(self, path: str, offset: int, size: int) -> bytes:
        """A piece of a file on this machine; empty at its end, and if there is none."""
        with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
            file.seek(offset)
            return file.read(size)
        return b""

    def close(self) -> None:
        """End every member."""
        self._wardens.close()

    def _receive(self, notice: Notice) -> None:
        with self._changed:
            self._notices.append(msgspec.msgpack.encode(notice))
            self._changed.notify_all()

    def _linger(self) -> None:
        """Give up the reservation, and with it this process, once no member runs and nobody has asked for a while."""
        while True:
            time.sleep(LINGER / 3)
            with self._changed:
                followed = self._readers > 0 or time.monotonic() - self._read_at < LINGER
            if not followed and not self._wardens.running:
                remove_placement_group(get_current_placement_group())


def _import_path() -> list[str]:
    """Where this process looks for modules, without the libraries that Ray brings along for itself."""
    own = Path(ray.__file__).parent
    return [folder for folder in sys.path if not Path(folder).is_relative_to(own)]
