# ruff: noqa: T201
"""ParameterServerStrategy as in TensorFlow's tutorial: a chief hands steps to workers, variables live on servers."""

import tensorflow as tf

resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
if resolver.task_type in ("worker", "ps"):
    server = tf.distribute.Server(
        resolver.cluster_spec(), job_name=resolver.task_type, task_index=resolver.task_id, protocol="grpc", start=True
    )
    print(f"{resolver.task_type} {resolver.task_id}: waiting for work")
    server.join()

strategy = tf.distribute.ParameterServerStrategy(resolver)
coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
with strategy.scope():
    weights = tf.Variable(tf.zeros((4, 1)))


@tf.function
def worker_step(iterator):
    features, labels = next(iterator)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(features @ weights - labels))
    weights.assign_sub(0.1 * tape.gradient(loss, weights))
    return loss


@tf.function
def make_dataset():
    features = tf.random.stateless_normal((1024, 4), seed=(1, 2))
    labels = features @ tf.constant([[1.0], [-2.0], [3.0], [0.5]])
    return tf.data.Dataset.from_tensor_slices((features, labels)).batch(32).repeat()


iterator = iter(coordinator.create_per_worker_dataset(make_dataset))
for _step in range(60):
    loss = coordinator.schedule(worker_step, args=(iterator,))
coordinator.join()
learned = " ".join(f"{value:.3f}" for value in weights.numpy().ravel())
print(f"chief: weights on {weights.device}, loss {loss.fetch():.6f}, weights {learned}")
