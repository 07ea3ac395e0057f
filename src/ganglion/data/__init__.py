"""Data: sources, prepared shards, the order of records, and the loader that feeds training.

A `Source` is read once by `prepare`, which writes memory-mapped shards to the artifact store; a `Loader` gathers fixed
global batches from them, in an order that is a formula. Names are imported on first use, so that importing this
package loads no NumPy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ganglion.core.registry import lazy_names

if TYPE_CHECKING:
    from ganglion.data.blocked_order import BlockedOrder, mixing
    from ganglion.data.certificate import Certificate
    from ganglion.data.dataset_part import DatasetPart, where
    from ganglion.data.datasets import CLASSES, fashion_mnist
    from ganglion.data.folds import Folds
    from ganglion.data.group_split import GroupSplit
    from ganglion.data.leases import lease
    from ganglion.data.limited import LimitedSource, limit
    from ganglion.data.loader import Loader, open_loader
    from ganglion.data.mixed import MixedSource, interleave
    from ganglion.data.order import Order
    from ganglion.data.part import Part, whole
    from ganglion.data.preparation.driver import Progress, grow, prepare, prepare_elsewhere, replay
    from ganglion.data.prepared import PreparedDataset, open_dataset
    from ganglion.data.retry import Retry
    from ganglion.data.schema import Field
    from ganglion.data.source import PlainSource, Source, source_data, source_from
    from ganglion.data.sources.arrow import ArrowSource
    from ganglion.data.sources.csv import CsvSource
    from ganglion.data.sources.decoder import DecodedSource, Unusable
    from ganglion.data.sources.fixed_length import FixedLengthSource
    from ganglion.data.sources.idx import IdxSource
    from ganglion.data.sources.images import ImageFolderSource
    from ganglion.data.sources.json_lines import JsonLinesSource
    from ganglion.data.sources.memory import ArraySource, frame_source
    from ganglion.data.sources.opening import open_source
    from ganglion.data.sources.parquet import ParquetSource
    from ganglion.data.sources.text import TextSource
    from ganglion.data.sources.tfrecord import TFRecordSource, write_tfrecord
    from ganglion.data.split import PlainSplit, Split, split_from
    from ganglion.data.statistics import Statistics, source_statistics, statistics_of
    from ganglion.data.stratified_split import StratifiedSplit
    from ganglion.data.time_split import TimeSplit
    from ganglion.data.transformed import TransformedSource

_MODULES = {
    "ArraySource": "sources.memory",
    "ArrowSource": "sources.arrow",
    "BlockedOrder": "blocked_order",
    "CLASSES": "datasets",
    "Certificate": "certificate",
    "CsvSource": "sources.csv",
    "DatasetPart": "dataset_part",
    "DecodedSource": "sources.decoder",
    "Field": "schema",
    "FixedLengthSource": "sources.fixed_length",
    "Folds": "folds",
    "GroupSplit": "group_split",
    "IdxSource": "sources.idx",
    "ImageFolderSource": "sources.images",
    "JsonLinesSource": "sources.json_lines",
    "LimitedSource": "limited",
    "Loader": "loader",
    "MixedSource": "mixed",
    "Order": "order",
    "ParquetSource": "sources.parquet",
    "Part": "part",
    "PlainSource": "source",
    "PlainSplit": "split",
    "PreparedDataset": "prepared",
    "Progress": "preparation.driver",
    "Retry": "retry",
    "Source": "source",
    "Split": "split",
    "Statistics": "statistics",
    "StratifiedSplit": "stratified_split",
    "TFRecordSource": "sources.tfrecord",
    "TextSource": "sources.text",
    "TimeSplit": "time_split",
    "TransformedSource": "transformed",
    "Unusable": "sources.decoder",
    "fashion_mnist": "datasets",
    "frame_source": "sources.memory",
    "grow": "preparation.driver",
    "interleave": "mixed",
    "lease": "leases",
    "limit": "limited",
    "mixing": "blocked_order",
    "open_dataset": "prepared",
    "open_loader": "loader",
    "open_source": "sources.opening",
    "prepare": "preparation.driver",
    "prepare_elsewhere": "preparation.driver",
    "replay": "preparation.driver",
    "source_data": "source",
    "source_from": "source",
    "source_statistics": "statistics",
    "split_from": "split",
    "statistics_of": "statistics",
    "where": "dataset_part",
    "whole": "part",
    "write_tfrecord": "sources.tfrecord",
}

__all__ = [
    "CLASSES",
    "ArraySource",
    "ArrowSource",
    "BlockedOrder",
    "Certificate",
    "CsvSource",
    "DatasetPart",
    "DecodedSource",
    "Field",
    "FixedLengthSource",
    "Folds",
    "GroupSplit",
    "IdxSource",
    "ImageFolderSource",
    "JsonLinesSource",
    "LimitedSource",
    "Loader",
    "MixedSource",
    "Order",
    "ParquetSource",
    "Part",
    "PlainSource",
    "PlainSplit",
    "PreparedDataset",
    "Progress",
    "Retry",
    "Source",
    "Split",
    "Statistics",
    "StratifiedSplit",
    "TFRecordSource",
    "TextSource",
    "TimeSplit",
    "TransformedSource",
    "Unusable",
    "fashion_mnist",
    "frame_source",
    "grow",
    "interleave",
    "lease",
    "limit",
    "mixing",
    "open_dataset",
    "open_loader",
    "open_source",
    "prepare",
    "prepare_elsewhere",
    "replay",
    "source_data",
    "source_from",
    "source_statistics",
    "split_from",
    "statistics_of",
    "where",
    "whole",
    "write_tfrecord",
]

__getattr__ = lazy_names(__name__, _MODULES)
