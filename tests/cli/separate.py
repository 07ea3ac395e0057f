"""A recipe for `ganglion train`: points on two sides of a plane."""

import numpy as np
from torch import nn

from ganglion.data import ArraySource
from ganglion.pipelines.train import Training

points = np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32)
labels = (points.sum(1) > 0).astype(np.int64)


def network(width: int = 4):
    return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2))


settings = {"input_column": "point", "held_out": 0.25, "global_batch": 32, "learning_rate": 0.05}
source = ArraySource({"point": points, "label": labels})
training = Training(network, source, **settings)
other = Training(network, source, **settings)
