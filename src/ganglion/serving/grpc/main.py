"""Entry of the gRPC process: a server of gRPC that asks the gateway, until drained."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import grpc  # type: ignore[import-untyped]  # grpcio ships no types
import uvloop

from ganglion.core.config import convert
from ganglion.core.errors import ControlError
from ganglion.execution.member import Member, current_member
from ganglion.serving.gateway.limits import HttpLimits
from ganglion.serving.grpc.gateway_client import GatewayClient
from ganglion.serving.grpc.service import InferenceService

GRACE = 20.0
"""Seconds for calls in hand once the process is asked to end."""

_CALLS = 1024
"""Calls in hand at once; further ones are refused as RESOURCE_EXHAUSTED."""

_IDLE = 300.0


def serve(host: str, port: int, gateway_host: str, gateway_port: int, limits: dict[str, Any] | None = None) -> None:
    """Entry of the gRPC process: bind, say where, answer until drained.

    Args:
        host: address to bind.
        port: port to bind; it may be held by a socket that does not listen.
        gateway_host: where the gateway answers.
        gateway_port: where the gateway answers.
        limits: the gateway's; `body` holds for a message, `bodies` for all at once, `head` for metadata.

    Raises:
        ControlError: the port cannot be bound.
    """
    chosen = convert(HttpLimits, limits or {}, where="limits of the gateway")
    uvloop.run(_serve(current_member(), host, port, GatewayClient(gateway_host, gateway_port), chosen))


async def _serve(member: Member, host: str, port: int, gateway: GatewayClient, limits: HttpLimits) -> None:
    server = grpc.aio.server(
        options=(
            ("grpc.max_receive_message_length", limits.body),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", limits.head),
            ("grpc.max_connection_idle_ms", int(1000 * _IDLE)),
            ("grpc.so_reuseport", 1),
        ),
        maximum_concurrent_rpcs=_CALLS,
    )
    server.add_generic_rpc_handlers((InferenceService(gateway, limits).handler(),))
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        server.add_insecure_port(address)
    except RuntimeError as error:
        raise ControlError(f"gRPC cannot be served at {address}: {error}.") from error
    await server.start()
    drained = asyncio.Event()
    _when_draining(member, asyncio.get_running_loop(), drained)
    member.ready(f"tcp:{host}:{port}")
    await drained.wait()
    await server.stop(GRACE)
    gateway.close()


def _when_draining(member: Member, loop: asyncio.AbstractEventLoop, drained: asyncio.Event) -> None:
    def follow() -> None:
        member.draining.wait()
        if not loop.is_closed():
            loop.call_soon_threadsafe(drained.set)

    threading.Thread(target=follow, name="drain", daemon=True).start()
