import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.core.errors import ConfigurationError
from ganglion.training.slices import owned, random_key


@given(st.integers(1, 20), st.integers(0, 40))
def test_every_logical_worker_is_computed_by_one_process(world, more):
    logical = world + more
    ranges = [owned(rank, world, logical) for rank in range(world)]
    assert [worker for workers in ranges for worker in workers] == list(range(logical))
    sizes = [len(workers) for workers in ranges]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1


def test_fewer_logical_workers_than_processes_are_refused():
    with pytest.raises(ConfigurationError, match="2 logical workers cannot occupy 3 workers"):
        owned(0, 3, 2)


def test_keys_are_the_same_everywhere_and_differ_between_places():
    assert random_key(7, "step", 3, 1) == random_key(7, "step", 3, 1)
    keys = {random_key(seed, "step", step, worker) for seed in range(3) for step in range(50) for worker in range(4)}
    assert len(keys) == 600
    assert all(0 <= key < 2**63 for key in keys)
