"""What `ganglion serve` says: that a model loads and for how long it took, then where and how it can be asked.

Nothing but ANSI, so that a service does not carry a library for its first ten lines. A service goes on when nobody
reads what it says: its output may be closed, and a terminal may go away.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec

_PATIENCE = 0.3
"""Seconds of a load after which a terminal begins to show how long it takes."""

_INTERVAL = 0.1
_EXAMPLES = 3
"""Models of which it is said how they are asked; of more, their pages say it."""

_TURNING = "|/-\\"
_BOLD, _DIM, _GREEN, _PLAIN, _NEW_LINE = "\x1b[1m", "\x1b[2m", "\x1b[32m", "\x1b[0m", "\r\x1b[2K"


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """A model that is served.

    Attributes:
        name: of the model.
        version: that answers.
        example: a command that asks it.
    """

    name: str
    version: int
    example: str


class Announcer:
    """Writes to standard output, lines for people or one JSON document.

    Args:
        json: whether a program reads: it is told once what is served, and nothing else.
    """

    def __init__(self, *, json: bool = False) -> None:
        self._json = json
        on_terminal = sys.stdout is not None and sys.stdout.isatty()
        self._lively = not json and on_terminal and os.environ.get("TERM") != "dumb"
        self._coloured = self._lively and not os.environ.get("NO_COLOR")
        self._guard = threading.Lock()

    @contextmanager
    def loading(self, model: str) -> Iterator[None]:
        """Say that a model loads, and at the end of the block that it is ready; on a terminal, how long it takes.

        Args:
            model: its name and version.
        """
        begun, over = time.monotonic(), threading.Event()

        def turn() -> None:
            count = 0
            while not over.wait(_INTERVAL if count else _PATIENCE):
                head = f"{_TURNING[count % len(_TURNING)]} loading {model} "
                seconds = f"{time.monotonic() - begun:.0f} s"
                head = head[: max(0, _width() - len(seconds))]
                # the cursor is left where the line begins: what a log writes meanwhile does not begin in its middle
                self._write(f"{_NEW_LINE}{head}{self._styled(_DIM, seconds)}\r")
                count += 1

        turning = threading.Thread(target=turn, name="ganglion-loading", daemon=True)
        try:
            if self._lively:
                self._write(f"loading {model} ..."[: _width()] + "\r")
                turning.start()
            else:
                self.say(f"loading {model} ...")
            yield
        finally:
            over.set()
            if turning.is_alive():
                turning.join()
            if self._lively:
                self._write(_NEW_LINE)
        self.say(f"{self._styled(_GREEN, model)} ready in {time.monotonic() - begun:.1f} s")

    def ready(self, url: str, grpc: str | None, models: Sequence[Served], *, limited: bool) -> None:
        """Say what is served where, how it is asked, and how it is ended.

        Args:
            url: of REST and of the page.
            grpc: address of the Open Inference Protocol over gRPC, if it is answered.
            models: that are served, at least one.
            limited: whether callers are.
        """
        if self._json:
            served = [{"name": model.name, "version": model.version} for model in models]
            document = {"url": url, "grpc": grpc, "models": served, "pid": os.getpid()}
            self._write(msgspec.json.encode(document).decode() + "\n")
            return
        lines = [
            ("page", f"{url}/"),
            *(("ask", model.example) for model in models[:_EXAMPLES]),
            *([("gRPC", grpc)] if grpc is not None else []),
            *([("keys", "callers are limited; 'ganglion keys list' shows how")] if limited else []),
            ("change", "ganglion services (from another terminal)"),
        ]
        names = ", ".join(f"{model.name}:{model.version}" for model in models)
        shown = [f"  {self._styled(_DIM, f'{word:<8}')}{text}\n" for word, text in lines]
        self._write(f"\nServing {names} at {self._styled(_BOLD, url)} until Ctrl-C\n\n{''.join(shown)}\n")

    def say(self, line: str) -> None:
        """Write a line for a person."""
        if not self._json:
            self._write(f"{line}\n")

    def _styled(self, style: str, text: str) -> str:
        return f"{style}{text}{_PLAIN}" if self._coloured else text

    def _write(self, text: str) -> None:
        with self._guard:
            try:
                if sys.stdout is not None:
                    sys.stdout.write(text)
                    sys.stdout.flush()
            except (OSError, ValueError):  # nobody reads any more, and requests are still answered
                _say_nothing_more()


def _width() -> int:
    """Characters that a line may have and still be overwritten: one that is full may go on in the next one."""
    return shutil.get_terminal_size().columns - 1


def _say_nothing_more() -> None:
    """Let standard output lead nowhere, so that what is in its buffer troubles nobody at the end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
