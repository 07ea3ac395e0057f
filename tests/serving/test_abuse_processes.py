"""Strangers and real processes: what is bad is refused with a message, no replica is lost and no memory is kept."""

from __future__ import annotations

import os
import select
import shutil
import socket
import struct
import time
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
import tritonclient.http as triton
from real_server import SMALL, RealServer
from serving_samples import encoded, expected, pixels, write_classifier

from ganglion.core.errors import GanglionError, ModelError, NotFoundError

PATIENCE = 60.0
PREDICT, INFER = "/v1/models/fashion:predict", "/v2/models/fashion/infer"
GROWTH = 24 * 2**20
"""Bytes by which three processes may differ after hundreds of requests: what allocators keep, no leak."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    real = RealServer(tmp_path_factory.mktemp("abuse"))
    write_classifier(real.folder / "package")
    real.repository.publish("fashion", real.folder / "package")
    real.server.deploy("fashion", replicas=2, resources=SMALL)
    yield real
    real.close()


@pytest.fixture
def client(served: RealServer) -> Iterator[httpx.Client]:
    """The pids are the same afterwards and the model still answers right: nobody died of what a test did."""
    with httpx.Client(base_url=served.url, timeout=PATIENCE) as made:
        check(made)
        before = served.pids
        assert len(before) == 3, "two replicas and a gateway"
        yield made
        check(made)
        assert served.pids == before


def check(client: httpx.Client) -> None:
    given = pixels(1)
    answer = client.post(PREDICT, json={"instances": given.tolist()})
    np.testing.assert_allclose(answer.json()["predictions"], expected(given, 0), atol=1e-6)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, data: bytes, *extra: bytes) -> bytes:
    """A PNG of gray pixels with this compressed data."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def zeros(count: int) -> bytes:
    """So many zero bytes, compressed, in blocks that are the same from the second one on; the stream has no end."""
    packer = zlib.compressobj(9)
    blocks = [packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2)]
    return blocks[0] + blocks[1] * (count // 2**20 - 1)


BOMBS = {
    "claims-more-than-there-is": lambda: png(60_000, 60_000, zlib.compress(b"")),
    "claims-more-than-a-number-holds": lambda: png(2**31 - 1, 2**31 - 1, zlib.compress(b"")),
    "is-as-large-as-it-claims": lambda: png(20_000, 20_000, zeros(400 * 2**20)),
    "is-larger-than-we-decode": lambda: png(9_000, 9_000, zeros(90 * 2**20)),
    "unpacks-to-more-than-it-claims": lambda: png(28, 28, zeros(400 * 2**20)),
    "text-that-unpacks": lambda: png(28, 28, zeros(2**20), chunk(b"zTXt", b"a\0\0" + zeros(200 * 2**20))),
    "profile-that-unpacks": lambda: png(28, 28, zeros(2**20), chunk(b"iCCP", b"a\0\0" + zeros(200 * 2**20))),
    "profile-that-is-nonsense": lambda: png(28, 28, b"x" * 100, chunk(b"iCCP", b"\xff" * 1000)),
}


@pytest.mark.parametrize("name", BOMBS)
def test_an_image_bomb_costs_its_sender_an_error(served: RealServer, client: httpx.Client, name: str) -> None:
    bomb = b64encode(BOMBS[name]()).decode()
    body = orjson.dumps({"instances": [{"image_bytes": {"b64": bomb}}]})
    client.post(PREDICT, content=body)  # what is loaded once is loaded
    before = served.memory()
    for _ in range(5):
        answer = client.post(PREDICT, content=body)
        if name == "unpacks-to-more-than-it-claims":
            assert answer.status_code == 200, "what is beyond the last pixel is not unpacked"
        elif name == "text-that-unpacks" or name == "profile-that-unpacks":
            assert answer.status_code in (200, 400)
        else:
            assert (answer.status_code, "Instance 0" in answer.json()["error"]) == (400, True), answer.text
    assert served.memory() - before < GROWTH
    picture = {"image_bytes": {"b64": b64encode(encoded(pixels(1)[0])).decode()}}
    answer = client.post(PREDICT, json={"instances": [picture, {"image_bytes": {"b64": bomb}}, picture]})
    assert answer.status_code in (200, 400)


DEEP = b"[" * 100_000 + b"]" * 100_000
RIGHT = orjson.dumps({"instances": pixels(1).tolist()})
BROKEN: dict[str, tuple[str, bytes]] = {
    "truncated": (PREDICT, RIGHT[:-20]),
    "deep": (PREDICT, b'{"instances": ' + DEEP + b"}"),
    "deep-objects": (PREDICT, b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "deep-v2": (INFER, b'{"inputs": [{"name": "pixels", "shape": [1], "datatype": "UINT8", "data": ' + DEEP + b"}]}"),
    "shape": (PREDICT, b'{"instances": [[1, 2, 3]]}'),
    "dtype": (PREDICT, RIGHT.replace(b"[[[", b'[[["1",', 1)),
    "fraction": (PREDICT, orjson.dumps({"instances": (pixels(1) + 0.5).tolist()})),
    "too-large": (PREDICT, orjson.dumps({"instances": (pixels(1).astype(int) + 256).tolist()})),
    "nan": (PREDICT, b'{"instances": [[NaN]]}'),
    "unknown-key": (PREDICT, b'{"instanses": [[1]]}'),
    "unknown-signature": (PREDICT, b'{"signature_name": "other", "instances": [[1]]}'),
    "examples": ("/v1/models/fashion:classify", b'{"examples": [{"pixels": [1, 2]}]}'),
    "no-image": (PREDICT, b'{"instances": [{"image_bytes": {"b64": "bm9uc2Vuc2U="}}]}'),
}


def test_hundreds_of_broken_bodies_are_refused_and_leave_nothing(served: RealServer, client: httpx.Client) -> None:
    def storm(rounds: int) -> None:
        for _ in range(rounds):
            for name, (path, body) in BROKEN.items():
                answer = client.post(path, content=body)
                assert (answer.status_code, bool(answer.json()["error"])) == (400, True), name

    storm(3)
    before = served.memory()
    storm(16)
    assert served.memory() - before < 64 * 2**20, "of the ten bodies that were begun not even one is kept"


def test_a_gigabyte_is_refused_early_again_and_again(served: RealServer, client: httpx.Client) -> None:
    def send(head: str, piece: bytes) -> int:
        """How many bytes were taken before the refusal was there."""
        sent = 0
        with socket.create_connection(("127.0.0.1", served.port), PATIENCE) as connection:
            connection.sendall(f"POST {PREDICT} HTTP/1.1\r\nhost: x\r\n{head}\r\n\r\n".encode())
            connection.setblocking(False)
            answer = b""
            while sent < 2**30 and not answer:
                select.select([connection], [connection], [], PATIENCE)
                with suppress(BlockingIOError):
                    start = sent % len(piece)
                    sent += connection.send(piece[start:])
                with suppress(BlockingIOError):
                    answer = connection.recv(2**16)
            assert answer.split()[1] == b"413"
            return sent

    piece = b"10000\r\n" + b"x" * 2**16 + b"\r\n"
    send("transfer-encoding: chunked", piece)
    before = served.memory()
    for _ in range(5):
        assert send(f"content-length: {2**30}", b"x" * 2**16) < 32 * 2**20
        assert send("transfer-encoding: chunked", piece) < 128 * 2**20, "64 MiB are allowed, then it is over"
    assert served.memory() - before < GROWTH


def test_slow_connections_hold_nobody_up(served: RealServer, client: httpx.Client) -> None:
    with ExitStack() as stack:
        for number in range(500):
            slow = stack.enter_context(socket.create_connection(("127.0.0.1", served.port), PATIENCE))
            slow.sendall(
                f"POST {PREDICT} HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n"[: 10 + number % 70].encode()
            )
        took = []
        for _ in range(20):
            began = time.perf_counter()
            check(client)
            took.append(time.perf_counter() - began)
        assert sorted(took)[10] < 1.0, "seconds"
        assert b"ganglion_connections 50" in client.get("/metrics").content


TRICKS = [
    "/v1/models/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "/v1/models/..%2f..%2f..%2fetc%2fpasswd/metadata",
    "/v1/models/%2fetc%2fpasswd",
    "/v1/models//etc/passwd",
    "/v1/models/fashion%2f1",
    "/v1/models/fashion%00",
    "/v1/models/fashion/labels/..%2f1",
    "/v1/models/fashion/labels/aliases.json",
    "/v1/models/fashion/versions/..",
    "/v1/models/C:%5cwindows",
    "/v2/models/%2e%2e%2ffashion",
    "/v2/models/%252e%252e%252ffashion",
    "/v2/models/~root",
]


def test_no_trick_with_a_name_finds_a_file(served: RealServer, client: httpx.Client) -> None:
    for trick in TRICKS:
        with socket.create_connection(("127.0.0.1", served.port), PATIENCE) as connection:
            connection.sendall(f"GET {trick} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda taken=connection: taken.recv(2**16), b""))
        assert answer.split()[1] == b"404", trick
        assert b'{"error":' in answer
        assert b"root:" not in answer
    for name in ("../fashion", "/etc", "..", "fashion/1", "fashion\0", ".lock", "a" * 200):
        with pytest.raises(ModelError, match="cannot be the name of a model"):
            served.server.deploy(name)


def test_random_binary_tensors_are_refused_or_answered(client: httpx.Client, served: RealServer) -> None:
    randomness = np.random.default_rng(7)
    with triton.InferenceServerClient(f"127.0.0.1:{served.port}") as theirs:
        for _ in range(30):
            shape = tuple(int(size) for size in randomness.choice([0, 1, 27, 28, 29], randomness.integers(1, 5)))
            tensor = triton.InferInput("pixels", list(shape), "UINT8")
            tensor.set_data_from_numpy(randomness.integers(0, 256, shape, np.uint8))
            right = len(shape) == 3 and shape[0] > 0 and shape[1:] == (28, 28)
            with nullcontext() if right else pytest.raises(triton.InferenceServerException):
                theirs.infer("fashion", [tensor])
    raw = [randomness.bytes(200) for _ in range(100)]
    assert {client.post(INFER, content=body).status_code for body in raw} == {400}


@pytest.fixture
def published(served: RealServer) -> Callable[[str], Path]:
    """Publishes a model; its folder in the repository."""

    def publish(name: str) -> Path:
        served.repository.publish(name, served.folder / "package")
        return served.repository.root / name

    return publish


def link_model(folder: Path, outside: Path) -> None:
    folder.rename(outside)
    folder.symlink_to(outside)


def link_version(folder: Path, outside: Path) -> None:
    (folder / "1").rename(outside)
    (folder / "1").symlink_to(outside)


def link_file(folder: Path, outside: Path) -> None:
    (folder / "1" / "model.onnx").rename(outside)
    (folder / "1" / "model.onnx").symlink_to(outside)


def link_manifest(folder: Path, outside: Path) -> None:
    (folder / "1" / "package.json").rename(outside)
    (folder / "1" / "package.json").symlink_to(outside)


def replace_file(folder: Path, _outside: Path) -> None:
    path = folder / "1" / "model.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    path.write_bytes(content)


def unknown_key(folder: Path, _outside: Path) -> None:
    path = folder / "1" / "package.json"
    path.write_bytes(orjson.dumps(orjson.loads(path.read_bytes()) | {"hook": "os.system"}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (link_model, "symbolic link"),
        (link_version, "symbolic link"),
        (link_file, "symbolic link"),
        (link_manifest, "symbolic link"),
        (replace_file, "digest"),
        (unknown_key, "hook"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_folder_that_was_tampered_with_is_not_served(
    served: RealServer,
    client: httpx.Client,
    published: Callable[[str], Path],
    tmp_path: Path,
    damage: Callable[[Path, Path], None],
    message: str,
) -> None:
    name = damage.__name__.replace("_", "-")
    damage(published(name), tmp_path / "outside")
    with pytest.raises((ModelError, NotFoundError), match=message):
        served.server.deploy(name, 1)
    with pytest.raises(GanglionError, match=message):
        served.server.deploy(name)
    assert client.post(f"/v1/models/{name}:predict", content=RIGHT).status_code == 404


def test_a_file_that_is_replaced_under_a_loaded_model_is_never_loaded(
    served: RealServer, published: Callable[[str], Path]
) -> None:
    folder = published("loaded")
    served.server.deploy("loaded", replicas=1, resources=SMALL)
    with httpx.Client(base_url=served.url, timeout=PATIENCE) as client:
        given = pixels(1)
        replace_file(folder, folder)
        ask: dict[str, Any] = {"url": "/v1/models/loaded:predict", "json": {"instances": given.tolist()}}
        np.testing.assert_allclose(client.post(**ask).json()["predictions"], expected(given, 0), atol=1e-6)
        (replica,) = [pid for member, pid in served.pids.items() if "serve-loaded" in member]
        os.kill(replica, 9)  # its successor has to read the file
        job = next(key[0] for key in served.supervisor.members if "serve-loaded" in key[0])
        end = time.monotonic() + PATIENCE
        while sum(ended == job for ended, _member, _attempt in served.supervisor.ended) < 3:
            assert time.monotonic() < end, "its successors try to load the file"
            assert client.post(**ask, headers={"x-request-timeout-ms": "200"}).status_code == 503
        refused = client.post(**ask, headers={"x-request-timeout-ms": "200"})
        assert (refused.status_code, bool(refused.json()["error"])) == (503, True)
    served.server.undeploy("loaded", wait=False)
    shutil.rmtree(folder)
