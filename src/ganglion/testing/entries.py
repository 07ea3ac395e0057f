"""Entries that the contract suite runs: small programs that succeed, fail, hang, serve and find each other."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from ganglion.execution.member import current_member


def add(a: int, b: int) -> int:
    """Return the sum."""
    return a + b


def identity() -> dict[str, Any]:
    """Return who this process is, with the environment that a framework would read."""
    member = current_member()
    names = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "TF_CONFIG")
    jax = ("JAX_COORDINATOR_ADDRESS", "JAX_PROCESS_ID", "JAX_NUM_PROCESSES")
    return {
        "pid": os.getpid(),
        "name": member.name,
        "role": member.role,
        "rank": member.rank,
        "world_size": member.world_size,
        "attempt": member.attempt,
        "environment": {name: os.environ.get(name, "") for name in names + jax},
    }


def environment(name: str) -> str | None:
    """Return one variable of the environment."""
    return os.environ.get(name)


def loaded(module: str) -> bool:
    """Whether a module was imported before the entry was called."""
    return module in sys.modules


def fail(message: str) -> NoReturn:
    """Raise."""
    raise ValueError(message)


def leave(code: int) -> NoReturn:
    """Exit with a status the polite way."""
    sys.exit(code)


def vanish(code: int) -> NoReturn:
    """Exit with a status without a word."""
    os._exit(code)


def kill_self(number: int) -> None:
    """End by a signal."""
    os.kill(os.getpid(), number)
    time.sleep(60)


def allocate(amount: int) -> int:
    """Fill `amount` bytes of memory."""
    block = bytearray(amount)
    block[::4096] = b"x" * len(block[::4096])
    return len(block)


def unserialisable() -> object:
    """Return something that is not plain data."""
    return object()


def wait_forever(mark: str = "") -> None:
    """Report the pids of this process and of a child, then sleep for ever; on a polite end touch `mark`."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        current_member().report({"pids": [os.getpid(), child.pid]})
        time.sleep(600)
    finally:
        if mark:
            Path(mark).touch()


def ignore_stop() -> None:
    """Ignore every polite request to end."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    wait_forever()


def write_lines(count: int, label: str) -> None:
    """Write numbered lines, alternating between standard output and standard error."""
    for number in range(count):
        stream = sys.stderr if number % 2 else sys.stdout
        stream.write(f"{label} {number}\n")
        stream.flush()


def meet() -> list[str]:
    """Find the peers as `torch.distributed` would: the first rank listens at the meeting point, the others come."""
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if rank > 0:
        for _ in range(200):
            try:
                with socket.create_connection(address, timeout=10) as client:
                    client.sendall(f"rank {rank}".encode())
                return []
            except ConnectionRefusedError:
                time.sleep(0.02)
        raise TimeoutError("the first rank did not listen")
    seen = []
    with socket.create_server(address) as server:
        for _ in range(world - 1):
            client, _ = server.accept()
            with client:
                seen.append(client.recv(64).decode())
    return sorted(seen)


def fail_on(rank: int, attempts: int = 10**6) -> int:
    """One rank exits with status 1 while its attempt is at most `attempts`; the others wait for it for ever."""
    member = current_member()
    if member.attempt <= attempts:
        if member.rank == rank:
            sys.exit(1)
        time.sleep(600)
    return member.attempt


def work_or_serve() -> str:
    """Parameter servers serve for ever, workers return at once."""
    if current_member().role == "ps":
        time.sleep(600)
    return json.loads(os.environ["TF_CONFIG"])["task"]["type"]  # type: ignore[no-any-return]  # it is text


def await_membership(generation: int) -> dict[str, Any]:
    """Wait for a membership at least as new; one rank that starts for the first time kills itself to cause it."""
    member = current_member()
    if member.rank == 1 and member.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    while member.membership.generation < generation:
        time.sleep(0.005)
    return {"attempt": member.attempt, "generation": member.membership.generation}


def count_members(wanted: int) -> int:
    """Wait until the gang has grown to `wanted` members; return how many there were at the start."""
    member = current_member()
    first = member.world_size
    while member.world_size < wanted:
        time.sleep(0.005)
    return first


def serve_pid() -> None:
    """A replica: answers every connection with its name and pid, until it is drained."""
    member = current_member()
    server, endpoint = member.listen()
    server.settimeout(0.05)
    member.ready(endpoint)
    while not member.draining.is_set():
        try:
            client, _ = server.accept()
        except TimeoutError:
            continue
        with client:
            client.sendall(f"{member.name} {os.getpid()}".encode())
    server.close()


def never_ready() -> None:
    """A replica that does not get ready."""
    time.sleep(600)


def echo_message() -> Any:
    """Return the first message that the controller sends."""
    return current_member().messages.get()


def report_steps(count: int) -> None:
    """Report `count` values, numbered."""
    for step in range(count):
        current_member().report({"step": step})


def hold(seconds: float) -> tuple[float, float]:
    """Occupy the resources for a while; return the wall times of begin and end."""
    begin = time.time()
    time.sleep(seconds)
    return begin, time.time()
