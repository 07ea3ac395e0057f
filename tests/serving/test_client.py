from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from gateway_samples import GatewayThread, ScriptedReplica, model, routes

from ganglion.core.errors import ControlError, UserError
from ganglion.serving.client import Client, ServiceError


def test_arrays_of_numpy_can_be_sent_in_any_nesting(
    gateway: GatewayThread, replicas: Callable[[], ScriptedReplica]
) -> None:
    replica = replicas()
    gateway.serve(replica)
    with Client(f"127.0.0.1:{gateway.port}") as client:
        for given in (
            np.array([[1.5, 2]], np.float32),
            [np.array([1.5, 2])],
            [[np.float32(1.5), 2]],
            [{"x": [1.5, 2]}],
        ):
            answered = _answer_one(replica)
            assert client.predict("m", given) == [1.5]
            answered.result(20)


def _answer_one(replica: ScriptedReplica) -> Future[list[float]]:
    return ThreadPoolExecutor(1).submit(replica.echo)


def test_errors_say_what_the_service_said(gateway: GatewayThread) -> None:
    gateway.apply(routes(model("m", [], state="LOADING", timeout=0.2)))
    with Client(f"http://127.0.0.1:{gateway.port}/") as client:
        with pytest.raises(ServiceError, match=r"No replica of model 'm' was free within 0\.2 s.*HTTP 503") as caught:
            client.predict("m", [[1, 2]])
        assert caught.value.status == 503
        with pytest.raises(ServiceError, match="no version 9"):
            client.status("m", 9)


def test_mistakes_of_the_caller_are_found_before_anything_is_sent(tmp_path: Path) -> None:
    client = Client("http://127.0.0.1:1")
    with pytest.raises(UserError, match="either instances or images"):
        client.predict("m", [[1]], images=[b"x"])
    with pytest.raises(UserError, match="either instances or images"):
        client.predict("m")
    with pytest.raises(UserError, match="No such file"):
        client.predict("m", images=[tmp_path / "missing.png"])
    with pytest.raises(UserError, match="object cannot be sent"):
        client.predict("m", [object()])
    for url in ("ftp://host", "http://", "http://host/path"):
        with pytest.raises(UserError, match="not the address of a service"):
            Client(url)


def test_a_service_that_is_not_there_is_named() -> None:
    with closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with Client(url) as client, pytest.raises(ControlError, match=f"No service answers at {url}"):
            client.models()


def test_a_connection_that_the_service_closed_meanwhile_costs_nothing(
    gateway: GatewayThread, replicas: Callable[[], ScriptedReplica]
) -> None:
    replica = replicas()
    gateway.serve(replica)
    with Client(f"http://127.0.0.1:{gateway.port}") as client:
        client.models()
        gateway.cut()
        answered = _answer_one(replica)
        assert client.predict("m", [[3, 0]]) == [3]
        answered.result(20)


def test_the_client_loads_no_server() -> None:
    code = "import sys; from ganglion.serving import Client; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"numpy", "torch", "onnxruntime", "uvloop", "PIL", "sqlalchemy"} & set(loaded)
