from __future__ import annotations

from typing import Any

import pytest

from ganglion.core.config import convert
from ganglion.core.errors import ConfigurationError, UserError
from ganglion.core.resources import Resources
from ganglion.serving.options import ServingOptions


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scale_metric": "concurency"}, "Did you mean 'concurrency'"),
        ({"min_replicas": -1}, "min_replicas is -1; it has to be at least 0"),
        ({"min_replicas": 3, "max_replicas": 2}, "the most cannot be fewer than the fewest"),
        ({"scale_target": 0.0}, "scale_target is 0; it has to be more than 0"),
        ({"timeout": 0.0}, "timeout is 0; it has to be more than 0"),
        ({"max_batch": 0}, "max_batch is 0; it has to be at least 1"),
        ({"max_queue": 0}, "max_queue is 0; it has to be at least 1"),
        ({"scale_to_zero_grace": -1.0}, "scale_to_zero_grace is -1"),
        ({"stable_window": 5.0}, "panic window has to lie within the stable one"),
        ({"stable_window": float("nan")}, "stable_window is nan"),
        ({"scale_target": 20.0, "container_concurrency": 10}, "a replica never holds so many requests"),
        ({"scale_metric": "cpu", "min_replicas": 0}, "Give min_replicas=1, or scale by concurrency or rps"),
        ({"scale_metric": "cpu", "resources": Resources(cpu=0, memory=1)}, "declared cpu, but none is declared"),
        ({"scale_metric": "memory"}, "declared memory, but none is declared"),
        ({"scale_metric": "memory", "resources": Resources(memory=2**20)}, "give max_replicas"),
        ({"resources": Resources(cpu=0)}, "give one of them a limit"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ServingOptions(**fields)


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match="Did you mean 'min_replicas'"):
        convert(ServingOptions, {"min_replica": 1})


def test_a_fixed_number_does_not_follow_the_load() -> None:
    assert not ServingOptions.fixed(3).elastic
    assert ServingOptions().elastic
    assert ServingOptions(min_replicas=0, max_replicas=1).elastic
    with pytest.raises(UserError, match="at least one"):
        ServingOptions.fixed(0)


def test_the_target_is_the_fields_default_where_none_is_given() -> None:
    assert ServingOptions().target == 100
    assert ServingOptions(scale_metric="rps").target == 200
    assert ServingOptions(scale_metric="cpu").target == 80
    assert ServingOptions(container_concurrency=10).target == 7
    assert ServingOptions(scale_target=3).target == 3
