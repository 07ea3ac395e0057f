"""Processes that make batches: for transforms in Python, which threads cannot do at the same time.

A worker that dies is replaced, and its work done again, to the same bytes, since batches are functions of what is
asked for. Nothing is left behind: workers end with the process that started them, and their memory has no name.
"""

from __future__ import annotations

import queue
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from contextlib import suppress

import cloudpickle

from ganglion.core.errors import ExecutionError
from ganglion.core.resources import cores
from ganglion.data.dataset.prepared import PreparedDataset
from ganglion.data.loading.batch_maker import Made, Work
from ganglion.data.loading.data_worker import Orders, Reply
from ganglion.data.loading.object_channel import ObjectChannel
from ganglion.data.loading.slots import Slots
from ganglion.data.records.columns import Column, Columns
from ganglion.data.transform import Transform

_TRIES = 10
_GRACE = 5.0


class WorkerPool:
    """Makes batches in processes of its own, which start with the first work.

    Attributes:
        count: number of workers.

    Args:
        dataset: where the records are.
        transforms: what is done to them.
        seed: of random transforms.
        count: number of workers; one for each processor if `None`, fewer where memory is short.
        slot_size: bytes of the batches that are made at a time.
        buffers: bytes for all batches that are being made or waiting to be used.
        resident: bytes of mapped files that may stay in the memory of all workers together; all if `None`.
    """

    def __init__(
        self,
        dataset: PreparedDataset,
        transforms: Sequence[Transform],
        seed: int,
        *,
        count: int | None,
        slot_size: int,
        buffers: int,
        resident: int | None,
    ) -> None:
        slots = max(3, buffers // slot_size)
        self.count = max(1, min(cores() if count is None else count, slots - 2))
        self._slots_wanted = (slot_size, min(slots, 2 * self.count + 3))
        self._dataset, self._transforms, self._seed = dataset, tuple(transforms), seed
        self._resident = None if resident is None else resident // self.count
        self._started: _Processes | None = None
        self._lock = threading.Lock()

    def make(self, work: Work) -> Made:
        """Make batches; called by up to `count` threads at a time.

        Raises:
            ExecutionError: workers ended again and again over this work.
            Exception: what a worker raised over it, such as `OutageError`.
        """
        with self._lock:
            if self._started is None:
                self._started = self._start()
            processes = self._started
        reply, slot = processes.ask(work)
        try:
            if isinstance(reply, BaseException):
                raise reply
            found: dict[str, Column] = {**reply.columns}
            found.update(processes.slots.views(slot, reply.placed, self.count))
            columns: Columns = {name: found[name] for name in reply.order}
            return Made(reply.made.batch.having(columns), reply.made.ends, reply.made.slots, reply.made.failures)
        finally:
            processes.slots.give_back(slot)

    def close(self) -> None:
        """End all workers; with the next work, others start."""
        with self._lock:
            started, self._started = self._started, None
        if started is not None:
            started.close()

    def _start(self) -> _Processes:
        slots = Slots(*self._slots_wanted)
        orders = Orders(
            store=str(self._dataset.store.root),
            dataset=self._dataset.artifact,
            transforms=self._transforms,
            seed=self._seed,
            resident=self._resident,
            slot_size=slots.size,
            slots=slots.count,
        )
        return _Processes(cloudpickle.dumps(orders), slots, self.count)


class _Processes:
    """The zygote and its workers, as sockets."""

    def __init__(self, orders: bytes, slots: Slots, count: int) -> None:
        self.slots = slots
        self._orders = orders
        self._lock = threading.Lock()
        self._zygote = [_Zygote(orders, slots.descriptor)]  # one; in a list, as the end has to know the latest
        self._workers: set[ObjectChannel] = set()
        self._idle: queue.LifoQueue[ObjectChannel] = queue.LifoQueue()
        self._end = weakref.finalize(self, _end, self._zygote, self._workers, slots)
        for _ in range(count):
            self._idle.put(self._fork())

    def ask(self, work: Work) -> tuple[Reply | BaseException, int]:
        """What a worker answers, and the number of the slot, which the caller has to give back."""
        worker, slot = self._idle.get(), self.slots.lend()
        try:
            for _ in range(_TRIES):
                try:
                    worker.send((slot, work))
                    reply, _ = worker.receive()
                    return reply, slot
                except (EOFError, OSError):
                    worker = self._replaced(worker)
        finally:
            self._idle.put(worker)
        self.slots.give_back(slot)
        raise ExecutionError(
            f"Data workers ended {_TRIES} times, one after the other, while making {len(work.ends)} batches from step "
            f"{work.first} of epoch {work.epoch}. Do these records crash a transform, or is memory short?"
        )

    def close(self) -> None:
        self._end()

    def _replaced(self, worker: ObjectChannel) -> ObjectChannel:
        worker.close()
        self._workers.discard(worker)
        return self._fork()

    def _fork(self) -> ObjectChannel:
        """A new worker; from a new zygote, if the old one is gone."""
        with self._lock:
            for _ in range(_TRIES):
                ours, theirs = socket.socketpair()
                with theirs:
                    try:
                        self._zygote[0].fork(theirs.fileno())
                    except OSError:
                        ours.close()
                        self._zygote[0].close()
                        self._zygote[0] = _Zygote(self._orders, self.slots.descriptor)
                        continue
                channel = ObjectChannel(ours)
                self._workers.add(channel)
                return channel
        raise ExecutionError("The process that starts data workers ended again and again; its output says why.")


class _Zygote:
    """The process that forks workers."""

    def __init__(self, orders: bytes, slots: int) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "ganglion.data.loading.zygote", str(theirs.fileno()), str(slots)]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(), slots))
        self._channel = ObjectChannel(ours)
        with suppress(OSError):  # it is gone already, which shows when it is asked for a worker
            self._channel.send((sys.path, orders))

    def fork(self, descriptor: int) -> None:
        """Have a worker forked that talks to this socket.

        Raises:
            OSError: the zygote is gone.
        """
        self._channel.send(None, (descriptor,))

    def close(self) -> None:
        """End the zygote and its workers."""
        self._channel.close()
        try:
            self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _end(zygote: list[_Zygote], workers: set[ObjectChannel], slots: Slots) -> None:
    """End all processes and close all that was open."""
    for worker in workers:
        worker.close()
    zygote[0].close()
    slots.close()
