from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganglion.artifacts.store import FolderStore
from ganglion.core.errors import DataError
from ganglion.data import ArraySource, grow, prepare
from ganglion.data.sources.images import ImageFolderSource
from ganglion.data.transforms import Normalise, Resize, Scale


def paint(folder: Path, *names: str) -> ImageFolderSource:
    """One picture for each class, and the source of all of them."""
    for number, name in enumerate(names):
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), 40 * number + 7).save(folder / name / f"{number}.png")
    return ImageFolderSource(paths=str(folder), size=(4, 4), mode="L")


def same(columns):
    return columns


def test_the_names_of_folders_are_kept_with_the_dataset(tmp_path: Path, store: FolderStore) -> None:
    source = paint(tmp_path / "pets", "dog", "cat")
    dataset = prepare(source, store)
    names = dataset.manifest.classes
    assert names == {"label": ("cat", "dog")}
    by_pixel = dict(zip(dataset.slice(0, 2)["image"][:, 0, 0].tolist(), dataset.slice(0, 2)["label"], strict=True))
    assert {pixel: names["label"][label] for pixel, label in by_pixel.items()} == {7: "dog", 47: "cat"}
    assert prepare(ArraySource({"label": np.arange(3)}), store).manifest.classes == {}


def test_they_go_through_what_leaves_labels_alone(tmp_path: Path, store: FolderStore) -> None:
    source = paint(tmp_path / "pets", "dog", "cat")
    kept, lost = {"label": ("cat", "dog")}, {}
    for changed, expected in (
        (source.transform(Resize("image", 2, 2), Scale("image", 0, 255)), kept),
        (source.filter(lambda columns: columns["label"] >= 0), kept),
        (source.select("label"), kept),
        (source.select("image"), lost),
        (source.transform(Normalise("label", 0.0, 1.0)), lost),
        (source.map(same), lost),
    ):
        assert prepare(changed, store).manifest.classes == expected


def test_growth_by_a_class_that_would_renumber_the_others_is_refused(tmp_path: Path, store: FolderStore) -> None:
    dataset = prepare(paint(tmp_path / "pets", "cat", "dog"), store)
    with pytest.raises(DataError, match=r"classes of 'label' are bird, cat, dog now, and were cat, dog"):
        grow(dataset, paint(tmp_path / "pets", "cat", "dog", "bird"), store)
