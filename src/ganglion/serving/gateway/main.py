"""Entry of the gateway process: a socket, an event loop, and routes from the controller's messages."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvloop

from ganglion.core.config import convert
from ganglion.execution.member import Member, current_member
from ganglion.serving.gateway.acceptor import Acceptor
from ganglion.serving.gateway.access_log import AccessLog
from ganglion.serving.gateway.gateway import TICK, Gateway
from ganglion.serving.gateway.limits import HttpLimits
from ganglion.serving.gateway.siblings import Siblings
from ganglion.serving.gateway.tally import IN_HAND, Tally
from ganglion.serving.hanging import HANGING, hanging_to_data
from ganglion.serving.load import LOAD, loads_to_data
from ganglion.serving.port import take_port
from ganglion.serving.routes import SETTLED, Routes
from ganglion.serving.traffic import TRAFFIC, traffic_to_data

_GARBAGE = 50_000
"""Objects that are made before the garbage collector looks through the youngest."""


def serve(door: str, gateways: int = 1, limits: dict[str, Any] | None = None, access_log: str = "") -> None:
    """Entry of a gateway: take part in a port, say where, answer until drained.

    The controller sends `Routes` as plain data. When it is gone the last routes stay in force.

    Args:
        door: where the port is to be had: `SharedPort.door`.
        gateways: how many share it.
        limits: of client connections, by the names of `HttpLimits`.
        access_log: file to which a line is appended for each request; empty for none.
    """
    member = current_member()
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE)  # requests leave no cycles behind
    listener, counts = take_port(door)
    with listener:
        tally = Tally(counts, member.index)
        os.close(counts)
        chosen = convert(HttpLimits, limits or {}, where="limits of the gateway")
        log = AccessLog(Path(access_log)) if access_log else None
        siblings = Siblings(tally, Path(door).parent, gateways) if gateways > 1 else None
        uvloop.run(_serve(member, listener, chosen, log, tally, siblings))


async def _serve(
    member: Member,
    listener: socket.socket,
    limits: HttpLimits,
    log: AccessLog | None,
    tally: Tally,
    siblings: Siblings | None,
) -> None:
    loop = asyncio.get_running_loop()
    beating = loop.create_task(_beat(tally))
    gateway = Gateway(
        limits,
        settled=lambda generation: member.report({SETTLED: generation}),
        loads=lambda loads: member.report({LOAD: loads_to_data(loads)}),
        traffic=lambda traffic: member.report({TRAFFIC: traffic_to_data(traffic)}),
        access_log=log,
        siblings=siblings,
        hanging=lambda hanging: member.report({HANGING: hanging_to_data(hanging)}),
    )
    gateway.apply(Routes.from_data(await loop.run_in_executor(None, member.messages.get)))
    acceptor = Acceptor(  # not before it is known what is served
        loop, listener, gateway.http, lambda: len(gateway.http.connections), tally
    )
    drained = asyncio.Event()
    _follow(loop, "routes", lambda: member.messages.get(), lambda data: gateway.apply(Routes.from_data(data)))
    _follow(loop, "drain", lambda: member.draining.wait(), lambda _set: drained.set(), once=True)
    host, port = listener.getsockname()[:2]
    member.ready(f"tcp:{host}:{port}")
    await drained.wait()
    await acceptor.close()
    listener.close()
    gateway.http.drain()
    while gateway.http.connections:
        tally.put(IN_HAND, len(gateway.http.connections))
        await asyncio.sleep(TICK)
    tally.put(IN_HAND, 0)
    await gateway.close()
    beating.cancel()


async def _beat(tally: Tally) -> None:
    """Say again and again that the loop turns; once it is cancelled, nobody misses it."""
    try:
        while True:
            tally.beat(os.getpid(), time.monotonic_ns())
            await asyncio.sleep(TICK)
    finally:
        tally.beat(0, 0)


def _follow(
    loop: asyncio.AbstractEventLoop,
    name: str,
    wait: Callable[[], Any],
    take: Callable[[Any], None],
    *,
    once: bool = False,
) -> None:
    """Hand what a blocking call returns to the event loop, once or for ever, from a thread of its own."""

    def follow() -> None:
        while True:
            value = wait()
            if loop.is_closed():
                return
            loop.call_soon_threadsafe(take, value)
            if once:
                return

    threading.Thread(target=follow, name=name, daemon=True).start()
