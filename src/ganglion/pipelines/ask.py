"""`ask`: put real records to a running service, as a user would, and compare the answers with the labels."""

from __future__ import annotations

import io

import msgspec
import numpy as np
from PIL import Image

from ganglion.core.resources import Resources
from ganglion.data import PlainSource
from ganglion.pipelines.serve import Served
from ganglion.serving.client import Client
from ganglion.workflow import current_step, step


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One answer.

    Attributes:
        record: number of the record in the source.
        predicted: class with the highest probability.
        probability: of that class.
        truth: the record's label.
    """

    record: int
    predicted: str
    probability: float
    truth: str


@step(resources=Resources(cpu=0.1), cache=False, preload=("numpy", "PIL.Image"))
def ask(service: Served, source: PlainSource, count: int = 10, classes: tuple[str, ...] = ()) -> list[Answer]:
    """Send the first `count` images of `source` over REST as PNG files.

    Args:
        service: what `serve` returned.
        source: records with the fields `image` (uint8) and `label`.
        count: how many to ask for.
        classes: names of the classes; numbers where there are none.
    """
    columns = source.read(0, min(count, source.count))
    client = Client(service.url)
    predictions = np.asarray(client.predict(service.model, images=[_png(image) for image in columns["image"]]))
    best = predictions.argmax(axis=1)
    current_step().report({"right": int((best == columns["label"]).sum()), "asked": len(best)})

    def title(index: int) -> str:
        return classes[index] if classes else str(index)

    return [
        Answer(
            record=record,
            predicted=title(int(best[record])),
            probability=float(predictions[record, best[record]]),
            truth=title(int(columns["label"][record])),
        )
        for record in range(len(best))
    ]


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()
