"""Entry of the gateway process: a socket, an event loop, and routes from the controller's messages."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
from collections.abc import Callable
from typing import Any

import uvloop

from ganglion.core.config import convert
from ganglion.execution.member import Member, current_member
from ganglion.serving.gateway.gateway import TICK, Gateway
from ganglion.serving.gateway.limits import HttpLimits
from ganglion.serving.routes import SETTLED, Routes

_BACKLOG = 1024
_GARBAGE = 50_000
"""Objects that are made before the garbage collector looks through the youngest."""


def serve(host: str = "127.0.0.1", port: int = 0, limits: dict[str, Any] | None = None) -> None:
    """Entry of a gateway: bind, say where, answer until drained.

    The controller sends `Routes` as plain data. When it is gone the last routes stay in force.

    Args:
        host: address to bind.
        port: port to bind; 0 chooses a free one. Several gateways can share one.
        limits: of client connections, by the names of `HttpLimits`.
    """
    member = current_member()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE)  # requests leave no cycles behind
    with socket.create_server((host, port), family=family, backlog=_BACKLOG, reuse_port=True) as listener:
        chosen = convert(HttpLimits, limits or {}, where="limits of the gateway")
        uvloop.run(_serve(member, listener, chosen))


async def _serve(member: Member, listener: socket.socket, limits: HttpLimits) -> None:
    loop = asyncio.get_running_loop()
    gateway = Gateway(limits, settled=lambda generation: member.report({SETTLED: generation}))
    server = await loop.create_server(gateway.http, sock=listener)
    drained = asyncio.Event()
    _follow(loop, "routes", lambda: member.messages.get(), lambda data: gateway.apply(Routes.from_data(data)))
    _follow(loop, "drain", lambda: member.draining.wait(), lambda _set: drained.set(), once=True)
    host, port = listener.getsockname()[:2]
    member.ready(f"tcp:{host}:{port}")
    await drained.wait()
    server.close()
    gateway.http.drain()
    while gateway.http.connections:
        await asyncio.sleep(TICK)
    await gateway.close()
    await server.wait_closed()


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
