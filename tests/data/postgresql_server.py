"""A real PostgreSQL server for tests, on a free port of the loopback interface, gone with its data afterwards."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import adbc_driver_postgresql.dbapi

ACCOUNT = "postgres"
"""The server refuses to run as root; this account comes with the package."""


def programs() -> Path | None:
    """The folder with the server's programs, if it is installed."""
    found = shutil.which("initdb")
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return Path(found).parent if found else installed[-1].parent if installed else None


@contextmanager
def server() -> Iterator[str]:
    """Run a server; yields the address of its database."""
    with tempfile.TemporaryDirectory(prefix="ganglion-postgresql-") as folder:
        yield from _running(Path(folder))


def _running(folder: Path) -> Iterator[str]:
    binaries = programs()
    assert binaries is not None
    account = {"user": ACCOUNT, "group": ACCOUNT} if os.geteuid() == 0 else {}
    if account:
        shutil.chown(folder, ACCOUNT, ACCOUNT)
    data, port = folder / "data", _free_port()

    def run(program: str, *arguments: str) -> None:
        command = [str(binaries / program), "-D", str(data), *arguments]
        with (folder / "output").open("ab") as output:  # a pipe would stay open as long as the server
            done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, cwd=folder, **account)
        assert done.returncode == 0, (folder / "output").read_text()

    run("initdb", "-U", "ganglion", "--auth=trust", "--encoding=UTF8", "--no-sync")
    settings = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    run("pg_ctl", "-o", settings, "-w", "-l", str(folder / "log"), "start")
    try:
        yield f"postgresql://ganglion@127.0.0.1:{port}/postgres"
    finally:
        run("pg_ctl", "-m", "immediate", "stop")


def execute(address: str, *statements: str) -> None:
    """Run statements, each in a transaction of its own."""
    with adbc_driver_postgresql.dbapi.connect(address, autocommit=True) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
