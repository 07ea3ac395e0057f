from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from gateway_samples import PATIENCE, GatewayThread, ScriptedReplica
from hypothesis import given
from hypothesis import strategies as st

from ganglion.serving.gateway.metrics import HELP, INSTANCES, Histogram, Metrics


@given(st.lists(st.floats(0, 1000), max_size=50))
def test_a_histogram_counts_every_value_once_in_the_bucket_it_belongs_to(values: list[float]) -> None:
    histogram = Histogram(INSTANCES)
    for value in values:
        histogram.observe(value)
    assert sum(histogram.counts) == len(values)
    assert histogram.sum == pytest.approx(sum(values))
    for number, bound in enumerate(INSTANCES, 1):
        assert sum(histogram.counts[:number]) == sum(value <= bound for value in values)


def test_the_text_is_that_of_prometheus() -> None:
    metrics = Metrics()
    metrics.counter("ganglion_requests_total", model='a"\\\n', status="200").add(3)
    for value in (1, 3, 500):
        metrics.histogram("ganglion_batch_instances", (2.0, 4.0), replica="r").observe(value)
    text = metrics.render({("ganglion_connections", ()): 2}).decode()
    assert text.splitlines() == [
        f"# HELP ganglion_requests_total {HELP['ganglion_requests_total'][1]}",
        "# TYPE ganglion_requests_total counter",
        r'ganglion_requests_total{model="a\"\\\n",status="200"} 3',
        f"# HELP ganglion_batch_instances {HELP['ganglion_batch_instances'][1]}",
        "# TYPE ganglion_batch_instances histogram",
        'ganglion_batch_instances_bucket{replica="r",le="2"} 1',
        'ganglion_batch_instances_bucket{replica="r",le="4"} 2',
        'ganglion_batch_instances_bucket{replica="r",le="+Inf"} 3',
        'ganglion_batch_instances_sum{replica="r"} 504',
        'ganglion_batch_instances_count{replica="r"} 3',
        f"# HELP ganglion_connections {HELP['ganglion_connections'][1]}",
        "# TYPE ganglion_connections gauge",
        "ganglion_connections 2",
    ]


def test_what_is_measured_is_said_for_each_model_version_and_replica(
    gateway: GatewayThread, replicas: Callable[[], ScriptedReplica]
) -> None:
    replica = replicas()
    gateway.serve(replica, state="LOADING")
    with httpx.Client(base_url=f"http://127.0.0.1:{gateway.port}", timeout=PATIENCE) as client:
        assert client.post("/v1/models/m:predict", content=b"nonsense").status_code == 400
        for path in ("/v1/models/m:predict", "/v2/models/m/infer", "/v1/models/" + "x" * 50 + ":predict"):
            client.post(path, content=b"{}")
        lines = client.get("/metrics").text.splitlines()
        labels = f'model="m",version="1",replica="{replica.route.id}"'
        assert f"ganglion_batch_seconds_count{{{labels}}} 0" in lines
        assert 'ganglion_requests_total{model="m",version="1",status="400"} 3' in lines
        assert 'ganglion_requests_total{model="",version="",status="404"} 1' in lines, "callers do not choose labels"
        assert 'ganglion_request_seconds_count{model="m",version="1"} 3' in lines
        gateway.serve(generation=2)
        lines = client.get("/metrics").text.splitlines()
        assert not any(replica.route.id in line for line in lines), "a replica that is gone is not named for ever"
