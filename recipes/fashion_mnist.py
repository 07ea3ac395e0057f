"""The reference pipeline: Fashion-MNIST from its files to an answer over REST.

Ingest and cache, train three convolutional networks in parallel on two workers each, select the best two by held-out
accuracy, publish the winner, serve both with replicas, combine their predictions, and answer real test images.

    ganglion run recipes/fashion_mnist.py
"""

from torch import Tensor, nn

from ganglion import as_completed, pipeline
from ganglion.data import CLASSES, fashion_mnist
from ganglion.pipelines import Answer, ask, ingest, publish, select, serve, train


class ConvolutionalNetwork(nn.Module):
    """Three 3x3 convolutions (32, 64, 64), two 2x2 max-pools, two dense layers; 93,322 parameters when plain."""

    def __init__(self, dropout: float = 0.0, batch_norm: bool = False) -> None:
        super().__init__()

        def convolution(channels_in: int, channels_out: int) -> nn.Sequential:
            norm = [nn.BatchNorm2d(channels_out)] if batch_norm else []
            return nn.Sequential(nn.Conv2d(channels_in, channels_out, 3), *norm, nn.ReLU())

        self.layers = nn.Sequential(
            convolution(1, 32),
            nn.MaxPool2d(2),
            convolution(32, 64),
            nn.MaxPool2d(2),
            convolution(64, 64),
            nn.Flatten(),
            nn.Linear(576, 64),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(64, 10),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, 10) of 28x28 grayscale images (n, 28, 28) with pixels from 0 to 255."""
        return self.layers(images.unsqueeze(1).float() / 255)  # type: ignore[no-any-return]


VARIANTS: dict[str, dict[str, float | bool]] = {
    "plain": {},
    "dropout": {"dropout": 0.5},
    "batch-norm": {"batch_norm": True},
}


@pipeline
def reference(epochs: int = 2, workers: int = 2, minimum: float = 0.8, seed: int = 1) -> list[Answer]:
    """Train the three variants on a share of the machine each, and ask the best two together."""
    data = ingest(fashion_mnist("train"), held_out=0.1)
    models = [
        train(
            data,
            ConvolutionalNetwork,
            name=name,
            model_arguments=arguments,
            workers=workers,
            cpu=0.25,
            epochs=epochs,
            learning_rate=0.01,
            schedule={"kind": "one_cycle"},
            seed=seed,
            classes=CLASSES,
        )
        for name, arguments in VARIANTS.items()
    ]
    best = select(as_completed(models), k=2, metric="accuracy", minimum=minimum)
    publish(best, name="fashion")
    service = serve(as_completed(best), name="fashion", replicas=2, cpu=0.1)
    return ask(service, fashion_mnist("test"), count=10, classes=CLASSES)
