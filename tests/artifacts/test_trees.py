import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.artifacts import FolderStore
from ganglion.artifacts.files import path_problem
from ganglion.artifacts.trees import Tree, TreeFile, decode_tree, encode_tree
from ganglion.core import faults
from ganglion.core.errors import DataError, IntegrityError, NotFoundError, UserError


def lay_out(folder: Path, content: dict[str, bytes]) -> Path:
    for path, data in content.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


CONTENT = {"b.bin": b"22", "a/deep/c.bin": b"333", "a/same": b"22", "ümlaut.txt": b""}


@pytest.fixture
def tree(store, tmp_path):
    return store.put_tree(lay_out(tmp_path / "source", CONTENT), "dataset")


def stored_tree(store: FolderStore, *paths: str):
    """A tree that `put_tree` would never write."""
    blob = store.put_bytes(b"evil", "data")
    entries = tuple(TreeFile(path=path, digest=blob.digest, size=4) for path in paths)
    return store.put_bytes(encode_tree(Tree(files=entries)), "data")


def test_folder_comes_back(store, tree, tmp_path):
    store.copy_tree(tree, tmp_path / "new" / "copy")
    assert content_of(tmp_path / "new" / "copy") == CONTENT
    assert os.listdir(tmp_path / "new") == ["copy"]
    (tmp_path / "new" / "copy" / "b.bin").write_bytes(b"a copy may be changed")
    assert store.read(store.tree(tree)["b.bin"]) == b"22"


def test_tree_lists_files_and_references_each_blob_once(store, tree):
    listed = store.tree(tree)
    assert list(listed) == sorted(CONTENT)
    assert {path: store.read(blob) for path, blob in listed.items()} == CONTENT
    assert {blob.kind for blob in listed.values()} == {"dataset"}
    assert tree.size == sum(map(len, CONTENT.values()))
    assert sorted(store.references(tree)) == sorted({blob.digest for blob in listed.values()})
    assert len(store.references(tree.digest)) == 3


def test_a_tree_of_what_is_there_is_the_tree_of_the_folder(store, tree, tmp_path):
    other = FolderStore(tmp_path / "other")
    blobs = {path: other.put_parts((data[:1], memoryview(data)[1:]), "dataset") for path, data in CONTENT.items()}
    before = len(list(other.digests()))
    assert other.put_listing(dict(reversed(blobs.items())), "dataset") == tree
    assert len(list(other.digests())) == before + 1  # the list; nothing was copied
    assert {path: other.read(blob) for path, blob in other.tree(tree).items()} == CONTENT


def test_a_tree_of_what_is_not_there_or_cannot_be_laid_out_is_refused(store, tmp_path):
    blob = store.put_bytes(b"1", "dataset")
    for path in ("../up", "/absolute", "a//b", ""):
        with pytest.raises(UserError, match="refused"):
            store.put_listing({path: blob}, "dataset")
    store.delete(blob)
    with pytest.raises(NotFoundError):
        store.put_listing({"a": blob}, "dataset")
    assert list(store.digests()) == []


def test_listing_a_blob_protects_it_from_being_collected(store):
    blob = store.put_bytes(b"1", "dataset")
    os.utime(store.path(blob), (0, 0))
    store.put_listing({"a": blob}, "dataset")
    assert not store.delete(blob, unless_put_since=1.0)


def test_digest_depends_on_paths_and_contents_alone(store, tree, tmp_path):
    other = lay_out(tmp_path / "elsewhere", dict(reversed(CONTENT.items())))
    (other / "empty").mkdir()
    (other / "b.bin").chmod(0o700)
    os.utime(other / "b.bin", (1, 1))
    assert store.put_tree(other, "dataset") == tree
    (other / "b.bin").rename(other / "renamed.bin")
    assert store.put_tree(other, "dataset").digest != tree.digest


def test_empty_folder_is_a_tree(store, tmp_path):
    (tmp_path / "empty").mkdir()
    store.copy_tree(store.put_tree(tmp_path / "empty", "data"), tmp_path / "copy")
    assert content_of(tmp_path / "copy") == {}


@pytest.mark.parametrize("trick", ["link to file", "link to folder", "dangling link", "pipe", "not unicode"])
def test_folder_with_something_else_than_files_is_refused(store, tmp_path, trick):
    source = lay_out(tmp_path / "source", CONTENT)
    match trick:
        case "link to file":
            (source / "odd").symlink_to(source / "b.bin")
        case "link to folder":
            (source / "odd").symlink_to(tmp_path)
        case "dangling link":
            (source / "a" / "odd").symlink_to("nowhere")
        case "pipe":
            os.mkfifo(source / "odd")
        case _:
            (source / os.fsdecode(b"odd\xff")).touch()
    with pytest.raises(DataError, match="odd"):
        store.put_tree(source, "data")
    assert not store.root.exists()


def test_what_is_no_folder_is_refused(store, tmp_path):
    with pytest.raises(DataError, match="missing"):
        store.put_tree(tmp_path / "absent", "data")


@pytest.mark.parametrize("path", ["/etc/passwd", "../out", "a/../../out", "a//b", "./a", "a/", "", "a\0b", ".."])
def test_path_tricks_are_refused(store, tmp_path, path):
    tree = stored_tree(store, "fine", path)
    with pytest.raises(UserError, match="refused"):
        store.copy_tree(tree, tmp_path / "inner" / "copy")
    assert not (tmp_path / "inner").exists()


@pytest.mark.parametrize("paths", [("a", "a/b"), ("a/b", "a/b"), ("x/y/z", "x")])
def test_paths_that_cannot_exist_together_are_refused(store, tmp_path, paths):
    with pytest.raises(UserError, match=r"twice|both as"):
        store.copy_tree(stored_tree(store, *paths), tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@given(st.text(st.sampled_from("./a\0"), max_size=8))
def test_an_accepted_path_stays_in_its_folder(path):
    inside = Path("/folder")
    if not path_problem(path):
        assert Path(os.path.normpath(inside / path)) == inside / path
        assert (inside / path).is_relative_to(inside)
        assert inside / path != inside


def test_single_blob_is_no_tree(store, tmp_path):
    for content in (b"weights", b'{"ganglion_tree":', b'{"ganglion_tree":1,"files":[{"path":3}]}'):
        blob = store.put_bytes(content, "model")
        assert store.references(blob) == ()
        with pytest.raises(UserError, match="not a folder"):
            store.copy_tree(blob, tmp_path / "copy")


def test_tree_of_a_newer_form_is_not_taken_for_a_blob():
    with pytest.raises(UserError, match="form 2"):
        decode_tree(b'{"ganglion_tree":2,"files":[]}')


def test_copy_replaces_nothing(store, tree, tmp_path):
    lay_out(tmp_path / "taken", {"mine": b"1"})
    with pytest.raises(UserError, match="exists"):
        store.copy_tree(tree, tmp_path / "taken")
    assert content_of(tmp_path / "taken") == {"mine": b"1"}


def test_copy_gives_way_to_one_that_was_faster(store, tree, tmp_path):
    faults.install(lambda name, _: name == "artifacts.copy" and lay_out(tmp_path / "copy", {"faster": b"1"}))
    try:
        with pytest.raises(UserError, match="exists"):
            store.copy_tree(tree, tmp_path / "copy")
    finally:
        faults.install(None)
    assert content_of(tmp_path / "copy") == {"faster": b"1"}
    assert sorted(os.listdir(tmp_path)) == ["copy", "source", "store"]


@pytest.mark.parametrize(("fault", "error"), [("damaged", IntegrityError), ("missing", NotFoundError)])
def test_copy_of_an_incomplete_tree_leaves_nothing(store, tree, tmp_path, fault, error):
    blob = store.tree(tree)["b.bin"]
    path = store.path(blob)
    path.unlink()
    if fault == "damaged":
        path.write_bytes(b"23")
    with pytest.raises(error, match=blob.digest):
        store.copy_tree(tree, tmp_path / "copy")
    assert sorted(os.listdir(tmp_path)) == ["source", "store"]


CRASH = """
import os, sys
from pathlib import Path
from ganglion.artifacts import FolderStore
from ganglion.core import faults

faults.install(lambda name, context: os._exit(9) if name == "artifacts.copy" else None)
FolderStore(Path(sys.argv[1])).copy_tree(sys.argv[2], Path(sys.argv[3]))
"""


def test_crash_during_the_copy_leaves_no_visible_folder(store, tree, tmp_path, run_python):
    process = run_python(CRASH, store.root, tree.digest, tmp_path / "copy")
    process.communicate()
    assert process.returncode == 9
    assert not (tmp_path / "copy").exists()
    store.copy_tree(tree, tmp_path / "copy")
    assert content_of(tmp_path / "copy") == CONTENT
