from __future__ import annotations

import numpy as np
import pytest
import torch
from loading_records import digest

from ganglion.core.errors import DataError
from ganglion.data import Loader
from ganglion.data.torch import TorchLoader, to_torch


def test_tensors_share_the_memory_of_their_batch(packed) -> None:
    batch = next(iter(Loader(packed, global_batch=30)))
    (tensors,) = to_torch([batch])
    assert (tensors["tokens"].numpy() == batch.columns["tokens"]).all()
    batch.columns["tokens"][0, 0] = -5
    assert tensors["tokens"][0, 0] == -5


def test_a_tensor_that_is_kept_keeps_its_values(packed) -> None:
    loader = Loader(packed, global_batch=30, memory=2**20)
    kept = [tensors["tokens"] for tensors in to_torch(loader)]
    expected = [batch.columns["tokens"] for batch in Loader(packed, global_batch=30)]
    assert all(np.array_equal(tensor.numpy(), column) for tensor, column in zip(kept, expected, strict=True))


def test_a_data_loader_of_torch_delivers_the_same_batches_and_their_state(packed) -> None:
    expected = [digest(batch) for batch in Loader(packed, global_batch=30, seed=1)]
    dataset = TorchLoader(Loader(packed, global_batch=30, seed=1))
    assert len(dataset) == len(expected)
    batches = iter(torch.utils.data.DataLoader(dataset, batch_size=None))
    found = [next(batches)["tokens"] for _ in range(4)]
    assert dataset.state_dict()["step"] == 4
    direct = [batch.columns["tokens"] for batch in Loader(packed, global_batch=30, seed=1)][:4]
    assert all(np.array_equal(tensor.numpy(), column) for tensor, column in zip(found, direct, strict=True))
    other = TorchLoader(Loader(packed, global_batch=30, seed=1))
    other.load_state_dict(dataset.state_dict())
    assert len(list(other)) == len(expected) - 4


def test_workers_of_torch_would_deliver_everything_twice_and_are_refused(packed) -> None:
    dataset = TorchLoader(Loader(packed, global_batch=30))
    loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context="fork")
    with pytest.raises(DataError, match="num_workers=0"):
        next(iter(loader))
