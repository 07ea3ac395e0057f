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
    from ganglion.data.dataset.prepared import PreparedDataset, open_dataset
    from ganglion.data.datasets import CLASSES, fashion_mnist
    from ganglion.data.files.retry import Retry
    from ganglion.data.loading.certificate import Certificate
    from ganglion.data.loading.leases import lease
    from ganglion.data.loading.loader import Loader, open_loader
    from ganglion.data.order import Order
    from ganglion.data.parts.dataset_part import DatasetPart, where
    from ganglion.data.parts.folds import Folds
    from ganglion.data.parts.group_split import GroupSplit
    from ganglion.data.parts.part import Part, whole
    from ganglion.data.parts.split import PlainSplit, Split, split_from
    from ganglion.data.parts.stratified_split import StratifiedSplit
    from ganglion.data.parts.time_split import TimeSplit
    from ganglion.data.preparation.driver import Progress, grow, prepare, prepare_elsewhere, replay
    from ganglion.data.records.schema import Field
    from ganglion.data.source import PlainSource, Source, source_data, source_from
    from ganglion.data.sources.arrow import ArrowSource
    from ganglion.data.sources.csv import CsvSource
    from ganglion.data.sources.decoder import DecodedSource, Unusable
    from ganglion.data.sources.fixed_length import FixedLengthSource
    from ganglion.data.sources.idx import IdxSource
    from ganglion.data.sources.images import ImageFolderSource
    from ganglion.data.sources.json_lines import JsonLinesSource
    from ganglion.data.sources.limited import LimitedSource, limit
    from ganglion.data.sources.memory import ArraySource, frame_source
    from ganglion.data.sources.mixed import MixedSource, interleave
    from ganglion.data.sources.opening import open_source
    from ganglion.data.sources.parquet import ParquetSource
    from ganglion.data.sources.text import TextSource
    from ganglion.data.sources.tfrecord import TFRecordSource, write_tfrecord
    from ganglion.data.sources.transformed import TransformedSource
    from ganglion.data.statistics import Statistics, source_statistics, statistics_of

_MODULES = {
    "ArraySource": "sources.memory",
    "ArrowSource": "sources.arrow",
    "BlockedOrder": "blocked_order",
    "CLASSES": "datasets",
    "Certificate": "loading.certificate",
    "CsvSource": "sources.csv",
    "DatasetPart": "parts.dataset_part",
    "DecodedSource": "sources.decoder",
    "Field": "records.schema",
    "FixedLengthSource": "sources.fixed_length",
    "Folds": "parts.folds",
    "GroupSplit": "parts.group_split",
    "IdxSource": "sources.idx",
    "ImageFolderSource": "sources.images",
    "JsonLinesSource": "sources.json_lines",
    "LimitedSource": "sources.limited",
    "Loader": "loading.loader",
    "MixedSource": "sources.mixed",
    "Order": "order",
    "ParquetSource": "sources.parquet",
    "Part": "parts.part",
    "PlainSource": "source",
    "PlainSplit": "parts.split",
    "PreparedDataset": "dataset.prepared",
    "Progress": "preparation.driver",
    "Retry": "files.retry",
    "Source": "source",
    "Split": "parts.split",
    "Statistics": "statistics",
    "StratifiedSplit": "parts.stratified_split",
    "TFRecordSource": "sources.tfrecord",
    "TextSource": "sources.text",
    "TimeSplit": "parts.time_split",
    "TransformedSource": "sources.transformed",
    "Unusable": "sources.decoder",
    "fashion_mnist": "datasets",
    "frame_source": "sources.memory",
    "grow": "preparation.driver",
    "interleave": "sources.mixed",
    "lease": "loading.leases",
    "limit": "sources.limited",
    "mixing": "blocked_order",
    "open_dataset": "dataset.prepared",
    "open_loader": "loading.loader",
    "open_source": "sources.opening",
    "prepare": "preparation.driver",
    "prepare_elsewhere": "preparation.driver",
    "replay": "preparation.driver",
    "source_data": "source",
    "source_from": "source",
    "source_statistics": "statistics",
    "split_from": "parts.split",
    "statistics_of": "statistics",
    "where": "parts.dataset_part",
    "whole": "parts.part",
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
