"""A real Ray cluster for tests: two CPUs on this machine, with short paths, gone with all its processes at the end."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

OBJECT_STORE = 100 * 2**20


@contextmanager
def started(*options: str) -> Iterator[str]:
    """Start a head node; yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True) as folder:
        head = subprocess.Popen(
            [
                *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"),
                *("--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=2", "--include-dashboard=false"),
                *(f"--object-store-memory={OBJECT_STORE}", f"--temp-dir={folder}", *options),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": os.pathsep.join(sys.path)},
            start_new_session=True,
        )
        try:
            _await_answer(head, port)
            yield f"127.0.0.1:{port}"
        finally:
            _end(head)


def _await_answer(head: subprocess.Popen[bytes], port: int) -> None:
    """Ray's own client retries from here on."""
    deadline = time.monotonic() + 60
    while True:
        assert head.poll() is None, f"ray start ended with status {head.returncode}"
        assert time.monotonic() < deadline, "Ray did not start"
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)


def _end(head: subprocess.Popen[bytes]) -> None:
    parent = psutil.Process(head.pid)
    processes = [*parent.children(recursive=True), parent]
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=10)
    head.wait()
