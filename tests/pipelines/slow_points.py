"""A training whose source keeps it waiting, and a transform; found by this module's name."""

import time

import numpy as np
from torch import nn

from ganglion.training import Factory, TrainingPlan


class SlowPoints:
    """Points, each batch of which takes a while to come."""

    count, steps_per_epoch, global_batch = 16 * 20, 20, 16

    def batches(self, epoch, *, first, last, of, start=0):
        for step in range(start, self.steps_per_epoch):
            points = np.random.default_rng((epoch, step)).normal(size=(16, 3)).astype(np.float32)
            time.sleep(0.1)
            part = slice(first * 16 // of, last * 16 // of)
            yield {"point": points[part], "label": (points[part].sum(1) > 0).astype(np.int64)}


def network():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def doubled(columns):
    """A transform in Python."""
    return {**columns, "point": 2 * columns["point"]}


training = TrainingPlan(model=Factory.of(network), train=Factory.of(SlowPoints), input_column="point")
