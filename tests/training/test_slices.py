from ganglion.training.slices import random_key


def test_keys_are_the_same_everywhere_and_differ_between_places():
    assert random_key(7, "step", 3, 1) == random_key(7, "step", 3, 1)
    keys = {random_key(seed, "step", step, worker) for seed in range(3) for step in range(50) for worker in range(4)}
    assert len(keys) == 600
    assert all(0 <= key < 2**63 for key in keys)
