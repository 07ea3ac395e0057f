"""The prepared datasets of a project: listed, and found by what people call them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganglion.core.errors import DataError, IntegrityError, NotFoundError, UserError

if TYPE_CHECKING:
    from ganglion.artifacts.store import FolderStore
    from ganglion.data import PreparedDataset
    from ganglion.data.preparation.staging import Made

SHORT = 12
"""Hexadecimal digits of a digest that are shown in tables, and that are enough to name a dataset."""

_DIGEST = re.compile(r"(sha256:)?[0-9a-f]{6,64}")


def made_datasets(store: FolderStore) -> list[Made]:
    """Every dataset that was prepared in a store and is still there, the newest first, each once."""
    from ganglion.data.preparation.staging import FOLDER, Staging

    folders = (path for path in (store.root / FOLDER).glob("*") if path.is_dir() and path.name != "ages")
    found: dict[str, Made] = {}
    for made in (Staging(store, folder.name).made() for folder in folders):
        if made is not None and (made.artifact.digest not in found or found[made.artifact.digest].at < made.at):
            found[made.artifact.digest] = made
    return sorted(found.values(), key=lambda made: -made.at)


def find_digest(text: str, store: FolderStore) -> str | None:
    """The digest of the dataset that a text names: a digest, its first six digits or more, or the path of its blob.

    Returns:
        The digest; nothing where the text does not look like the name of a dataset, but maybe of something else.

    Raises:
        NotFoundError: it looks like one and is none, or several datasets begin so.
    """
    path = Path(text)
    if path.is_file() and re.fullmatch(r"[0-9a-f]{64}", path.name) and path.parent.parent.name == "blobs":
        return f"sha256:{path.name}"
    if path.exists() or not _DIGEST.fullmatch(text):
        return None
    digits = text.removeprefix("sha256:")
    if len(digits) == 64:
        return f"sha256:{digits}"
    blobs = (store.root / "blobs" / digits[:2]).glob(f"{digits}*")
    found = [f"sha256:{blob.name}" for blob in sorted(blobs) if _is_dataset(f"sha256:{blob.name}", store)]
    if len(found) > 1:
        raise NotFoundError(f"{len(found)} datasets begin with {digits}: {', '.join(found)}. Give more digits.")
    if not found:
        known = [made.artifact.digest for made in made_datasets(store)]
        raise NotFoundError(
            f"No dataset in {store.root} begins with {digits}. Known are {_short(known)}; see ganglion data list."
        )
    return found[0]


def require_digest(text: str, store: FolderStore) -> str:
    """As `find_digest`, where nothing but a dataset will do.

    Raises:
        NotFoundError: there is no such dataset.
    """
    digest = find_digest(text, store)
    if digest is None:
        raise NotFoundError(
            f"{text} is not a prepared dataset; give its digest or the first digits of it, as ganglion data list has "
            "them, or make one with ganglion data prepare."
        )
    return digest


def open_digest(digest: str, store: FolderStore) -> PreparedDataset:
    """Open a dataset by its digest."""
    from ganglion.artifacts.store import Artifact
    from ganglion.data import open_dataset
    from ganglion.data.dataset.manifest import KIND

    size = sum(blob.size for blob in store.tree(digest).values())
    return open_dataset(Artifact(digest=digest, kind=KIND, size=size), store)


def describe_dataset(dataset: PreparedDataset) -> dict[str, Any]:
    """What a manifest says, as plain data, without the places of buffers."""
    manifest = dataset.manifest
    accounts = manifest.accounts
    return {
        "dataset": dataset.artifact.digest,
        "count": dataset.count,
        "size": dataset.artifact.size,
        "schema": describe_schema(dataset.schema),
        "classes": {column: list(names) for column, names in manifest.classes.items()},
        "generations": list(dataset.generations),
        "segments": len(manifest.segments),
        "read": sum(account.read for account in accounts),
        "written": sum(account.written for account in accounts),
        "set_aside": manifest.set_aside,
        "left_out": sum(account.left_out for account in accounts),
        "source": manifest.origins[-1].description,
    }


def describe_schema(schema: Any) -> list[dict[str, Any]]:
    """Fields as plain data."""
    return [
        {"name": field.name, "dtype": field.dtype, "shape": list(field.shape), "sequence": field.sequence}
        for field in schema
    ]


def source_text(description: dict[str, Any]) -> str:
    """Where records come from, in a few words: the innermost source with its paths."""
    inner = description
    while isinstance(inner.get("source"), dict):
        inner = inner["source"]
    name = str(inner.get("type", "")).rpartition(":")[2]
    places = inner.get("paths") or inner.get("database") or inner.get("images") or ""
    listed = [str(place) for place in places] if isinstance(places, list) else [str(places)]
    more = f" and {len(listed) - 1} more" if len(listed) > 1 else ""
    return f"{name} {listed[0]}{more}".rstrip()


def original_source(dataset: PreparedDataset) -> Any:
    """The source that a dataset was last made of, from its manifest.

    Raises:
        DataError: the manifest does not hold all of it, as of arrays or of functions without an import path.
    """
    from ganglion.core.registry import add_to_path
    from ganglion.data import source_from

    description = dataset.manifest.origins[-1].description
    add_to_path((str(Path.cwd()),))
    try:
        return source_from(description)
    except (DataError, TypeError, ValueError) as error:
        raise DataError(
            f"The source of dataset {dataset.artifact.digest} cannot be made again from its manifest: {error} "
            "Name the source, with its options."
        ) from error


def _is_dataset(digest: str, store: FolderStore) -> bool:
    """Whether a blob lists the files of a dataset; also where some of these are gone."""
    from ganglion.data.dataset.manifest import MANIFEST

    try:
        return MANIFEST in store.tree(digest)
    except IntegrityError:
        return True  # a list of files it was, and whoever opens it will say what is wrong with it
    except UserError:
        return False  # a single blob


def counted(number: int, what: str) -> str:
    """`1 file`, `2 files`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def record_text(record: int) -> str:
    """The id of a record of a source as `unit:number`, the number counted within the unit."""
    from ganglion.data.records.unit import unit_of

    return "{}:{}".format(*unit_of(record))


def _short(digests: list[str]) -> str:
    return ", ".join(digest.removeprefix("sha256:")[:SHORT] for digest in digests[:5]) or "none"
