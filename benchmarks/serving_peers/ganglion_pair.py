"""Ours with `fused` and a gateway for each of two cores: they compute what is short themselves."""

from __future__ import annotations

import sys

from benchmarks.serving_peers.ganglion_server import main

if __name__ == "__main__":
    main(*sys.argv[1:], "--fused", "--gateways", "2")
