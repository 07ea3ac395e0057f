"""Ray Serve as in `ray_peer`, with the HAProxy that it brings along in front of the replicas, not its own proxy."""

from __future__ import annotations

import os
import sys

os.environ["RAY_SERVE_ENABLE_HA_PROXY"] = "1"

from benchmarks.serving_peers.ray_peer import main

if __name__ == "__main__":
    main(*sys.argv[1:])
