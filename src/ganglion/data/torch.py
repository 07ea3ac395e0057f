"""Columns as torch tensors and back: for functions that are written with torch, and for loops that train with it.

torch is imported nowhere else in this package.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.utils.data

from ganglion.core.errors import DataError
from ganglion.data.loading.loader import Loader
from ganglion.data.records.batch import Batch
from ganglion.data.records.columns import Column


def to_tensors(columns: Mapping[str, Column]) -> dict[str, Any]:
    """Columns of fixed length as tensors, which are the function's own; others stay Arrow arrays."""
    return {
        name: torch.from_numpy(column.copy()) if isinstance(column, np.ndarray) else column
        for name, column in columns.items()
    }


def to_arrays(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors as NumPy arrays; other values as they are."""
    return {
        name: column.detach().cpu().numpy() if isinstance(column, torch.Tensor) else column
        for name, column in columns.items()
    }


def to_torch(batches: Iterable[Batch], device: str = "cpu") -> Iterator[dict[str, Any]]:
    """Batches as tensors by column.

    On a CPU the tensors share the memory of the batch, which stays theirs while they are there. For a CUDA device the
    values go through pinned memory, and the copy to the device runs while the next batch is waited for.

    Args:
        batches: such as a `Loader`; columns without fixed length stay Arrow arrays.
        device: where the tensors are to be.
    """
    pinned = torch.device(device).type == "cuda"
    for batch in batches:
        tensors: dict[str, Any] = {}
        for name, column in batch.columns.items():
            if not isinstance(column, np.ndarray):
                tensors[name] = column
                continue
            tensor = torch.from_numpy(column)
            tensors[name] = (tensor.pin_memory() if pinned else tensor).to(device, non_blocking=pinned)
        yield tensors


class TorchLoader(torch.utils.data.IterableDataset[dict[str, Any]]):
    """A loader for code that expects a PyTorch dataset: `DataLoader(TorchLoader(loader), batch_size=None)`.

    Batches are made by the workers of the loader, so the `DataLoader` needs none.

    Args:
        loader: whose batches are delivered; every iteration is the rest of an epoch.
    """

    def __init__(self, loader: Loader) -> None:
        super().__init__()
        self._loader = loader

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The batches of the epoch, as tensors.

        Raises:
            DataError: a worker of a `DataLoader` asks, which would deliver every batch once for each worker.
        """
        if torch.utils.data.get_worker_info() is not None:
            raise DataError(
                "A loader makes batches with workers of its own; use the DataLoader with num_workers=0, and "
                "Loader(..., workers=..., parallel=...)."
            )
        return to_torch(self._loader)

    def __len__(self) -> int:
        return self._loader.steps_per_epoch

    def state_dict(self) -> dict[str, Any]:
        """The state of the loader."""
        return self._loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of the loader."""
        self._loader.load_state_dict(state)
