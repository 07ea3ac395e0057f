from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.core.errors import DataError
from ganglion.data.loading.memory_plan import MemoryPlan, default_memory, needed_memory

bytes_ = st.integers(0, 2**40)


@given(mapped=bytes_, memory=bytes_, batch=st.integers(1, 2**36))
def test_shares_are_within_the_budget_and_a_budget_that_will_not_do_is_refused(mapped, memory, batch) -> None:
    needed = needed_memory(mapped, batch)
    if memory < needed:
        with pytest.raises(DataError, match=f"give memory={needed} at least"):
            MemoryPlan.of(memory, mapped, batch)
        memory = needed
    plan = MemoryPlan.of(memory, mapped, batch)
    files = mapped if plan.resident is None else plan.resident
    assert files + plan.buffers <= memory
    assert plan.buffers >= 4 * batch
    assert batch <= plan.ahead(batch) <= plan.buffers - 2 * max(batch, plan.piece)


@given(mapped=bytes_, batch=st.integers(1, 2**36))
def test_the_default_is_always_enough(mapped: int, batch: int) -> None:
    assert MemoryPlan.of(default_memory(mapped, batch), mapped, batch).buffers >= 4 * batch
