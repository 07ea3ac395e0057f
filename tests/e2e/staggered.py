"""Two models of the reference pipeline, one of which trains much longer than the other."""

from fashion_mnist import ConvolutionalNetwork
from ganglion import as_completed, pipeline
from ganglion.data import fashion_mnist
from ganglion.pipelines import ingest, select, serve, train


@pipeline
def staggered():
    data = ingest(fashion_mnist("train"))
    models = [
        train(data, ConvolutionalNetwork, name="short", workers=2, cpu=0.25, epochs=1),
        train(data, ConvolutionalNetwork, name="long", workers=2, cpu=0.25, epochs=12),
    ]
    return serve(as_completed(select(as_completed(models), k=2)), name="fashion", replicas=2)
