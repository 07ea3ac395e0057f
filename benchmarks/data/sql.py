"""A table of PostgreSQL read in parallel, at rest and while others write: `python -m benchmarks.data.sql [--json]`.

Ours beside connectorx and Ray Data's `read_sql`, and beside the floor: one binary COPY of the whole table into Arrow
on one connection. While others write, rows are moved along the key that the readers divide the table by; every row
carries a number that never changes, by which lost and duplicated ones are counted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import adbc_driver_postgresql.dbapi
import numpy as np
from tests.data.postgresql_server import execute, server

from benchmarks.data.peers import sql as peer_program
from benchmarks.data.peers.environments import ENVIRONMENTS
from benchmarks.harness import Case, environment, measure, show
from ganglion.data.records.bad_record import refuse
from ganglion.data.sources.sql import SqlSource

PEERS = {name: ENVIRONMENTS[name] for name in ("connectorx", "ray")}
COLUMNS = 8
READERS = 2
PARTITIONS = 10


class Peer:
    """A peer's program."""

    def __init__(self, name: str, address: str) -> None:
        command = [
            str(PEERS[name].python()),
            "-P",
            peer_program.__file__,
            name,
            address,
            "people",
            "id",
            str(PARTITIONS),
        ]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def read(self, rows: int) -> dict[str, Any]:
        """Read the table once."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{rows}\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        """End the program."""
        self._process.communicate()


def read_ours(address: str, rows: int) -> dict[str, Any]:
    """Take a snapshot and read its units by threads; Arrow and the driver leave Python's lock alone."""
    begin = time.perf_counter()
    source = SqlSource(database=address, table="people", key="id")
    with source.snapshot() as still, ThreadPoolExecutor(READERS) as readers:
        units = still.units()
        divided = time.perf_counter()

        def read(unit: Any) -> Any:
            return np.concatenate([batch.columns["person"] for batch in still.read_unit(unit, 2**24, refuse)])

        people = np.concatenate(list(readers.map(read, units)))
    end = time.perf_counter()
    seen = np.bincount(people, minlength=rows)[:rows]
    lost, duplicated = int((seen == 0).sum()), int((seen > 1).sum())
    return {"seconds": end - begin, "reading": end - divided, "lost": lost, "duplicated": duplicated}


def read_floor(address: str) -> float:
    """Seconds for the whole table on one connection."""
    begin = time.perf_counter()
    with adbc_driver_postgresql.dbapi.connect(address) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT * FROM people")
        cursor.fetch_arrow_table()
    return time.perf_counter() - begin


@contextlib.contextmanager
def writers(address: str, rows: int) -> Iterator[None]:
    """Meanwhile, move rows from the beginning of the key to its end, and change and add others."""
    stop = threading.Event()

    def write() -> None:
        moved = 0
        while not stop.is_set():
            execute(
                address,
                f"UPDATE people SET id = id + {10 * rows} WHERE id BETWEEN {moved * 500} AND {moved * 500 + 499}",
                f"UPDATE people SET c0 = c0 + 1 WHERE person % 1000 = {moved % 1000}",
                f"INSERT INTO people SELECT -n - {moved * 100}, {rows + moved * 100} + n, {', '.join(['0'] * COLUMNS)} "
                "FROM generate_series(1, 100) n",
            )
            moved += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def fill(address: str, rows: int) -> None:
    """Make the table."""
    columns = ", ".join(f"c{number} float8" for number in range(COLUMNS))
    values = ", ".join(["random()"] * COLUMNS)
    execute(
        address,
        f"CREATE TABLE people (id bigint PRIMARY KEY, person bigint, {columns})",
        f"INSERT INTO people SELECT n, n, {values} FROM generate_series(0, {rows - 1}) n",
        "ANALYZE people",
    )


def main(arguments: list[str] | None = None) -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data.sql", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("--rows", type=int, default=10**6)
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args(arguments)
    with server() as address, contextlib.ExitStack() as stack:
        fill(address, options.rows)
        peers = {name: Peer(name, address) for name in PEERS}
        for peer in peers.values():
            stack.callback(peer.close)

        def seconds(name: str) -> float:
            return float(peers[name].read(options.rows)["seconds"])

        cases = [
            Case(name="one COPY of the whole table (floor)", run=lambda: read_floor(address)),
            Case(
                name="ours: snapshot, key ranges, a digest of every unit",
                run=lambda: float(read_ours(address, options.rows)["seconds"]),
                against="one COPY of the whole table (floor)",
            ),
        ]
        cases += [
            Case(
                name="ours: reading alone",
                run=lambda: float(read_ours(address, options.rows)["reading"]),
                against="one COPY of the whole table (floor)",
            )
        ]
        cases += [Case(name=name, run=lambda name=name: seconds(name), against=cases[1].name) for name in peers]
        measurements = measure(cases, options.repetitions)
        context = environment(["ganglion", "adbc-driver-postgresql"]) | {"rows": options.rows}
        context |= {f"{name} (peer)": PEERS[name].version for name in peers}
        with writers(address, options.rows):
            for name in ("ours", *peers):
                read = peers[name].read if name in peers else lambda rows: read_ours(address, rows)
                found = [read(options.rows) for _ in range(options.repetitions)]
                lost, duplicated = (sum(one[what] for one in found) for what in ("lost", "duplicated"))
                context[f"{name}, {len(found)} times while others write"] = f"{lost} lost, {duplicated} duplicated"
    show(f"data: {options.rows:,} rows of PostgreSQL", measurements, context, as_json=options.json)


if __name__ == "__main__":
    main()
