"""Keras under `MultiWorkerMirroredStrategy`, one thread, Adam: a model compiled in the strategy's scope, and `fit`.

Keras 3 does not train under that strategy, so this is Keras 2, which TensorFlow's pages on it use.

`TF_CONFIG=... python -m benchmarks.peers_training.keras_fit FOLDER STEPS`.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import tensorflow as tf  # after the choice of Keras

from benchmarks.peers_training.blocks import BATCH, IMAGES, Blocks, columns


class Commands(tf.keras.callbacks.Callback):  # type: ignore[misc]  # Keras is not annotated
    """Steps on command."""

    def __init__(self, blocks: Blocks) -> None:
        super().__init__()
        self._blocks = blocks

    def on_train_begin(self, logs: Any = None) -> None:
        """Wait for the first permission."""
        self._blocks.wait()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """A step has been taken."""
        if not self._blocks.step():
            os._exit(0)  # both processes at once; there is nothing to be kept


def model() -> Any:
    """The reference model: three convolutions and two dense layers, 93,322 parameters."""
    layers = tf.keras.layers
    return tf.keras.Sequential(
        [
            tf.keras.Input((28, 28, 1)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10),
        ]
    )


def main(folder: str, steps: int) -> None:
    """Train until no permission comes."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    rank = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    images, labels = columns()
    data = tf.data.Dataset.from_tensor_slices((images[..., None], labels)).shuffle(IMAGES).repeat().batch(BATCH)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    with strategy.scope():
        network = model()
        loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        network.compile(optimizer=tf.keras.optimizers.Adam(0.001), loss=loss)
    network.fit(
        data.with_options(options),
        steps_per_epoch=10**6,
        verbose=0,
        callbacks=[Commands(Blocks(folder, rank, steps))],
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
