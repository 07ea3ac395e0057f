import os
import time

import pytest

from ganglion.artifacts import find_garbage, remove_garbage
from ganglion.core.errors import IntegrityError

LATER = time.time() + 7200


def test_what_nothing_refers_to_is_listed_and_removed(store):
    kept = store.put_bytes(b"kept", "model")
    loose = store.put_bytes(b"loose!", "model")
    garbage = find_garbage(store, [kept.digest, "sha256:" + "0" * 64], now=LATER)
    assert [blob.digest for blob in garbage.blobs] == [loose.digest]
    assert garbage.size == 6
    assert loose in store
    assert remove_garbage(store, garbage) == 6
    assert [digest for digest, _ in store.digests()] == [kept.digest]


def test_files_of_a_referenced_tree_are_kept(store, tmp_path):
    for name in ("a", "b"):
        (tmp_path / "source").mkdir(exist_ok=True)
        (tmp_path / "source" / name).write_text(name)
    tree = store.put_tree(tmp_path / "source", "data")
    assert find_garbage(store, [tree.digest], now=LATER).blobs == ()
    assert len(find_garbage(store, [], now=LATER).blobs) == 3


def test_damaged_referenced_tree_stops_the_search(store, tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a").write_text("a")
    tree = store.put_tree(tmp_path / "source", "data")
    path = store.path(tree)
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content + b" ")
    with pytest.raises(IntegrityError, match=tree.digest):
        find_garbage(store, [tree.digest], now=LATER)


def test_what_was_just_put_is_left_alone(store):
    store.put_bytes(b"in use by a running step", "data")
    assert find_garbage(store, [], now=time.time()).blobs == ()
    assert len(find_garbage(store, [], now=time.time() + 1, grace=0).blobs) == 1


def test_blob_put_again_after_the_listing_stays(store):
    artifact = store.put_bytes(b"again", "data")
    os.utime(store.path(artifact), (1, 1))
    garbage = find_garbage(store, [], now=LATER)
    store.put_bytes(b"again", "data")
    assert remove_garbage(store, garbage) == 0
    assert artifact in store


def test_remains_of_an_interrupted_write_go(store):
    store.put_bytes(b"x", "data")
    (store.root / "incoming" / "interrupted").write_bytes(b"half")
    garbage = find_garbage(store, [], now=LATER)
    assert [file.size for file in garbage.remains] == [4]
    remove_garbage(store, garbage)
    assert list(store.remains()) == list(store.blobs()) == []


def test_empty_store_has_no_garbage(store):
    assert find_garbage(store, [], now=LATER).size == 0
    assert not store.root.exists()
