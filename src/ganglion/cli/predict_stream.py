"""`ganglion predict --stdin`: JSON lines in, JSON lines out, in order and without delay."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import orjson

from ganglion.cli.predict_answers import best_class, served_version
from ganglion.core.errors import GanglionError
from ganglion.platform import Platform

_CHUNK = 2**16


def predict_stdin(model: str, *, url: str | None, batch: int | None, max_bad: int | float) -> int:
    """Predict the lines of standard input until it ends; an answer is written as soon as it is there.

    Args:
        model: `name`, `name:version` or, without a service, `name:alias`.
        url: of a service; `None` loads the model into this process.
        batch: lines that the model is given at once, at most.
        max_bad: lines that may be bad: a count, or as a float a share.

    Returns:
        The exit code: 1 where more lines are bad than tolerated.
    """
    from ganglion.serving.service_stream import ServedModel
    from ganglion.serving.stream import BATCH, EmbeddedModel, Instance, StreamModel, predict_documents

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    size = batch or BATCH
    with ExitStack() as stack:
        if url is not None:
            name, version = served_version(model)
            predictor: StreamModel = stack.enter_context(ServedModel(url, name, version, batch=size))
        else:
            with Platform() as platform:
                name, number = platform.repository.resolve(model)
                folder = platform.repository.path(name, number)
            predictor = stack.enter_context(EmbeddedModel(folder, batch=size))
        lines = bad = 0
        documents = (Instance(number, line) for number, line in _lines(0) if line.strip())
        for answer in predict_documents(predictor, documents):
            lines, bad = lines + 1, bad + bool(answer.error)
            shown: dict[str, Any] = {"line": answer.number}
            if answer.error:
                shown["error"] = answer.error
            else:
                shown["prediction"] = answer.prediction
                found = best_class(answer.prediction, predictor.classes)
                shown |= {} if found is None else {"class": found}
            _write(orjson.dumps(shown) + b"\n")
    tolerated = max_bad * lines if isinstance(max_bad, float) else max_bad
    if bad > tolerated:
        sys.stderr.write(f"{bad} of {lines} lines were bad.\n")
        return 1
    return 0


class ReaderGoneError(GanglionError):
    """Nobody reads the answers any more."""


def _write(line: bytes) -> None:
    """Write all of a line, at once and past every buffer."""
    try:
        while line:
            line = line[os.write(1, line) :]
    except BrokenPipeError as error:
        raise ReaderGoneError("Nobody reads the answers any more.") from error


def _lines(descriptor: int) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers from 1, each as soon as it is complete; a file object would wait with a lock held."""
    number, rest = 1, b""
    while chunk := os.read(descriptor, _CHUNK):
        *complete, rest = (rest + chunk).split(b"\n")
        for line in complete:
            yield number, line
            number += 1
    if rest:
        yield number, rest
