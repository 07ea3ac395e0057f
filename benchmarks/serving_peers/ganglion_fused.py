"""Ours with `fused`: the gateway holds the model as well, and answers lone requests itself."""

from __future__ import annotations

import sys

from benchmarks.serving_peers.ganglion_server import main

if __name__ == "__main__":
    main(*sys.argv[1:], "--fused")
