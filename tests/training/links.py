"""Processes that meet over real sockets; each is a thread here."""

import socket
from concurrent.futures import ThreadPoolExecutor

from ganglion.execution.member import Peer


def listener(kind, folder, rank):
    if kind == "tcp":
        server = socket.create_server(("127.0.0.1", 0))
        return server, f"tcp:127.0.0.1:{server.getsockname()[1]}"
    path = str(folder / f"{rank}.sock")
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    return server, f"unix:{path}"


def roster(kind, folder, world):
    places = [listener(kind, folder, rank) for rank in range(world)]
    peers = [
        Peer(member=f"worker-{rank}", role="worker", index=rank, rank=rank, address="", endpoint=endpoint)
        for rank, (_, endpoint) in enumerate(places)
    ]
    return [server for server, _ in places], peers


def together(count, work):
    """Call `work(rank)` in a thread for each rank; the results, or the first error."""
    with ThreadPoolExecutor(count) as pool:
        return [future.result(timeout=20) for future in [pool.submit(work, rank) for rank in range(count)]]
