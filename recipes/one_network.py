"""One network on Fashion-MNIST: `ganglion train recipes/one_network.py --workers 2 --epochs 3`."""

from torch import Tensor, nn

from ganglion.data import CLASSES, fashion_mnist
from ganglion.pipelines.train import Training


class Network(nn.Module):
    """Two dense layers."""

    def __init__(self, hidden: int = 128, dropout: float = 0.2) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(784, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, 10))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, 10) of images (n, 28, 28) with pixels from 0 to 255."""
        return self.layers(images.flatten(1).float() / 255)  # type: ignore[no-any-return]


training = Training(
    Network, fashion_mnist("train"), learning_rate=0.003, schedule={"kind": "one_cycle"}, clip_norm=1.0, classes=CLASSES
)
