"""Requests that ended two replicas, kept for whoever wants to know why: one file each, readable by their owner only.

A file is NumPy's `.npz`: the inputs under their names (text as the bytes of JSON, so that nothing is pickled), encoded
images as bytes under `image-0` and so on, and under `about` a JSON text that says when and of which model. The folder
is bounded: what does not fit any more is only logged, so that the first ones, from before somebody looked, stay.
"""

from __future__ import annotations

import io
import os
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from ganglion.core.log import get_logger
from ganglion.serving.payload import Payload

MOST_FILES = 100
MOST_BYTES = 256 * 2**20
"""What is kept in one folder."""

_log = get_logger(part="serving.quarantine")


class Quarantine:
    """A folder of requests.

    Args:
        folder: made when the first one comes.
        most_files: kept at most.
        most_bytes: kept at most.
    """

    def __init__(self, folder: Path, most_files: int = MOST_FILES, most_bytes: int = MOST_BYTES) -> None:
        self._folder = folder
        self._most_files = most_files
        self._most_bytes = most_bytes

    def keep(self, payload: Payload, *, model: str, version: int, reason: str) -> Path | None:
        """Write what a request holds; the log says where. Blocks: call it from a thread of its own.

        Args:
            payload: its instances.
            model: that it was for.
            version: of the model.
            reason: why it is kept.

        Returns:
            The file; `None` where it does not fit any more or cannot be written.
        """
        now = datetime.now(UTC)
        about = {"time": now, "model": model, "version": version, "instances": payload.rows, "reason": reason}
        names = () if payload.images else payload.tensors or [name for name, _dtype, _shape in payload.kind]
        arrays = {name: _plain(payload.column(name)) for name in names}
        arrays |= {f"image-{number}": np.frombuffer(image, np.uint8) for number, image in enumerate(payload.images)}
        content = io.BytesIO()
        np.savez(content, about=np.array(orjson.dumps(about).decode()), **arrays)  # type: ignore[arg-type]  # its stub takes the names for its own options
        path = self._folder / f"{now:%Y%m%dT%H%M%S}-{model}-{version}-{secrets.token_hex(4)}.npz"
        try:
            kept = self._write(path, content.getvalue())
        except OSError as error:
            _log.error("quarantine_failed", path=str(path), error=str(error))
            return None
        _log.error("request_quarantined", path=str(path) if kept else "the folder is full", **_shown(about))
        return path if kept else None

    def _write(self, path: Path, content: bytes) -> bool:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        sizes = [entry.stat().st_size for entry in os.scandir(self._folder)]
        if len(sizes) + 1 > self._most_files or sum(sizes) + len(content) > self._most_bytes:
            return False
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        return True


def _plain(values: NDArray[Any]) -> NDArray[Any]:
    return np.frombuffer(orjson.dumps(values.tolist()), np.uint8) if values.dtype.kind == "O" else values


def _shown(about: dict[str, object]) -> dict[str, object]:
    return {name: about[name] for name in ("model", "version", "instances", "reason")}
