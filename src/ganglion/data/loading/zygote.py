"""The zygote: a process with the imports done and one thread, which forks data workers.

A process with threads, such as one that trains, cannot be forked safely, and a fresh interpreter takes a quarter of a
second. So one fresh interpreter is started, and it forks as many workers as are asked for, and new ones for those that
die. It ends, and they with it, when its socket to the process that started it closes.

Run as `python -m ganglion.data.loading.zygote DESCRIPTOR SLOTS`: of its socket, and of the file with the slots.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import select
import signal
import socket
import sys
from contextlib import suppress
from typing import NoReturn

from ganglion.data.loading.data_worker import Orders, sendable, serve
from ganglion.data.loading.object_channel import ObjectChannel
from ganglion.data.loading.slots import map_slots

_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)
_CHECKED = 1.0


def main(control: int, slots: int) -> None:
    """Fork a worker for each socket that comes, until there is nobody who could send one."""
    parent = os.getppid()
    channel = ObjectChannel(socket.socket(fileno=control))
    orders = _first_orders(channel)
    children: set[int] = set()
    while os.getppid() == parent:
        children = {child for child in children if os.waitpid(child, os.WNOHANG) == (0, 0)}
        if not select.select([channel], [], [], _CHECKED)[0]:
            continue
        try:
            _, (descriptor,) = channel.receive()
        except EOFError:
            break
        child = os.fork()
        if child == 0:
            channel.close()
            _work(descriptor, slots, orders)
        os.close(descriptor)
        children.add(child)
    for child in children:
        os.kill(child, signal.SIGKILL)
    for child in children:
        os.waitpid(child, 0)


def _first_orders(channel: ObjectChannel) -> Orders | Exception:
    """What workers are to do, or why that is not to be known here."""
    try:
        (path, data), _ = channel.receive()
        sys.path[:] = path
        orders = pickle.loads(data)
        assert isinstance(orders, Orders), "nothing else is sent"
        return orders
    except EOFError:
        sys.exit(0)
    except Exception as error:  # noqa: BLE001  # importing a person's module may raise anything
        return error


def _work(descriptor: int, slots: int, orders: Orders | Exception) -> NoReturn:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)
    channel = ObjectChannel(socket.socket(fileno=descriptor))
    try:
        if isinstance(orders, Exception):
            raise orders
        serve(channel, orders, map_slots(slots, orders.slot_size, orders.slots))
    except (BrokenPipeError, ConnectionResetError):
        pass  # whoever asked is gone
    except Exception as error:  # noqa: BLE001  # a dataset that has been deleted, or a module that cannot be imported
        _refuse(channel, error)
    finally:
        os._exit(0)


def _refuse(channel: ObjectChannel, error: Exception) -> None:
    """Answer the work that comes with the reason why it cannot be done."""
    with suppress(OSError, EOFError):
        channel.receive()
        channel.send(sendable(error))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for the process that started this one
    main(int(sys.argv[1]), int(sys.argv[2]))
