"""The port of a service, held for as long as the service exists while processes that listen on it come and go."""

from __future__ import annotations

import socket

from ganglion.core.errors import UserError


def hold_port(host: str, port: int) -> socket.socket:
    """Bind a port without listening; processes that set `SO_REUSEPORT` can listen on it.

    Args:
        host: an address of this machine.
        port: 0 chooses a free one.

    Raises:
        UserError: the port is taken or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    holder = socket.socket(family, socket.SOCK_STREAM)
    try:
        if port:
            with socket.create_server((host, port), family=family):
                pass  # nobody else listens there, not even somebody who would share it
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind((host, port))
    except OSError as error:
        holder.close()
        raise UserError(
            f"Cannot serve at {host}:{port}: {error.strerror}. Give another port, or 0 for a free one."
        ) from error
    return holder
