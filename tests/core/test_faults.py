"""Fault points do nothing until a test says so."""

import pytest

from ganglion.core import faults


def test_without_a_handler_nothing_happens():
    assert faults.point("artifacts.commit", path="x") is None


def test_a_handler_sees_every_point_with_its_context_until_it_is_removed():
    seen = []
    faults.install(lambda name, context: seen.append((name, context)))
    faults.point("training.step", step=3, rank=1)
    faults.install(None)
    faults.point("training.step", step=4, rank=1)
    assert seen == [("training.step", {"step": 3, "rank": 1})]


def test_a_handler_can_make_the_place_fail():
    def fail(name, context):
        if context.get("step") == 2:
            raise OSError("disk full")

    faults.install(fail)
    try:
        faults.point("training.step", step=1)
        with pytest.raises(OSError, match="disk full"):
            faults.point("training.step", step=2)
    finally:
        faults.install(None)
