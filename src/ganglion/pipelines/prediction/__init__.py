"""Batch prediction: the predictions of a model for every record of a source, each once, by many processes.

Names are imported on first use, so that importing this package loads no Arrow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ganglion.core.registry import lazy_names

if TYPE_CHECKING:
    from ganglion.pipelines.prediction.dataset_source import DatasetSource
    from ganglion.pipelines.prediction.driver import predict_source
    from ganglion.pipelines.prediction.folder import Summary

__all__ = ["DatasetSource", "Summary", "predict_source"]

_MODULES = {"DatasetSource": "dataset_source", "Summary": "folder", "predict_source": "driver"}

__getattr__ = lazy_names(__name__, _MODULES)
