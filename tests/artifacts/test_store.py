import hashlib
import mmap
import stat
from pathlib import Path

import pytest

from ganglion.artifacts import Artifact, FolderStore
from ganglion.core import faults
from ganglion.core.errors import DataError, IntegrityError, NotFoundError


def damage(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)


def test_bytes_come_back_under_their_sha256(store):
    artifact = store.put_bytes(b"weights", "model")
    assert artifact == Artifact(digest="sha256:" + hashlib.sha256(b"weights").hexdigest(), kind="model", size=7)
    assert store.read(artifact) == store.read(artifact.digest) == b"weights"
    assert artifact in store
    assert artifact.digest in store


def test_file_and_bytes_of_the_same_content_are_one_blob(store, tmp_path):
    content = bytes(range(256)) * 20_000  # several chunks
    (tmp_path / "source").write_bytes(content)
    artifact = store.put_file(tmp_path / "source", "dataset")
    assert artifact == store.put_bytes(content, "dataset")
    assert list(store.digests()) == [(artifact.digest, len(content))]


def test_empty_content_is_content(store):
    artifact = store.put_bytes(b"", "empty")
    assert artifact.size == 0
    assert store.read(artifact) == b""
    store.verify(artifact)


def test_path_is_read_only_and_can_be_mapped(store):
    artifact = store.put_bytes(b"mapped", "data")
    path = store.path(artifact)
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as view:
        assert view[:] == b"mapped"


@pytest.mark.parametrize("method", ["path", "read", "verify", "open", "tree", "references"])
def test_absent_artifact_is_not_found_by_name(store, method):
    digest = "sha256:" + "0" * 64
    with pytest.raises(NotFoundError, match=digest):
        getattr(store, method)(digest)
    assert digest not in store


@pytest.mark.parametrize("text", ["", "sha256:", "sha256:../../etc/passwd", "md5:" + "0" * 32, "sha256:" + "A" * 64])
def test_what_is_not_a_digest_is_refused(store, text):
    store.put_bytes(b"x", "x")
    with pytest.raises(NotFoundError, match="not a digest"):
        store.path(text)
    assert text not in store


@pytest.mark.parametrize("content", [b"weighty", b"", b"weights and more"])
def test_damaged_blob_is_found_and_named(store, content):
    artifact = store.put_bytes(b"weights", "model")
    path = store.path(artifact)
    damage(path, content)
    for check in (store.read, store.verify):
        with pytest.raises(IntegrityError) as caught:
            check(artifact)
        assert artifact.digest in str(caught.value)
        assert str(path) in str(caught.value)


def test_putting_again_repairs_a_damaged_blob(store):
    artifact = store.put_bytes(b"weights", "model")
    damage(store.path(artifact), b"rotten")
    store.put_bytes(b"weights", "model")
    assert store.read(artifact) == b"weights"


def test_delete(store):
    artifact = store.put_bytes(b"weights", "model")
    assert store.delete(artifact)
    assert artifact not in store
    assert not store.delete(artifact)


def test_delete_spares_what_was_put_again(store):
    artifact = store.put_bytes(b"weights", "model")
    (blob,) = store.blobs()
    assert not store.delete(artifact, unless_put_since=blob.written - 1)
    assert artifact in store
    assert store.delete(artifact, unless_put_since=blob.written)


def test_putting_what_is_no_file_writes_nothing(store, tmp_path):
    with pytest.raises(DataError, match="missing"):
        store.put_file(tmp_path / "absent", "data")
    with pytest.raises(DataError, match="a folder"):
        store.put_file(tmp_path, "data")
    assert not store.root.exists()


def test_failed_write_leaves_nothing(store):
    def fail(_name, _context):
        raise OSError("no space left")

    faults.install(fail)
    try:
        with pytest.raises(OSError, match="no space"):
            store.put_bytes(b"weights", "model")
    finally:
        faults.install(None)
    assert list(store.blobs()) == list(store.remains()) == []


CRASH = """
import os, sys
from pathlib import Path
from ganglion.artifacts import FolderStore
from ganglion.core import faults

def crash(name, context):
    if name == "artifacts.commit":
        os._exit(9)

faults.install(crash)
FolderStore(Path(sys.argv[1])).put_bytes(b"half" * 100_000, "model")
"""


def test_crash_before_the_commit_leaves_no_visible_blob(store, run_python):
    process = run_python(CRASH, store.root)
    process.communicate()
    assert process.returncode == 9
    assert list(store.digests()) == []
    assert [file.size for file in store.remains()] == [400_000]
    artifact = store.put_bytes(b"half" * 100_000, "model")
    assert store.read(artifact) == b"half" * 100_000


WRITER = """
import sys
from pathlib import Path
from ganglion.artifacts import FolderStore

store = FolderStore(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for round in range(20):
    for number in range(3):
        content = str(number).encode() * 500_000
        artifact = store.put_bytes(content, "data")
        assert store.read(artifact) == content
"""


def test_processes_that_write_the_same_content_never_see_a_half_one(store, run_python):
    processes = [run_python(WRITER, store.root) for _ in range(3)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        _, error = process.communicate()
        assert process.returncode == 0, error
    assert sorted(size for _, size in store.digests()) == [500_000] * 3
    assert list(store.remains()) == []
    for digest, _ in store.digests():
        store.verify(digest)


LIMITED = """
import resource, sys
from pathlib import Path
from ganglion.artifacts import FolderStore

store = FolderStore(Path(sys.argv[1]))
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 32 * 2**20, used + 32 * 2**20))
store.verify(store.put_file(Path(sys.argv[2]), "big"))
"""


def test_file_larger_than_memory_can_be_put_and_verified(store, tmp_path, run_python):
    with (tmp_path / "big").open("wb") as stream:
        stream.truncate(96 * 2**20)
    process = run_python(LIMITED, store.root, tmp_path / "big")
    _, error = process.communicate()
    assert process.returncode == 0, error


def test_two_stores_on_one_folder_share_it(store):
    artifact = store.put_bytes(b"shared", "data")
    assert FolderStore(store.root).read(artifact) == b"shared"
