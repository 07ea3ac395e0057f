# ruff: noqa: T201
"""MultiWorkerMirroredStrategy with a custom training loop, as in TensorFlow's guide; finds its peers by TF_CONFIG."""

import json
import os

import tensorflow as tf

strategy = tf.distribute.MultiWorkerMirroredStrategy()
task = json.loads(os.environ["TF_CONFIG"])["task"]
GLOBAL_BATCH = 64


def make_dataset(context):
    features = tf.random.stateless_normal((1024, 4), seed=(1, 2))
    labels = features @ tf.constant([[1.0], [-2.0], [3.0], [0.5]])
    dataset = tf.data.Dataset.from_tensor_slices((features, labels))
    dataset = dataset.shard(context.num_input_pipelines, context.input_pipeline_id)
    return dataset.batch(context.get_per_replica_batch_size(GLOBAL_BATCH), drop_remainder=True).repeat()


with strategy.scope():
    weights = tf.Variable(tf.zeros((4, 1)))


@tf.function
def train_step(iterator):
    def replica_step(batch):
        features, labels = batch
        with tf.GradientTape() as tape:
            errors = tf.square(features @ weights - labels)
            loss = tf.reduce_sum(errors) / GLOBAL_BATCH
        context = tf.distribute.get_replica_context()
        gradient = context.all_reduce(tf.distribute.ReduceOp.SUM, tape.gradient(loss, weights))
        weights.assign_sub(0.1 * gradient)
        return loss

    losses = strategy.run(replica_step, args=(next(iterator),))
    return strategy.reduce(tf.distribute.ReduceOp.SUM, losses, axis=None)


iterator = iter(strategy.distribute_datasets_from_function(make_dataset))
for _step in range(60):
    loss = train_step(iterator)
learned = " ".join(f"{value:.3f}" for value in weights.numpy().ravel())
print(f"{task['type']} {task['index']}: replicas {strategy.num_replicas_in_sync}, loss {loss:.6f}, weights {learned}")
