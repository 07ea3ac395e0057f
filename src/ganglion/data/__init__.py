"""Data: sources, prepared shards, the order of records, and the loader that feeds training.

A `Source` is read once by `prepare`, which writes memory-mapped shards to the artifact store; a `Loader` gathers fixed
global batches from them, in an order that is a formula. Names are imported on first use, so that importing this
package loads no NumPy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ganglion.core.registry import lazy_names

if TYPE_CHECKING:
    from ganglion.data.datasets import CLASSES, fashion_mnist
    from ganglion.data.idx import IdxSource
    from ganglion.data.limited import LimitedSource, limit
    from ganglion.data.loader import Loader, open_loader
    from ganglion.data.memory import ArraySource
    from ganglion.data.order import Order
    from ganglion.data.prepared import PreparedDataset, open_dataset
    from ganglion.data.schema import Field
    from ganglion.data.source import PlainSource, Source, source_data, source_from
    from ganglion.data.split import Part, Split
    from ganglion.data.writer import prepare

_MODULES = {
    "CLASSES": "datasets",
    "ArraySource": "memory",
    "Field": "schema",
    "IdxSource": "idx",
    "LimitedSource": "limited",
    "Loader": "loader",
    "Order": "order",
    "Part": "split",
    "PlainSource": "source",
    "PreparedDataset": "prepared",
    "Source": "source",
    "Split": "split",
    "fashion_mnist": "datasets",
    "limit": "limited",
    "open_dataset": "prepared",
    "open_loader": "loader",
    "prepare": "writer",
    "source_data": "source",
    "source_from": "source",
}

__all__ = [
    "CLASSES",
    "ArraySource",
    "Field",
    "IdxSource",
    "LimitedSource",
    "Loader",
    "Order",
    "Part",
    "PlainSource",
    "PreparedDataset",
    "Source",
    "Split",
    "fashion_mnist",
    "limit",
    "open_dataset",
    "open_loader",
    "prepare",
    "source_data",
    "source_from",
]

__getattr__ = lazy_names(__name__, _MODULES)
