"""Memory that a pass frees stays with the process: the next one does not have to get it from the system again."""

from __future__ import annotations

import ctypes
import statistics

import pytest

from ganglion.execution.entry import Entry
from ganglion.training import Factory, TrainingPlan


def part(name, **arguments):
    return Factory(entry=Entry(path=f"bottleneck_samples:{name}"), arguments=arguments)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="this C library has no such parameters")
def test_a_step_needs_no_fresh_pages_for_its_activations(train, tmp_path):
    plan = TrainingPlan(
        model=part("wide"),
        train=part("Points", steps=30, batch=4096),
        input_column="point",
        callbacks=(part("FreshPages", path=str(tmp_path / "pages")),),
    )
    train(plan, workers=1).raise_for_failure()
    pages = [int(line) for line in (tmp_path / "pages").read_text().split()]
    assert len(pages) == 30
    assert statistics.median(pages[10:]) < 200, "8 MiB of activations are 2,048 pages of 4 KiB"
