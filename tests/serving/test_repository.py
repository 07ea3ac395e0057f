from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from serving_samples import write_classifier

from ganglion.artifacts.store import FolderStore
from ganglion.core import faults
from ganglion.core.errors import ModelError, NotFoundError
from ganglion.serving.repository import ModelRepository


def test_versions_count_up_and_the_newest_is_the_default(repository: ModelRepository, classifier: Path) -> None:
    assert [repository.publish("fashion", classifier) for _ in range(3)] == [1, 2, 3]
    assert repository.versions("fashion") == (1, 2, 3)
    assert repository.resolve("fashion") == ("fashion", 3)
    assert repository.resolve("fashion:2") == ("fashion", 2)
    assert repository.manifest("fashion", 3, verify=True).runtime == "onnx"
    assert repository.names() == ("fashion",)


def test_publishing_from_a_store_gives_the_same_package(
    repository: ModelRepository, classifier: Path, tmp_path: Path
) -> None:
    store = FolderStore(tmp_path / "store")
    artifact = store.put_tree(classifier, "model")
    assert repository.publish("fashion", (store, artifact)) == 1
    path = repository.path("fashion", 1)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == {
        file.name: file.read_bytes() for file in classifier.iterdir()
    }


def test_publishers_at_the_same_time_get_different_versions(repository: ModelRepository, classifier: Path) -> None:
    others = ModelRepository(repository.root)
    with ThreadPoolExecutor(8) as pool:
        published = list(pool.map(lambda n: (repository, others)[n % 2].publish("fashion", classifier), range(16)))
    assert sorted(published) == list(range(1, 17))
    assert repository.versions("fashion") == tuple(range(1, 17))


def test_an_interrupted_publication_leaves_no_version_and_no_rubbish(
    repository: ModelRepository, classifier: Path
) -> None:
    def crash(name: str, _context: object) -> None:
        if name == "serving.publish":
            raise OSError("the disk is full")

    faults.install(crash)
    try:
        with pytest.raises(OSError, match="the disk is full"):
            repository.publish("fashion", classifier)
    finally:
        faults.install(None)
    assert repository.names() == ()
    assert list(repository.root.iterdir()) == []


def test_a_half_written_version_is_ignored_and_named(repository: ModelRepository, classifier: Path) -> None:
    repository.publish("fashion", classifier)
    half = repository.root / "fashion" / "2"
    half.mkdir()
    shutil.copy(classifier / "model.onnx", half)
    assert repository.versions("fashion") == (1,)
    assert repository.resolve("fashion") == ("fashion", 1)
    assert repository.versions("fashion", known=(1,)) == (1,)
    assert "half written" in repository.problems("fashion")[2]
    with pytest.raises(ModelError, match="half written"):
        repository.path("fashion", 2)
    shutil.copy(classifier / "package.json", half)
    assert repository.versions("fashion", known=(1,)) == (1, 2)
    assert repository.versions("fashion", known=(1, 2, 7)) == (1, 2), "what is gone is not known any more"
    assert repository.publish("fashion", classifier) == 3, "a number is never given twice"


def test_a_package_with_changed_bytes_is_not_published(repository: ModelRepository, classifier: Path) -> None:
    model = classifier / "model.onnx"
    model.write_bytes(bytes([model.read_bytes()[0] ^ 1]) + model.read_bytes()[1:])
    with pytest.raises(ModelError, match="damaged"):
        repository.publish("fashion", classifier)
    assert repository.names() == ()


def test_aliases_move_and_resolve(repository: ModelRepository, classifier: Path) -> None:
    for _ in range(2):
        repository.publish("fashion", classifier)
    repository.set_alias("fashion", "champion", 2)
    repository.set_alias("fashion", "champion", 1)
    repository.set_alias("fashion", "canary", 2)
    assert ModelRepository(repository.root).aliases("fashion") == {"canary": 2, "champion": 1}
    assert repository.resolve("fashion:champion") == ("fashion", 1)
    assert repository.resolve("fashion") == ("fashion", 2), "an alias does not change what the newest version is"
    with pytest.raises(NotFoundError, match="Did you mean 'champion'"):
        repository.resolve("fashion:champoin")
    with pytest.raises(NotFoundError, match="no version 9"):
        repository.set_alias("fashion", "canary", 9)
    with pytest.raises(ModelError, match="cannot be an alias"):
        repository.set_alias("fashion", "7", 1)


def test_concurrent_alias_changes_are_all_kept(repository: ModelRepository, classifier: Path) -> None:
    repository.publish("fashion", classifier)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: repository.set_alias("fashion", f"alias-{number}", 1), range(24)))
    assert len(repository.aliases("fashion")) == 24


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/etc", "a\0b", ".hidden", "a b", "x" * 129, "ä"])
def test_names_that_could_leave_the_folder_are_refused(
    repository: ModelRepository, classifier: Path, name: str
) -> None:
    with pytest.raises(ModelError, match="cannot be the name"):
        repository.publish(name, classifier)
    with pytest.raises(ModelError, match="cannot be the name"):
        repository.resolve(f"{name}:1")


def test_symbolic_links_are_not_followed(repository: ModelRepository, classifier: Path, tmp_path: Path) -> None:
    repository.publish("fashion", classifier)
    (repository.root / "fashion" / "2").symlink_to(classifier)
    assert repository.versions("fashion") == (1,)
    assert "symbolic link" in repository.problems("fashion")[2]
    outside = tmp_path / "outside"
    shutil.copytree(repository.root / "fashion", outside, symlinks=True)
    (repository.root / "other").symlink_to(outside)
    with pytest.raises(ModelError, match="symbolic link"):
        repository.latest("other")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to(path.parent / "1" / "package.json"),
        os.mkfifo,
        Path.mkdir,
        lambda path: path.write_bytes(b" " * (2**20 + 1) + b"{}"),
        lambda path: path.write_bytes(b'{"a": "b"}'),
        lambda path: path.write_bytes(b'{"../1": 1}'),
        lambda path: path.write_bytes(b"\xff"),
    ],
    ids=["device", "link", "pipe", "folder", "huge", "loop", "path", "no-text"],
)
def test_a_spoilt_file_of_aliases_is_refused_and_keeps_nobody(
    repository: ModelRepository, classifier: Path, spoil: Callable[[Path], object]
) -> None:
    repository.publish("fashion", classifier)
    spoil(repository.root / "fashion" / "aliases.json")
    with pytest.raises(ModelError, match="set the aliases again"):
        repository.aliases("fashion")
    assert repository.resolve("fashion") == ("fashion", 1)


def test_a_description_that_cannot_be_parsed_spoils_no_other_model(
    repository: ModelRepository, classifier: Path
) -> None:
    for name in ("deep", "huge", "fashion"):
        repository.publish(name, classifier)
    (repository.root / "deep" / "1" / "package.json").write_bytes(b"[" * 100_000 + b"]" * 100_000)
    os.truncate(repository.root / "huge" / "1" / "package.json", 2**30)
    assert repository.names() == ("fashion",)
    assert "does not parse" in repository.problems("deep")[1]
    assert "more than" in repository.problems("huge")[1]


def test_unknown_names_come_with_a_suggestion(repository: ModelRepository, classifier: Path) -> None:
    repository.publish("fashion", classifier)
    with pytest.raises(NotFoundError, match="Did you mean 'fashion'"):
        repository.latest("fashoin")
    with pytest.raises(NotFoundError, match=r"no version 4\. Allowed: 1"):
        repository.resolve("fashion:4")
    write_classifier(repository.root / "empty" / "x")
    with pytest.raises(NotFoundError, match="no model 'empty'"):
        repository.resolve("empty")
