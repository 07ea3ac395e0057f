import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from training_samples import ArraySource

from ganglion.core.errors import DataError
from ganglion.training.feed import Feed
from ganglion.training.mapping import assign


def numbered(count=50, global_batch=16):
    return ArraySource({"number": np.arange(count)}, global_batch=global_batch, seed=3)


@given(st.integers(1, 9), st.data())
def test_every_record_is_given_once_whatever_the_mapping_does(logical, data):
    source = numbered()
    feeds = [Feed(source, logical) for _ in range(3)]
    for step in range(source.steps_per_epoch):
        costs = data.draw(st.lists(st.floats(0.1, 5.0), min_size=3, max_size=3))
        given_ = {}
        for feed, span in zip(feeds, assign(costs, logical), strict=True):
            for _ in range(data.draw(st.integers(1, 2))):  # a step that is repeated gets the same records
                slices = feed.slices(0, step, span)
            given_ |= slices
        (whole,) = Feed(source, 1).slices(0, step, range(1)).values()
        assert (
            np.concatenate([given_[worker]["number"] for worker in sorted(given_)]).tolist() == whole["number"].tolist()
        )


def test_the_source_is_read_on_and_not_opened_again():
    opened = []

    class Counting(ArraySource):
        def batches(self, *args, **kwargs):
            opened.append(kwargs["start"])
            return super().batches(*args, **kwargs)

    feed = Feed(Counting({"number": np.arange(50)}, global_batch=16), 4)
    for step in (0, 1, 1, 2):
        feed.slices(0, step, range(2))
    feed.slices(0, 3, range(3))
    feed.slices(1, 0, range(3))
    assert opened == [0, 3, 0]


def test_a_source_that_ends_too_early_is_named():
    feed = Feed(ShortOf(), 1)
    for step in range(4):
        feed.slices(0, step, range(1))
    with pytest.raises(DataError, match="says that epoch 1 has 5 batches, but it ended after 4"):
        feed.slices(0, 4, range(1))


class ShortOf:
    count, global_batch, steps_per_epoch = 80, 16, 5

    def batches(self, epoch, *, first, last, of, start=0):
        for _ in range(start, 4):
            yield {"number": np.arange(16)}


def test_slices_of_another_size_are_refused():
    class Uneven(ArraySource):
        def batches(self, *_args, **_kwargs):
            yield {"number": np.arange(7)}

    with pytest.raises(DataError, match="have 8 of the 16 records of batch 1, but the training source gave 7"):
        Feed(Uneven({"number": np.arange(32)}, global_batch=16), 2).slices(0, 0, range(1))
