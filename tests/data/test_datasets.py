from __future__ import annotations

import gzip
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ganglion.core.errors import DataError
from ganglion.data import CLASSES, datasets, fashion_mnist

NAMES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def small_files(part: str) -> dict[str, bytes]:
    """Content of the two files of a tiny dataset of the same form."""
    images = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 28, 0, 0, 0, 28]) + bytes(2 * 28 * 28)
    return {NAMES[part][0]: images, NAMES[part][1]: bytes([0, 0, 8, 1, 0, 0, 0, 2, 9, len(part)])}


def put(folder: Path, part: str, *, compressed: bool = True) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in small_files(part).items():
        (folder / (f"{name}.gz" if compressed else name)).write_bytes(gzip.compress(content) if compressed else content)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without the dataset, whose downloads do not go through a proxy."""
    monkeypatch.delenv("GANGLION_DATA", raising=False)
    monkeypatch.setenv("GANGLION_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(datasets, "_DEBIAN", tmp_path / "debian")


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[str, Path, list[str]]]:
    """A real HTTP server: its address, the folder it serves, and the paths asked for."""
    folder, asked = tmp_path / "mirror", []
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args) -> None:
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args) -> None:
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/files/", folder / "files", asked
        server.shutdown()
        thread.join()


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small files are what the authors publish."""
    contents = {**small_files("train"), **small_files("test")}
    monkeypatch.setattr(
        datasets, "_SHA256", {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    )


@pytest.mark.parametrize("compressed", [False, True])
def test_files_are_found_in_the_data_folder_and_its_subfolder(tmp_path, monkeypatch, compressed: bool) -> None:
    monkeypatch.setenv("GANGLION_DATA", str(tmp_path / "data"))
    put(tmp_path / "data" / "fashion-mnist", "train", compressed=compressed)
    assert Path(fashion_mnist("train").images).parent == tmp_path / "data" / "fashion-mnist"
    put(tmp_path / "data", "train", compressed=compressed)
    source = fashion_mnist("train")
    assert Path(source.images).parent == tmp_path / "data"
    assert source.read(0, 2)["label"].tolist() == [9, 5]
    assert source.read(0, 2)["image"].shape == (2, 28, 28)


def test_the_cache_comes_before_the_system_and_the_system_before_the_network(tmp_path) -> None:
    put(tmp_path / "debian", "test")
    assert Path(fashion_mnist("test").labels).parent == tmp_path / "debian"
    put(tmp_path / "home" / "cache" / "fashion-mnist", "test")
    assert Path(fashion_mnist("test").labels).parent == tmp_path / "home" / "cache" / "fashion-mnist"
    put(tmp_path / "given", "test")
    assert Path(fashion_mnist("test", tmp_path / "given").labels).parent == tmp_path / "given"


def test_a_given_folder_is_the_only_place(tmp_path) -> None:
    put(tmp_path / "debian", "train")
    with pytest.raises(DataError, match=r"no Fashion-MNIST in .*given; needed are train-images.* and train-labels"):
        fashion_mnist("train", tmp_path / "given")


@pytest.mark.usefixtures("published")
def test_what_is_nowhere_is_downloaded_once(mirror, tmp_path) -> None:
    url, folder, asked = mirror
    put(folder, "train")
    source = fashion_mnist("train", url=url)
    assert source.read(0, 2)["label"].tolist() == [9, 5]
    assert sorted(path.name for path in (tmp_path / "home/cache/fashion-mnist").iterdir()) == sorted(
        f"{name}.gz" for name in NAMES["train"]
    )
    assert len(asked) == 2
    assert fashion_mnist("train", url=url) == source
    assert len(asked) == 2


def test_one_error_names_every_remedy_when_there_is_no_network(tmp_path) -> None:
    with pytest.raises(DataError) as refusal:
        fashion_mnist("train", cache=tmp_path / "cache", url="http://127.0.0.1:9/")
    message = str(refusal.value)
    for remedy in ("GANGLION_DATA", str(tmp_path / "cache"), "apt install dataset-fashion-mnist", "network"):
        assert remedy in message
    assert "Connection refused" in message
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_download_with_other_content_is_refused_and_not_kept(mirror, tmp_path) -> None:
    url, folder, _ = mirror
    put(folder, "train")  # not what the authors publish
    found = hashlib.sha256(small_files("train")[NAMES["train"][0]]).hexdigest()
    with pytest.raises(DataError, match=f"SHA-256 {found}, expected c59f468a"):
        fashion_mnist("train", cache=tmp_path / "cache", url=url)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda path: path.unlink(), "404"),
        (lambda path: path.write_bytes(path.read_bytes()[:-5]), "end-of-stream"),
        (lambda path: path.write_bytes(b"<html>please log in</html>"), "Not a gzipped file"),
    ],
)
def test_a_download_that_is_not_the_file_is_refused_and_not_kept(mirror, tmp_path, damage, problem: str) -> None:
    url, folder, _ = mirror
    put(folder, "test")
    damage(folder / f"{NAMES['test'][0]}.gz")
    with pytest.raises(DataError, match=problem):
        fashion_mnist("test", cache=tmp_path / "cache", url=url)
    assert list((tmp_path / "cache").iterdir()) == []


def test_another_part_is_refused_with_the_nearest() -> None:
    with pytest.raises(DataError, match=r"no part 'tests'.*Did you mean 'test'"):
        fashion_mnist("tests")


def test_the_real_dataset_is_what_its_authors_describe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    try:
        source = fashion_mnist("test", url="http://127.0.0.1:9/")
    except DataError:
        pytest.skip("Fashion-MNIST is not on this machine")
    for path in (source.images, source.labels):
        data = Path(path).read_bytes()
        content = gzip.decompress(data) if path.endswith(".gz") else data
        assert hashlib.sha256(content).hexdigest() == datasets._SHA256[Path(path).name.removesuffix(".gz")]
    columns = source.read(0, source.count)
    assert columns["image"].shape == (10_000, 28, 28)
    assert np.bincount(columns["label"]).tolist() == [1000] * len(CLASSES)
    assert CLASSES[columns["label"][0]] == "Ankle boot"
