"""Saving while the training goes on: it waits for a copy in memory, and a thread writes that to the disk."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from ganglion.core import faults
from ganglion.core.clock import Clock, SystemClock
from ganglion.core.errors import IntegrityError
from ganglion.core.log import get_logger
from ganglion.training.checkpoints import cadence
from ganglion.training.checkpoints.archive import Archive, write_file, write_plain
from ganglion.training.checkpoints.image import IdleMemory, Image, lay_out
from ganglion.training.checkpoints.manifest import Manifest, Progress, Recipe
from ganglion.training.checkpoints.reading import MODEL, REST, SUFFIX, forms_of
from ganglion.training.checkpoints.retention import best_of, kept
from ganglion.training.checkpoints.settings import Checkpointing
from ganglion.training.checkpoints.skeleton import take_apart


class Saver:
    """Saves the checkpoints of a training; in data-parallel training that is the chief's work alone.

    Args:
        settings: how often, and which are kept.
        recipe: of the training.
        seconds: that the training ran in earlier lives.
        losses: how often it lost all of its workers.
        clock: where time comes from.

    Attributes:
        problem: why the last checkpoint could not be saved; empty when it could.
        cost: seconds by which one made the training longer, on the average: the wait, and the processor's time of the
            thread.
    """

    def __init__(
        self,
        settings: Checkpointing,
        *,
        recipe: Recipe,
        seconds: float = 0.0,
        losses: int = 0,
        clock: Clock | None = None,
    ) -> None:
        self.archive = Archive(Path(settings.folder))
        self.problem = ""
        self.cost = 0.0
        self._count = 0
        self._settings = settings
        self._recipe = recipe
        self._clock = clock or SystemClock()
        self._before = seconds
        self._losses = losses
        self._began = self._last = self._clock.monotonic()
        self._metrics = self._measured()
        self._memory = IdleMemory()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._work: Future[None] | None = None

    def due(self, metrics: Mapping[str, float]) -> bool:
        """Whether a checkpoint should be saved now.

        Args:
            metrics: of exactly this state, if it has just been measured; the best so far is due at once.
        """
        if self._is_best(metrics):
            return True
        return self.settled() and self._clock.monotonic() - self._last >= self.interval

    @property
    def interval(self) -> float:
        """Seconds between two checkpoints."""
        settings = self._settings
        apart = cadence.failures_apart(settings.failures_apart, self._seconds(), self._losses)
        return cadence.interval(self.cost, apart, shortest=settings.shortest, longest=settings.longest)

    def save(self, state: Mapping[str, Any], progress: Progress, *, wait: bool = False) -> bool:
        """Copy the state; it may change when this returns.

        Memory for the copy is made beside the training, when it is first needed. That costs more than the copy, so the
        checkpoint is then left to one of the next steps, unless it is the best so far.

        Args:
            state: parts by name, as `skeleton.take_apart` has it; the part `model` has the tensors of the model.
            progress: where it stands.
            wait: until it is on the disk.

        Returns:
            Whether it was copied. If not, it is still due.

        Raises:
            ConfigurationError: something in the state cannot be saved.
        """
        wait_for_memory = wait or self._is_best(progress.metrics)
        if self._work is not None:
            if not (wait_for_memory or self._work.done()):
                return False
            self._work.result()
        began = time.perf_counter()
        rest, tensors = take_apart(state)
        layouts = {part: lay_out(found) for part, found in tensors.items()}
        room = sum(layout.room for layout in layouts.values())
        if not self._memory.fits(room):
            self._work = self._thread.submit(self._grow, room)
            if not wait_for_memory:
                return False
            self._work.result()
            if not self._memory.fits(room):
                return False
        images = {
            part: Image(layout, memory)
            for (part, layout), memory in zip(
                layouts.items(), self._memory.cut([layout.room for layout in layouts.values()]), strict=True
            )
        }
        for part, image in images.items():
            image.take(tensors[part])
        self._last = self._clock.monotonic()
        manifest = Manifest(
            progress=progress,
            recipe=self._recipe,
            model=forms_of(tensors.get(MODEL, {})),
            files=(),
            saved=self._clock.now(),
            seconds=self._seconds(),
            losses=self._losses,
        )
        self._work = self._thread.submit(self._write, images, rest, manifest, time.perf_counter() - began)
        if wait:
            self._work.result()
        return True

    def settled(self, wait: bool = False) -> bool:
        """Whether nothing is being written; `wait` until that is so."""
        if wait and self._work is not None:
            self._work.result()
        return self._work is None or self._work.done()

    def close(self) -> None:
        """Wait until the last checkpoint is on the disk."""
        self._thread.shutdown()
        if self._work is not None:
            self._work.result()

    def _seconds(self) -> float:
        """That the training has run, over all of its lives."""
        return self._before + self._clock.monotonic() - self._began

    def _measured(self) -> dict[int, dict[str, float]]:
        """What is known of the checkpoints that are there; damaged ones are nobody's best."""
        found = {}
        for step in self.archive.steps():
            with contextlib.suppress(IntegrityError):
                found[step] = self.archive.manifest(step).progress.metrics
        return found

    def _is_best(self, metrics: Mapping[str, float]) -> bool:
        newest = max(self._metrics, default=0) + 1
        return best_of({**self._metrics, newest: metrics}, self._settings) == newest

    # in the thread

    def _grow(self, room: int) -> None:
        try:
            self._memory.grow(room)
        except OSError as error:
            self._fail(f"there is no memory for a copy of the state ({room:,} bytes): {error.strerror}")

    def _write(self, images: Mapping[str, Image], rest: bytes, manifest: Manifest, waited: float) -> None:
        began = time.thread_time()
        step = manifest.progress.step
        try:
            with self.archive.writing():
                self._write_files(images, rest, manifest)
                self._prune(step, manifest.progress.metrics)
            self.problem = ""
            faults.point("training.checkpoint_saved", step=step)
        except OSError as error:
            self._fail(f"{error.strerror} ({error.filename or self.archive.folder})")
        self._count += 1
        self.cost += (waited + time.thread_time() - began - self.cost) / self._count

    def _write_files(self, images: Mapping[str, Image], rest: bytes, manifest: Manifest) -> None:
        step = manifest.progress.step
        folder = self.archive.begin(step)
        try:
            faults.point("training.checkpoint_write", step=step)
            files = [
                write_file(folder / f"{part}{SUFFIX}", image.finish(), image.layout.size)
                for part, image in images.items()
            ]
            files.append(write_plain(folder / REST, rest))
            self.archive.publish(folder, msgspec.structs.replace(manifest, files=tuple(files)))
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _prune(self, step: int, metrics: dict[str, float]) -> None:
        others = (other for other in self.archive.steps() if other < step)  # whoever left or paused may have saved one
        known: dict[int, dict[str, float]] = {**{other: {} for other in others}, **self._metrics, step: metrics}
        stay = kept(known, self._settings)
        for old in known.keys() - stay:
            self.archive.discard(old)
        self._metrics = {step: found for step, found in known.items() if step in stay}

    def _fail(self, problem: str) -> None:
        """Report a problem once, not with every checkpoint that it prevents."""
        if not self.problem:
            get_logger().warning(
                "a checkpoint could not be saved; the training goes on, earlier checkpoints are as they were",
                reason=problem,
                folder=str(self.archive.folder),
            )
        self.problem = problem
