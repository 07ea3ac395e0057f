"""Sources and models that training workers import by path; small, and exact to count."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import psutil
import torch.nn.functional as functional
from torch import nn

from ganglion.execution.member import current_member
from ganglion.training import tcp, vigil
from ganglion.training.callbacks import Callback


class ArraySource:
    """Records in memory, shuffled by (seed, epoch); slice v of n is records v * size // n to (v + 1) * size // n."""

    def __init__(self, columns, *, global_batch, seed=0, shuffle=True):
        self.columns = columns
        self.count = len(next(iter(columns.values())))
        self.global_batch = global_batch
        self.steps_per_epoch = -(-self.count // global_batch)
        self.seed = seed
        self.shuffle = shuffle

    def batches(self, epoch, *, first, last, of, start=0):
        order = np.arange(self.count)
        if self.shuffle:
            order = np.random.default_rng((self.seed, epoch)).permutation(self.count)
        for step in range(start, self.steps_per_epoch):
            batch = order[step * self.global_batch : (step + 1) * self.global_batch]
            picked = batch[first * len(batch) // of : last * len(batch) // of]
            yield {name: column[picked] for name, column in self.columns.items()}


def squares(*, count=96, global_batch=32, seed=1, shuffle=True, size=28, bad_label=None, poison=None, classes=10):
    """Images of `size` with a bright square whose place is the label: easy to learn, real uint8 pixels."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count).astype(np.uint8)
    images = random.integers(0, 60, (count, size, size)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label), 4)
        image[row * 8 : row * 8 + 7, column * 7 : column * 7 + 7] = 250
    if bad_label is not None:
        labels[bad_label] = classes
    columns = {"image": images, "label": labels}
    if poison is not None:
        columns["image"] = images.astype(np.float32)
        columns["image"][poison] = np.nan
    return ArraySource(columns, global_batch=global_batch, seed=seed, shuffle=shuffle)


def line(*, count=40, global_batch=16, seed=2, masked=0):
    """Points of a plane, for regression; the first `masked` of them are bad, and marked so."""
    random = np.random.default_rng(seed)
    inputs = random.normal(size=(count, 3)).astype(np.float32)
    targets = inputs @ np.array([1.0, -2.0, 0.5], dtype=np.float32) + 3
    columns = {"features": inputs, "target": targets}
    if masked:
        inputs[:masked] = np.nan
        columns["mask"] = np.arange(count) >= masked
    return ArraySource(columns, global_batch=global_batch, seed=seed)


def signs(*, count=80, global_batch=16, seed=4):
    """Points with two labels, any of which may hold: the sums of their numbers are positive; the first number is."""
    points = np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float32)
    labels = np.stack([points.sum(1) > 0, points[:, 0] > 0], axis=1).astype(np.uint8)
    return ArraySource({"features": points, "labels": labels}, global_batch=global_batch, seed=seed)


class Largest:
    """A measure of one's own: the largest outputs of the slices, added up."""

    def sums(self, outputs, targets, loss):
        return [float(outputs.max())]

    def value(self, sums, records):
        return sums[0]


class ReferenceModel(nn.Module):
    """The CNN of the reference pipeline; 93,322 parameters when plain."""

    def __init__(self, *, dropout=0.0, batch_norm=False):
        super().__init__()
        self.convolutions = nn.ModuleList([nn.Conv2d(1, 32, 3), nn.Conv2d(32, 64, 3), nn.Conv2d(64, 64, 3)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(n) if batch_norm else nn.Identity() for n in (32, 64, 64)])
        self.hidden = nn.Linear(576, 64)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(64, 10)

    def forward(self, pixels):
        images = pixels.unsqueeze(1).float() / 255
        for index, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            images = functional.relu(norm(convolution(images)))
            if index < 2:
                images = functional.max_pool2d(images, 2)
        return self.output(self.dropout(functional.relu(self.hidden(images.flatten(1)))))


class SmallModel(nn.Module):
    """A few thousand parameters with everything that depends on slices: dropout and batch normalisation."""

    def __init__(self, *, dropout=0.2, classes=10):
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 5, stride=3)
        self.norm = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(4 * 8 * 8, classes)

    def forward(self, pixels):
        images = functional.relu(self.norm(self.convolution(pixels.unsqueeze(1).float() / 255)))
        return self.output(self.dropout(images.flatten(1)))


class StuckOnce(SmallModel):
    """In its fifth pass the first process of a worker comes to no end."""

    def __init__(self, *, how, worker, folder):
        super().__init__()
        self.how = how
        self.mark = Path(folder) / "stuck"
        self.passes = 0 if current_member().name == worker else -(10**9)

    def forward(self, pixels):
        self.passes += self.training
        if self.passes >= 5 and not self.mark.exists():
            self.mark.touch()
            while self.how == "loop":
                pass
            threading.Event().wait()
        return super().forward(pixels)


class Impatient(Callback):
    """Has its worker lose patience with itself soon."""

    replicated = True

    def __init__(self):
        vigil.PATIENCE = 1.0


class Frozen(SmallModel):
    """Nothing to train."""

    def __init__(self):
        super().__init__()
        self.requires_grad_(False)


def linear(inputs=3, outputs=1):
    return nn.Linear(inputs, outputs)


def not_a_model():
    return {"weights": [1.0]}


class SaveWeights(Callback):
    """Leaves the trained weights, and the optimizer-independent facts of the training, in a file."""

    def __init__(self, *, path):
        self.path = path

    def on_train_end(self, training):
        weights = {name: tensor.numpy() for name, tensor in training.model.state_dict().items()}
        np.savez(self.path, **weights)


class StopAtStep(Callback):
    """Asks for the end in the middle of an epoch."""

    def __init__(self, *, step):
        self.step = step

    def on_step_end(self, training):
        if training.step == self.step:
            training.stop(f"step {self.step} was enough")


class OverTcp(Callback):
    """Has its worker listen on the loopback interface, as a worker on another host would on its own address.

    Buckets are small, so that part of the reference model's gradients is exchanged before the others are computed.
    """

    replicated = True

    def __init__(self):
        current_member()._listen_at = "tcp:127.0.0.1"
        tcp.BUCKET = 16_384


class WatchCommits(Callback):
    """Writes down which step was committed when, in every worker."""

    replicated = True

    def __init__(self, *, folder):
        member = current_member()
        self.file = (Path(folder) / f"{member.name}.{member.attempt}").open("w")

    def get_state(self):
        return {}

    def on_step_end(self, training):
        self.file.write(f"{training.step} {time.monotonic():.4f} .\n")
        self.file.flush()


class Pace(Callback):
    """Lets no step take less than some seconds."""

    def __init__(self, *, seconds):
        self.seconds = seconds

    def on_step_end(self, training):
        time.sleep(self.seconds)


class ListeningSockets(Callback):
    """Reports the addresses that this process listens on."""

    def __init__(self, *, path):
        self.path = path

    def on_train_start(self, training):
        connections = psutil.Process().net_connections("inet")
        addresses = sorted({c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN})
        Path(self.path).write_text("\n".join(addresses))


class Wavering(nn.Module):
    """Answers differently every time, as a model does whose dropout was not switched off."""

    def __init__(self):
        super().__init__()
        self.output = nn.Linear(28 * 28, 10)

    def forward(self, pixels):
        return functional.dropout(self.output(pixels.flatten(1).float() / 255), 0.5, training=True)


class Branching(nn.Module):
    """Decides by the values of its input, which no exporter can follow."""

    def __init__(self):
        super().__init__()
        self.output = nn.Linear(28 * 28, 10)

    def forward(self, pixels):
        flat = pixels.flatten(1).float()
        return self.output(flat) if flat.sum() > 100 else -self.output(flat)
