"""What an elastic server writes for the benchmark to read: when it had how many replicas."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable

_INTERVAL = 0.05


def tell_replicas(count: Callable[[], int], ended: threading.Event) -> None:
    """Write a line with wall time and number whenever it changes, until the end."""
    before = -1
    while not ended.wait(_INTERVAL):
        now = count()
        if now != before:
            before = now
            sys.stdout.write(json.dumps({"at": time.time(), "replicas": now}) + "\n")
            sys.stdout.flush()
