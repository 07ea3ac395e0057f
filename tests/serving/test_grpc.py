"""The Open Inference Protocol over gRPC: a real process between Triton's client and a gateway."""

from __future__ import annotations

import asyncio
import gzip
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from queue import Empty
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
from gateway_samples import PATIENCE, GatewayThread, ScriptedReplica, model, routes
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_samples import encoded, pixels
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from ganglion.artifacts.package import ImageInput
from ganglion.serving.callers import ApiKey, CallerLimit, Callers, digest_of, new_key
from ganglion.serving.gateway.errors import RequestError
from ganglion.serving.gateway.limits import HttpLimits
from ganglion.serving.grpc import messages, translation
from ganglion.serving.grpc.gateway_client import GatewayClient
from ganglion.serving.grpc.service import header_fields
from ganglion.serving.port import hold_port

Make = Callable[[], ScriptedReplica]
INFER = f"/{messages.SERVICE}/ModelInfer"
BODY = 2**21
ENTRY = "from ganglion.serving.grpc.main import serve"


class GrpcProcess:
    """The process that translates, as the controller starts it, and a channel to it."""

    def __init__(self, gateway_port: int) -> None:
        self._holder = hold_port("127.0.0.1", 0)
        self.port = self._holder.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        code = f"{ENTRY}; serve('127.0.0.1', {self.port}, '127.0.0.1', {gateway_port}, {{'body': {BODY}}})"
        self.process = subprocess.Popen([sys.executable, "-W", "error", "-c", code])
        self.channel = grpc.insecure_channel(self.address)
        grpc.channel_ready_future(self.channel).result(PATIENCE)
        self._pool = ThreadPoolExecutor(8)

    def infer(self, request: Any, timeout: float | None = PATIENCE, **metadata: str) -> Future[Any]:
        """Send a message, made with Triton's classes, at once."""
        call = self.channel.unary_unary(
            INFER,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=service_pb2.ModelInferResponse.FromString,
        )
        pairs = tuple((name.replace("_", "-"), value) for name, value in metadata.items())
        return self._pool.submit(call, request, timeout=timeout, metadata=pairs)

    def refused(self, request: Any, **more: Any) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.RpcError) as caught:
            self.infer(request, **more).result(PATIENCE)
        return caught.value.code(), caught.value.details()

    def close(self) -> None:
        self.channel.close()
        self.process.kill()
        self.process.wait()
        self._holder.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[GatewayThread, GrpcProcess]]:
    """One process for the tests that change nothing but the routes."""
    gateway = GatewayThread(HttpLimits())
    process = GrpcProcess(gateway.port)
    yield gateway, process
    process.close()
    gateway.close()


class Served:
    """A model `m` behind a gateway behind the process."""

    generation = 0

    def __init__(self, gateway: GatewayThread, process: GrpcProcess, replica: ScriptedReplica) -> None:
        self.gateway, self.process, self.replica = gateway, process, replica
        Served.generation += 1
        gateway.apply(routes(generation=Served.generation))  # nothing is left of, or learnt from, the test before
        self.serve()

    def serve(self, callers: Callers | None = None, **fields: Any) -> None:
        Served.generation += 1
        made = model("m", [self.replica], **fields)
        self.gateway.apply(routes(made, generation=Served.generation, callers=callers))
        self.gateway.wait_connected(1)


@pytest.fixture
def served(shared: tuple[GatewayThread, GrpcProcess], replicas: Make) -> Served:
    return Served(*shared, replicas())


@pytest.fixture
def client(served: Served) -> Iterator[triton.InferenceServerClient]:
    made = triton.InferenceServerClient(served.process.address)
    yield made
    made.close()


def request(*inputs: dict[str, Any], raw: list[bytes] | None = None, **fields: Any) -> Any:
    tensors = [service_pb2.ModelInferRequest.InferInputTensor(**tensor) for tensor in inputs]
    return service_pb2.ModelInferRequest(**({"model_name": "m"} | fields), inputs=tensors, raw_input_contents=raw or [])


def x(shape: tuple[int, ...] = (1, 2), datatype: str = "FP32", **contents: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"name": "x", "shape": shape, "datatype": datatype}
    if contents:
        made["contents"] = service_pb2.InferTensorContents(**contents)
    return made


@pytest.mark.parametrize("name", messages.MESSAGES)
def test_the_messages_are_those_that_another_implementation_has(name: str) -> None:
    theirs: Any = service_pb2
    for part in name.split("."):
        theirs = getattr(theirs, part)
    others = theirs.DESCRIPTOR.fields_by_name
    for field in messages.message_class(name).DESCRIPTOR.fields:
        other = others[field.name]
        assert (field.number, field.type, field.is_repeated) == (other.number, other.type, other.is_repeated)
        assert (field.containing_oneof is None) == (other.containing_oneof is None)
        if field.message_type is not None and not field.message_type.GetOptions().map_entry:
            assert field.message_type.full_name == other.message_type.full_name


def test_the_client_of_triton_is_answered(served: Served, client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("m")
    assert client.is_model_ready("m", "1")
    assert client.get_server_metadata().name == "ganglion"
    about = client.get_model_metadata("m")
    assert (about.name, list(about.versions), about.platform) == ("m", ["1"], "ganglion")
    assert [(one.name, one.datatype, list(one.shape)) for one in about.inputs] == [("x", "FP32", [-1, 2])]
    assert [(one.name, one.datatype, list(one.shape)) for one in about.outputs] == [("y", "FP32", [-1])]
    given = triton.InferInput("x", [2, 2], "FP32")
    given.set_data_from_numpy(np.array([[1.5, 0], [2.5, 0]], np.float32))
    for version in ("", "1"):
        with ThreadPoolExecutor(1) as pool:
            echo = pool.submit(served.replica.echo)
            answer = client.infer(
                "m", [given], version, outputs=[triton.InferRequestedOutput("y")], request_id="seven", timeout=5_000_000
            )
            assert echo.result(PATIENCE) == [1.5, 2.5]
        assert answer.as_numpy("y").tolist() == [1.5, 2.5]
        assert (answer.get_response().id, answer.get_response().model_version) == ("seven", "1")


def test_numbers_may_be_raw_or_typed(served: Served) -> None:
    values = np.array([[1.5, 0], [2.5, 0]], np.float32)
    for message in (
        request(x((2, 2)), raw=[values.tobytes()]),
        request(x((2, 2), fp32_contents=values.reshape(-1).tolist())),
    ):
        asked = served.process.infer(message)
        assert served.replica.echo() == [1.5, 2.5]
        answer = asked.result(PATIENCE)
        assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [1.5, 2.5]


@pytest.mark.parametrize("raw", [True, False])
def test_encoded_images_are_elements_of_bytes(served: Served, raw: bool) -> None:
    served.serve(image=ImageInput(28, 28, "L"))
    files = [encoded(one) for one in pixels(2)]
    tensor = triton.InferInput("x", [2], "BYTES")
    tensor.set_data_from_numpy(np.array(files, dtype=object))
    contents = {} if raw else {"bytes_contents": files}
    asked = served.process.infer(request(x((2,), "BYTES", **contents), raw=[tensor._get_content()] if raw else None))
    batch, _ = served.replica.next()
    assert batch.images == tuple(map(len, files))
    served.replica.answer(batch, [1, 2])
    assert np.frombuffer(asked.result(PATIENCE).raw_output_contents[0], np.float32).tolist() == [1, 2]


EIGHT = b"12345678"
INVALID = grpc.StatusCode.INVALID_ARGUMENT
REFUSED: list[tuple[Any, grpc.StatusCode, str]] = [
    (request(x(), raw=[EIGHT], model_name=""), INVALID, "name of the model is empty"),
    (request(x(), raw=[EIGHT], model_name="n"), grpc.StatusCode.NOT_FOUND, "no model 'n'"),
    (request(x(), raw=[EIGHT], model_name="../m"), grpc.StatusCode.NOT_FOUND, "no model '../m'"),
    (request(x(), raw=[EIGHT], model_name="m\r\nx-api-key: 1"), grpc.StatusCode.NOT_FOUND, "no model"),
    (request(x(), raw=[EIGHT], model_name="\u0000"), grpc.StatusCode.NOT_FOUND, "no model"),
    (request(x(), raw=[EIGHT], model_name="m" * 10_000), INVALID, "longer than"),
    (request(x(), raw=[EIGHT], model_version="9"), grpc.StatusCode.NOT_FOUND, "no version 9"),
    (request(x(), raw=[EIGHT], model_version="\u0661"), INVALID, "no version"),
    (request(x(), raw=[EIGHT], model_version="newest"), INVALID, "a number is expected"),
    (request(), INVALID, "the model has ['x']"),
    (request(x()), INVALID, "fp32_contents are expected"),
    (request(x(), raw=[EIGHT, EIGHT]), INVALID, "1 inputs have 2 raw contents"),
    (request(x(fp32_contents=[1, 2]), raw=[EIGHT]), INVALID, "raw and typed contents"),
    (request(x(int_contents=[1, 2])), INVALID, "has the contents int_contents; fp32_contents are expected"),
    (request(x(fp32_contents=[1, 2], int_contents=[1])), INVALID, "fp32_contents are expected"),
    (request(x(fp32_contents=[1, 2, 3])), INVALID, "its shape needs 8"),
    (request(x(fp32_contents=[float("nan"), 2])), INVALID, "NaN or infinity"),
    (request(x(datatype="INT8", int_contents=[300, 1])), INVALID, "too large for INT8"),
    (request(x(datatype="FP16", fp32_contents=[1, 2])), INVALID, "have to be raw"),
    (request(x(datatype="nonsense", fp32_contents=[1, 2])), INVALID, "have to be raw"),
    (request(x(datatype="FP64", fp64_contents=[1, 2])), INVALID, "the model takes FP32"),
    (request(x((1, 3)), raw=[b"123456789012"]), INVALID, "the model takes [-1, 2]"),
    (request(x((-1, 2)), raw=[EIGHT]), INVALID, "no inference request"),
    (request(x((2**40, 2)), raw=[EIGHT]), INVALID, "no inference request"),
    (request(x(), raw=[b"1234567"]), INVALID, "its shape needs 8"),
    (
        request(x(), raw=[EIGHT], outputs=[service_pb2.ModelInferRequest.InferRequestedOutputTensor(name="z")]),
        INVALID,
        "no output 'z'",
    ),
]


def test_what_does_not_fit_is_refused_with_the_code_and_the_reason(served: Served) -> None:
    for message, code, text in REFUSED:
        given, details = served.process.refused(message)
        assert (given, text in details) == (code, True), details
    assert served.replica.idle


def test_what_an_answer_says_beside_its_tensors_is_kept() -> None:
    header = b'{"model_name":"m","model_version":"1","parameters":{"members":"a","rows":2},"outputs":[]}'
    answer = translation.GatewayAnswer(200, {"inference-header-content-length": str(len(header))}, header)
    message = service_pb2.ModelInferResponse.FromString(translation.infer_response(answer).SerializeToString())
    assert {key: value.WhichOneof("parameter_choice") for key, value in message.parameters.items()} == {
        "members": "string_param",
        "rows": "int64_param",
    }
    assert (message.parameters["members"].string_param, message.parameters["rows"].int64_param) == ("a", 2)


def test_bytes_that_are_no_message_are_refused(served: Served) -> None:
    call = served.process.channel.unary_unary(INFER)
    with pytest.raises(grpc.RpcError, match="The message is no ModelInferRequest") as caught:
        call(b"\xff\xff\xff", timeout=PATIENCE)
    assert caught.value.code() is INVALID
    with pytest.raises(grpc.RpcError) as caught:
        served.process.channel.unary_unary(f"/{messages.SERVICE}/Nothing")(b"", timeout=PATIENCE)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_messages_beyond_the_limit_of_bodies_are_refused_also_when_they_were_compressed(served: Served) -> None:
    big = request(x(), raw=[bytes(BODY + 1)])
    for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
        call = served.process.channel.unary_unary(INFER, request_serializer=lambda message: message.SerializeToString())
        with pytest.raises(grpc.RpcError, match="larger than max") as caught:
            call(big, timeout=PATIENCE, compression=compression)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len(gzip.compress(big.SerializeToString())) < 2**14, "a small message can be a large one"


def test_the_deadline_of_a_call_is_the_deadline_of_its_request(served: Served) -> None:
    message = request(x(fp32_contents=[1, 2]))
    held = served.process.infer(message)
    batch, _ = served.replica.next()
    late = [served.process.infer(message, timeout=0.2) for _ in range(3)]  # behind it, with a deadline of their own
    for call in late:
        with pytest.raises(grpc.RpcError) as caught:
            call.result(PATIENCE)
        assert caught.value.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)
    served.replica.answer(batch, [1])
    assert held.result(PATIENCE).model_name == "m"
    again = served.process.infer(message)
    batch, rows = served.replica.next()
    assert len(rows) == 1, "what its caller gave up was not asked of the replica"
    served.replica.answer(batch, [1])
    assert again.result(PATIENCE).model_name == "m"


class Call:
    """A call as its server sees it."""

    def __init__(self, left: float | None, **metadata: str | bytes) -> None:
        self.time_remaining = lambda: left
        self.invocation_metadata = lambda: tuple((name.replace("_", "-"), value) for name, value in metadata.items())


def test_deadline_and_key_of_a_call_are_header_fields() -> None:
    assert header_fields(Call(1.5, x_api_key="k", user_agent="u")) == {
        "x-api-key": "k",
        "x-request-timeout-ms": "1500",
    }
    assert header_fields(Call(None, authorization="Bearer k")) == {"authorization": "Bearer k"}
    assert header_fields(Call(1e-9)) == {"x-request-timeout-ms": "1"}
    assert header_fields(Call(1e9, x_api_key=b"raw")) == {}, "no deadline at all, and no key that is text"


def test_a_call_that_is_cancelled_is_not_asked_of_a_replica(served: Served) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{served.gateway.port}", timeout=PATIENCE) as metrics:

        def wait_for(sample: str) -> None:
            end = time.monotonic() + PATIENCE
            while sample not in metrics.get("/metrics").text.splitlines():
                assert time.monotonic() < end, metrics.get("/metrics").text

        served.serve(max_batch=1)
        message = request(x(fp32_contents=[1, 2])).SerializeToString()
        call = served.process.channel.unary_unary(INFER)
        first = call.future(message)
        batch, _ = served.replica.next()
        given_up = call.future(message)
        wait_for('ganglion_queue_instances{model="m",version="1"} 1')
        before = metrics.get("/metrics").text
        open_then = next(line for line in before.splitlines() if line.startswith("ganglion_connections "))
        assert given_up.cancel()
        wait_for(f"ganglion_connections {int(open_then.split()[1]) - 1}")
        third = call.future(request(x(fp32_contents=[3, 2])).SerializeToString())
        served.replica.answer(batch, [1])
        assert served.replica.echo() == [3], "the one that was given up is not asked"
        assert first.result(PATIENCE)
        assert third.result(PATIENCE)


def test_a_kept_connection_that_ends_as_it_is_used_costs_no_call() -> None:
    answers = iter([b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", b""])

    handlers: list[Any] = []

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer once, read the next request, and end without a word; who comes again is answered."""
        handlers.append(asyncio.current_task())
        with suppress(asyncio.IncompleteReadError):  # the client is through
            while await reader.readuntil(b"\r\n\r\n"):
                answer = next(answers, b"HTTP/1.1 503 No\r\ncontent-length: 3\r\n\r\nend")
                if not answer:
                    break
                writer.write(answer)
        writer.close()
        await writer.wait_closed()

    async def ask() -> list[int]:
        server = await asyncio.start_server(behave, "127.0.0.1", 0)
        client = GatewayClient("127.0.0.1", server.sockets[0].getsockname()[1])
        found = [(await client.ask(translation.GatewayRequest("GET", "/v2"))).status for _ in range(2)]
        client.close()
        server.close()
        for handler in handlers:
            with suppress(ConnectionError):  # the client cuts what it keeps
                await handler
        return found

    assert asyncio.run(ask()) == [200, 503]


def test_keys_and_limits_of_callers_are_those_of_the_gateway(served: Served) -> None:
    key = new_key()
    limit = CallerLimit(rate=0.01, burst=1)
    served.serve(Callers(anonymous=None, authenticated=limit, keys=(ApiKey(name="ann", digest=digest_of(key)),)))
    message = request(x(fp32_contents=[1, 2]))
    code, details = served.process.refused(message)
    assert (code, "An API key is needed" in details) == (grpc.StatusCode.UNAUTHENTICATED, True)
    asked = served.process.infer(message, authorization=f"Bearer {key}")
    assert served.replica.echo() == [1]
    assert asked.result(PATIENCE).model_name == "m"
    with pytest.raises(grpc.RpcError, match=r"More than 0\.01 requests a second by key ann") as caught:
        served.process.infer(message, x_api_key=key).result(PATIENCE)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    pause = dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"]
    assert 90_000 <= int(pause) <= 100_000


def test_the_client_of_triton_understands_refusals(served: Served, client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="no model 'n'"):
        client.get_model_metadata("n")
    with pytest.raises(InferenceServerException, match="no model 'n'"):
        client.is_model_ready("n")


def test_a_gateway_that_is_away_is_unavailable_and_found_again(replicas: Make) -> None:
    first = GatewayThread()
    port = first.port
    with closing(GrpcProcess(port)) as process:
        replica = replicas()
        first.serve(replica)
        message = request(x(fp32_contents=[1, 2]))
        asked = process.infer(message)
        replica.echo()
        assert asked.result(PATIENCE).model_name == "m"
        first.close()
        assert process.refused(message)[0] is grpc.StatusCode.UNAVAILABLE
        with triton.InferenceServerClient(process.address) as client:
            assert client.is_server_live()
            assert not client.is_server_ready()
        back = GatewayThread(port=port)
        try:
            back.serve(replica)
            asked = process.infer(message)
            replica.echo()
            assert asked.result(PATIENCE).model_name == "m"
            back.cut()  # the connection that was kept ends between two requests
            asked = process.infer(message)
            replica.echo()
            assert asked.result(PATIENCE).model_name == "m"
        finally:
            back.close()


tensors = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["x", "y", ""]),
        "datatype": st.sampled_from(["FP32", "BYTES", "INT8", "FP16", "BOOL", "x"]),
        "shape": st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 3), max_size=3),
        "contents": st.builds(
            service_pb2.InferTensorContents,
            fp32_contents=st.lists(st.floats(width=32), max_size=3),
            int_contents=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=2),
            bytes_contents=st.lists(st.binary(max_size=4), max_size=2),
        ),
    },
)


@given(
    inputs=st.lists(tensors, max_size=2),
    raw=st.lists(st.binary(max_size=9), max_size=2),
    name=st.sampled_from(["m", ""]) | st.text(max_size=4),
    version=st.sampled_from(["", "1"]) | st.text(max_size=3),
)
def test_any_message_becomes_a_request_or_is_refused(inputs: Any, raw: Any, name: str, version: str) -> None:
    message = request(*inputs, raw=raw, model_name=name, model_version=version)
    ours = messages.ModelInferRequest.FromString(message.SerializeToString())
    try:
        made = translation.infer_request(ours, {})
    except RequestError:
        return  # of the caller, and nothing else is raised
    assert made.path.isascii()
    assert not {" ", "\r", "\n"} & set(made.path)
    assert made.path.count("/") in (4, 6)


@settings(deadline=None, max_examples=100)
@given(
    data=st.binary(max_size=60), inputs=st.lists(tensors, max_size=2), raw=st.lists(st.binary(max_size=9), max_size=2)
)
def test_no_call_is_answered_with_a_fault_of_ours(
    fuzzed: GrpcProcess, data: bytes, inputs: Any, raw: list[bytes]
) -> None:
    call = fuzzed.channel.unary_unary(INFER)
    for message in (data, request(*inputs, raw=raw).SerializeToString()):
        _answer, outcome = _outcome(call, message)
        assert outcome in (grpc.StatusCode.OK, INVALID, grpc.StatusCode.NOT_FOUND)


def _outcome(call: Any, message: bytes) -> tuple[bytes, grpc.StatusCode]:
    try:
        return call(message, timeout=PATIENCE), grpc.StatusCode.OK
    except grpc.RpcError as error:
        return b"", error.code()


@pytest.fixture(scope="module")
def fuzzed(shared: tuple[GatewayThread, GrpcProcess]) -> Iterator[GrpcProcess]:
    replica, over = ScriptedReplica(), threading.Event()

    def echo() -> None:
        while not over.is_set():
            with suppress(Empty):
                batch, rows = replica._batches.get(timeout=0.05)
                replica.answer(batch, rows[:, 0])

    thread = threading.Thread(target=echo)
    thread.start()
    Served(*shared, replica)
    yield shared[1]
    over.set()
    thread.join()
    replica.die()


def test_a_port_that_is_taken_is_refused_by_the_process() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code = f"{ENTRY}; serve('127.0.0.1', {port}, '127.0.0.1', 1)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1
    assert f"gRPC cannot be served at 127.0.0.1:{port}" in done.stderr
