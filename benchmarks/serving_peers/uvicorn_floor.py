"""A floor: an ASGI function that calls ONNX Runtime, under uvicorn with uvloop and httptools."""

from __future__ import annotations

import os
import sys
from typing import Any

import orjson
import uvicorn

from benchmarks.serving_peers.model import Predictor

_predictor: list[Predictor] = []


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer a prediction."""
    if scope["type"] != "http":
        return
    if not _predictor:
        _predictor.append(Predictor(os.environ["MODEL"], os.environ["DTYPE"]))
    message = await receive()
    body = message["body"]
    while message.get("more_body"):
        message = await receive()
        body += message["body"]
    predictions = _predictor[0].predict(orjson.loads(body)["instances"])
    answer = orjson.dumps({"predictions": predictions}, option=orjson.OPT_SERIALIZE_NUMPY)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


def main(port: str, file: str, dtype: str, workers: str) -> None:
    """Serve."""
    os.environ["MODEL"], os.environ["DTYPE"] = file, dtype
    uvicorn.run(
        "benchmarks.serving_peers.uvicorn_floor:application",
        host="127.0.0.1",
        port=int(port),
        workers=int(workers),
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
