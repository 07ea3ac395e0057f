"""Reading a table of PostgreSQL with connectorx or Ray Data, each in the partitioned way that its documentation shows.

    python sql.py connectorx|ray ADDRESS TABLE KEY PARTITIONS

For each line on standard input the table is read once; the answer is a line of JSON: seconds, rows, and how many values
of the column `person` were seen never or twice, of those from 0 to the number in the line.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import numpy as np


def read_with_connectorx(address: str, table: str, key: str, partitions: int) -> Any:
    """Ranges of the key between its least and largest value, read by connections of their own."""
    import connectorx

    query = f"SELECT * FROM {table}"
    found = connectorx.read_sql(address, query, partition_on=key, partition_num=partitions, return_type="arrow")
    return found.column("person").to_numpy()


def read_with_ray(address: str, table: str, key: str, partitions: int) -> Any:
    """Shards by a hash of the key, read by tasks of their own."""
    import psycopg2
    import ray

    read = ray.data.read_sql(
        f"SELECT * FROM {table}",
        lambda: psycopg2.connect(address),
        shard_keys=[key],
        shard_hash_fn="abs",
        override_num_blocks=partitions,
    )
    return np.concatenate([batch["person"] for batch in read.iter_batches(batch_size=None)])


def main(peer: str, address: str, table: str, key: str, partitions: str) -> None:
    """Answer requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    if peer == "ray":
        import ray

        ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
        ray.data.DataContext.get_current().enable_progress_bars = False
    read = {"connectorx": read_with_connectorx, "ray": read_with_ray}[peer]
    for line in sys.stdin:
        begin = time.perf_counter()
        people = read(address, table, key, int(partitions))
        seconds = time.perf_counter() - begin
        seen = np.bincount(people, minlength=int(line))[: int(line)]
        answer = {"seconds": seconds, "rows": len(people), "lost": int((seen == 0).sum())}
        answers.write(json.dumps(answer | {"duplicated": int((seen > 1).sum())}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
