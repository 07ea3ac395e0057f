"""A source and a model that are slow on purpose, for training workers to import by path."""

from __future__ import annotations

import mmap
import os
import random
import resource
import time
from pathlib import Path

import numpy as np
from torch import nn

from ganglion.training import Callback


def waits(seconds):
    """Wait for something that is no work: here, for time itself."""
    time.sleep(seconds)


def burn(seconds):
    """Use the processor."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


class Points:
    """Batches of points, each a function of epoch and step, that take their time."""

    def __init__(self, *, steps=20, batch=16, sleep=0.0, global_batch=None):
        self.global_batch = global_batch or batch
        self.count, self.steps_per_epoch = steps * self.global_batch, steps
        self._sleep = sleep

    def batches(self, epoch, *, first, last, of, start=0):
        for step in range(start, self.steps_per_epoch):
            points = np.random.default_rng((epoch, step)).normal(size=(self.global_batch, 8)).astype(np.float32)
            waits(self._sleep)
            part = slice(first * self.global_batch // of, last * self.global_batch // of)
            yield {"point": points[part], "label": (points[part].sum(1) > 0).astype(np.int64)}


class Network(nn.Module):
    """A dense layer beside which the processor is used, or pages of a file are read that were dropped before."""

    def __init__(self, *, work=0.0, table="", pages=0):
        super().__init__()
        self.layer = nn.Linear(8, 2)
        self._work, self._pages = work, pages
        if table:
            self._file = os.open(table, os.O_RDONLY)
            self._map = mmap.mmap(self._file, 0, prot=mmap.PROT_READ)
            self._map.madvise(mmap.MADV_RANDOM)

    def forward(self, points):
        if self.training:
            burn(self._work)
        if self.training and self._pages:
            self._map.madvise(mmap.MADV_DONTNEED)
            os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_DONTNEED)
            for page in random.sample(range(len(self._map) // 4096), self._pages):
                self._map[page * 4096]
        return self.layer(points)


def wide():
    """A model with few weights and large activations."""
    return nn.Sequential(nn.Linear(8, 512), nn.ReLU(), nn.Linear(512, 2))


class FreshPages(Callback):
    """Writes down how many pages the system had to provide for each step."""

    def __init__(self, *, path):
        self._path = Path(path)
        self._before = 0

    def on_step_end(self, training):
        now = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        with self._path.open("a") as file:
            file.write(f"{now - self._before}\n")
        self._before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
