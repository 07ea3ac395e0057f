"""A peer's program, driven from the measuring process."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.data.peers.environments import ENVIRONMENTS

ROOT = Path(__file__).resolve().parents[3]
"""The folder that `benchmarks` lies in."""


OURS = "ganglion"
"""The program that runs Ganglion and the floors, with the interpreter that measures."""


class PeerFailedError(Exception):
    """The peer's program answered with an error, ended, or did not answer; says which."""


class PeerHungError(PeerFailedError):
    """The peer's program did not answer in time."""


class PeerProcess:
    """One peer's program, from the making of its environment to its end.

    Attributes:
        name: of the peer.
        versions: of its packages.
        ways: its ways through an elastic epoch.

    Args:
        name: one of `ENVIRONMENTS`, or `OURS`; also the module of the program.
        folder: for the peer's files and its log; each peer has a folder of its own below it.
        files: what `Peer.files` says.
        batches: the batch sizes that grids are asked for.

    Raises:
        NotInstallableError: the environment cannot be made.
        PeerFailedError: the program cannot start.
    """

    def __init__(self, name: str, folder: Path, files: dict[str, Path], batches: Sequence[int]) -> None:
        python = Path(sys.executable) if name == OURS else ENVIRONMENTS[name].python()
        own = folder / name
        own.mkdir(parents=True, exist_ok=True)
        self.name, self.log = name, own / "log"
        surroundings = {
            key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"
        }  # the grid's matter
        surroundings |= {"PYTHONPATH": str(ROOT), "TMPDIR": str(own), "TF_CPP_MIN_LOG_LEVEL": "2"}
        self._log = self.log.open("wb")
        self._process = subprocess.Popen(
            [str(python), "-m", f"benchmarks.data.peers.{name}"],
            cwd=ROOT,
            env=surroundings,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,
        )
        try:
            ready = self._ask(
                600.0,
                do="prepare",
                folder=str(own / "files"),
                files={name: str(path) for name, path in files.items()},
                batches=list(batches),
            )
        except PeerFailedError:
            self.close()
            raise
        self.versions: dict[str, str] = ready["versions"]
        self.ways: list[str] = ready["ways"]
        self._grid: dict[str, dict[str, list[dict[str, Any]]]] = ready["grid"]

    def grid(self, what: str, batch: int) -> list[dict[str, Any]]:
        """The configurations worth trying; none where the peer has no way to do it."""
        return self._grid[what][str(batch)]

    def measure(
        self, what: str, batch: int, configuration: dict[str, Any], seconds: float, limit: float
    ) -> dict[str, Any]:
        """Measure one configuration once.

        Args:
            what: `images`, `parquet` or `csv`.
            batch: records of a batch.
            configuration: one of the grid.
            seconds: whole epochs are run until these are over.
            limit: seconds after which an epoch is broken off.

        Returns:
            `seconds`, `records` and complete `epochs`.

        Raises:
            PeerFailedError: it went wrong.
        """
        return self._ask(
            5 * limit + 120.0,
            do="measure",
            what=what,
            batch=batch,
            configuration=configuration,
            seconds=seconds,
            limit=limit,
        )

    def elastic(
        self, way: str, schedule: Sequence[tuple[int, int | None]], records: int, batch: int, patience: float
    ) -> list[dict[str, Any]]:
        """Run an elastic epoch; the phases, as `Phase` says.

        Raises:
            PeerHungError: it did not end within `patience` seconds.
            PeerFailedError: it went wrong otherwise.
        """
        answer = self._ask(patience, do="elastic", way=way, schedule=list(schedule), records=records, batch=batch)
        phases: list[dict[str, Any]] = answer["phases"]
        return phases

    def close(self) -> None:
        """End the program, and after half a minute whatever is left of it."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(30.0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # its session, with workers that outlived it
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, patience: float, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise PeerFailedError(f"{self.name} has ended: {self._last_words()}") from error
        line, end = b"", time.monotonic() + patience
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise PeerHungError(f"{self.name} did not answer within {patience:.0f} s.")
            piece = os.read(self._process.stdout.fileno(), 2**20)
            if not piece:
                raise PeerFailedError(f"{self.name} has ended: {self._last_words()}")
            line += piece
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PeerFailedError(answer["error"])
        return answer

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it wrote nothing"
