"""A floor: an RSGI function that calls ONNX Runtime, under Granian, whose HTTP is written in Rust."""

from __future__ import annotations

import os
import sys
from typing import Any

import orjson
from granian import Granian
from granian.constants import Interfaces, Loops

from benchmarks.serving_peers.model import Predictor

_predictor: list[Predictor] = []


async def application(scope: Any, protocol: Any) -> None:
    """Answer a prediction."""
    if not _predictor:
        _predictor.append(Predictor(os.environ["MODEL"], os.environ["DTYPE"]))
    predictions = _predictor[0].predict(orjson.loads(await protocol())["instances"])
    answer = orjson.dumps({"predictions": predictions}, option=orjson.OPT_SERIALIZE_NUMPY)
    protocol.response_bytes(200, [("content-type", "application/json")], answer)


def main(port: str, file: str, dtype: str, workers: str) -> None:
    """Serve."""
    os.environ["MODEL"], os.environ["DTYPE"] = file, dtype
    Granian(
        "benchmarks.serving_peers.granian_floor:application",
        address="127.0.0.1",
        port=int(port),
        workers=int(workers),
        interface=Interfaces.RSGI,
        loop=Loops.uvloop,
        log_enabled=False,
        respawn_failed_workers=True,
    ).serve()


if __name__ == "__main__":
    main(*sys.argv[1:])
