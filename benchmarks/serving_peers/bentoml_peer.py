"""BentoML, with as many workers as asked for."""

from __future__ import annotations

import os
import sys


def main(port: str, file: str, dtype: str, workers: str) -> None:
    """Serve."""
    os.environ |= {"MODEL": file, "DTYPE": dtype, "WORKERS": workers, "BENTOML_DO_NOT_TRACK": "True"}
    command = [sys.executable, "-m", "bentoml", "serve", "benchmarks.serving_peers.bentoml_service:Images"]
    os.execv(sys.executable, [*command, "--host", "127.0.0.1", "--port", port])


if __name__ == "__main__":
    main(*sys.argv[1:])
