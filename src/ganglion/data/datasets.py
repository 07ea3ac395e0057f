"""Well-known datasets by name, found on this machine or downloaded."""

from __future__ import annotations

import os
from pathlib import Path

from ganglion.core.errors import DataError, suggest
from ganglion.core.project import find_folder
from ganglion.data.download import download_gzip
from ganglion.data.sources.idx import IdxSource

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
"""Names of the ten classes of Fashion-MNIST; a label is an index into them."""

FASHION_MNIST_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
"""Where the authors of Fashion-MNIST (H. Xiao, K. Rasul, R. Vollgraf, 2017) publish its files."""

_DEBIAN = Path("/usr/share/datasets/fashion-mnist")
_NAMES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}

# Digests of the content. The authors publish MD5 sums of their compressed files; content with these digests, compressed
# as theirs is, has those sums (8d4fb7e6..., 25c81989..., bef4ecab..., bb300cfd...).
_SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def fashion_mnist(
    part: str, folder: Path | None = None, *, cache: Path | None = None, url: str = FASHION_MNIST_URL
) -> IdxSource:
    """Fashion-MNIST: 28x28 grayscale images of clothes in ten classes, 60,000 to train and 10,000 to test.

    Its files, compressed or not, are looked for in `folder` alone if it is given; else in `$GANGLION_DATA` and its
    subfolder `fashion-mnist`, in `cache`, and where Debian's package `dataset-fashion-mnist` puts them; else they are
    downloaded to `cache`, verified.

    Args:
        part: `train` or `test`.
        folder: the only place to look in.
        cache: folder for downloads; `cache/fashion-mnist` in the project folder if `None`.
        url: folder to download from.

    Returns:
        A source with the fields `image` (uint8, 28x28) and `label` (int64).

    Raises:
        DataError: `part` is neither, or the files are nowhere to be had; the message names every remedy.
    """
    if part not in _NAMES:
        raise DataError(f"Fashion-MNIST has no part {part!r}. {suggest(part, _NAMES)}")
    if cache is None:
        cache = find_folder() / "cache" / "fashion-mnist"
    places = [folder] if folder is not None else places_of_fashion_mnist(cache)
    for place in places:
        if (found := _files_in(place, part)) is not None:
            return found
    looked = ", ".join(map(str, places))
    if folder is not None:
        raise DataError(
            f"There is no Fashion-MNIST in {looked}; needed are {' and '.join(_NAMES[part])}, plain or .gz."
        )
    try:
        for name in _NAMES[part]:
            if not (cache / f"{name}.gz").is_file():
                download_gzip(f"{url.rstrip('/')}/{name}.gz", cache / f"{name}.gz", _SHA256[name])
    except DataError as error:
        raise DataError(
            f"Fashion-MNIST was found in none of {looked}, and could not be downloaded ({error}) Any of these helps: "
            f"set GANGLION_DATA to a folder that has {' and '.join(_NAMES[part])} (plain or .gz); put these files into "
            f"{cache}; on Debian or Ubuntu, apt install dataset-fashion-mnist; or run again with a network."
        ) from error
    return _source(cache / f"{_NAMES[part][0]}.gz", cache / f"{_NAMES[part][1]}.gz")


def places_of_fashion_mnist(cache: Path) -> list[Path]:
    """Where its files are looked for, in order."""
    given = os.environ.get("GANGLION_DATA")
    named = [Path(given), Path(given) / "fashion-mnist"] if given else []
    return [*named, cache, _DEBIAN]


def _files_in(folder: Path, part: str) -> IdxSource | None:
    """The part's source if `folder` has both of its files."""
    images, labels = (
        next((path for path in (folder / f"{name}.gz", folder / name) if path.is_file()), None) for name in _NAMES[part]
    )
    return None if images is None or labels is None else _source(images, labels)


def _source(images: Path, labels: Path) -> IdxSource:
    return IdxSource(images=str(images.resolve()), labels=str(labels.resolve()))
