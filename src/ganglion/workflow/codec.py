"""Results of steps as plain data that fits into a journal, and back.

Plain values stay what they are. What JSON cannot say (tuples, bytes, NaN, keys that are not text) is tagged: a JSON
object with the key `$`. A `pathlib.Path` that a step returns is put into the artifact store and reaches the consumer
as a read-only local path. Structs, enumeration members, functions and classes travel by import path. Anything else is
pickled into the store.
"""

from __future__ import annotations

import base64
import enum
import io
import math
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FunctionType
from typing import Any

import msgspec

from ganglion.artifacts.store import Artifact, FolderStore
from ganglion.core.errors import GraphError, UserError
from ganglion.core.registry import load_object
from ganglion.core.run_events import ArtifactReference
from ganglion.fingerprints import ImportPath

TAG = "$"
_SMALLEST, _LARGEST = -(2**63), 2**63 - 1
_ANY_TEXT = "surrogatepass"


class Encoded:
    """A value that is encoded already: the result of another step.

    Attributes:
        data: JSON-like data with tags.
    """

    __slots__ = ("data",)

    def __init__(self, data: Any) -> None:
        self.data = data

    def __repr__(self) -> str:
        return f"Encoded({self.data!r})"

    def fingerprint(self) -> tuple[Any, list[ImportPath]]:
        """What stands for the value in fingerprints: its data, and the code that decoding it needs."""
        return self.data, [ImportPath(path) for path in dict.fromkeys(named_objects(self.data))]


class CodecError(UserError):
    """A value cannot travel between steps."""


def encode(value: Any, store: FolderStore, *, keep_paths: bool = False) -> Any:
    """Turn a value into tagged plain data.

    Args:
        value: what a step returned, or an argument; may contain `Encoded` parts.
        store: keeps files, folders and pickles.
        keep_paths: leave a `pathlib.Path` where it is (arguments) in place of storing what lies there (results).

    Raises:
        CodecError: the value cannot travel; the message names the place within it.
    """
    return _Encoder(store, keep_paths).encode(value, "the value")


def decode(data: Any, store: FolderStore, folder: Path) -> Any:
    """Turn tagged plain data back into the value.

    Args:
        data: what `encode` returned.
        store: where files, folders and pickles are.
        folder: where stored paths appear, under their own names.

    Raises:
        NotFoundError: an artifact is not in the store.
        IntegrityError: an artifact is damaged.
    """
    return _Decoder(store, folder).decode(data)


def select(data: Any, key: Any, what: str) -> Any:
    """The encoded form of `value[key]`, given that of `value`.

    Raises:
        GraphError: the value has no such item; the message calls it `what`.
    """
    items: Any = data
    if isinstance(data, dict) and TAG in data:
        if data[TAG] == "map":
            items = {_plain_key(pair[0]): pair[1] for pair in data["items"]}
        elif data[TAG] == "tuple":
            items = data["items"]
        else:
            return {TAG: "item", "of": data, "key": key}
    if isinstance(items, (list, dict)):
        try:
            return items[key]
        except (KeyError, IndexError, TypeError) as error:
            raise GraphError(f"{what} has no item [{key!r}].") from error
    raise GraphError(f"{what} is a {type(items).__name__}; it has no item [{key!r}].")


def references(data: Any) -> tuple[ArtifactReference, ...]:
    """Every artifact that encoded data mentions, once, in order."""
    found: dict[str, ArtifactReference] = {}
    for node in _tagged(data):
        if node[TAG] in ("artifact", "path", "pickle"):
            found.setdefault(
                node["digest"], ArtifactReference(digest=node["digest"], kind=node["kind"], size=node["size"])
            )
    return tuple(found.values())


def named_objects(data: Any) -> Iterator[str]:
    """Import path of every class or function that decoding the data needs."""
    for node in _tagged(data):
        if node[TAG] in ("struct", "object", "enum"):
            yield node["path_of"]
        elif node[TAG] == "pickle":
            yield from node["needs"]


def import_path(value: Any) -> str | None:
    """`module:qualified.name` by which another process finds this very function or class, if there is one."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not module or module == "__main__" or not name or "<" in name:
        return None
    path = f"{module}:{name}"
    try:
        found = load_object(path)
    except UserError:
        return None
    return path if found is value or getattr(found, "__wrapped__", None) is value else None


def _tagged(data: Any) -> Iterator[dict[str, Any]]:
    if isinstance(data, dict):
        if TAG in data:
            yield data
        for value in data.values():
            yield from _tagged(value)
    elif isinstance(data, list):
        for value in data:
            yield from _tagged(value)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _plain_key(key: Any) -> Any:
    return tuple(_plain_key(item) for item in key["items"]) if isinstance(key, dict) and TAG in key else key


class _Encoder:
    def __init__(self, store: FolderStore, keep_paths: bool) -> None:
        self.store = store
        self.keep_paths = keep_paths
        self.open: set[int] = set()

    def encode(self, value: Any, where: str) -> Any:
        kind = type(value)
        if value is None or kind is bool:
            return value
        if kind is str:
            return value if _is_unicode(value) else {TAG: "text", "base64": _base64(value.encode(errors=_ANY_TEXT))}
        if kind is int:
            return value if _SMALLEST <= value <= _LARGEST else {TAG: "int", "text": str(value)}
        if kind is float:
            return value if math.isfinite(value) else {TAG: "float", "text": repr(value)}
        if kind is bytes:
            return {TAG: "bytes", "base64": _base64(value)}
        if kind is Encoded:
            return value.data
        if id(value) in self.open:
            raise CodecError(f"{where} contains itself; such a value cannot be the result of a step.")
        self.open.add(id(value))
        try:
            return self.encode_object(value, kind, where)
        finally:
            self.open.remove(id(value))

    def encode_object(self, value: Any, kind: type, where: str) -> Any:
        if kind is list:
            return self.encode_items(value, where)
        if kind is tuple:
            return {TAG: "tuple", "items": self.encode_items(value, where)}
        if kind in (set, frozenset):
            items = sorted(self.encode_items(value, where), key=msgspec.json.encode)
            return {TAG: kind.__name__, "items": items}
        if kind is dict:
            return self.encode_dict(value, where)
        if kind is Artifact:
            return {TAG: "artifact", "digest": value.digest, "kind": value.kind, "size": value.size}
        if isinstance(value, Path):
            return self.encode_path(value, where)
        if isinstance(value, msgspec.Struct) and (path := import_path(kind)):
            names = value.__struct_fields__
            fields = {name: self.encode(getattr(value, name), f"{where}.{name}") for name in names}
            return {TAG: "struct", "path_of": path, "fields": fields}
        if isinstance(value, enum.Enum) and value.name in type(value).__members__ and (path := import_path(kind)):
            return {TAG: "enum", "path_of": path, "name": value.name}
        if isinstance(value, (FunctionType, type)) and (path := import_path(value)):
            return {TAG: "object", "path_of": path}
        return self.encode_pickle(value, where)

    def encode_items(self, items: Any, where: str) -> list[Any]:
        return [self.encode(item, f"{where}[{index}]") for index, item in enumerate(items)]

    def encode_dict(self, value: dict[Any, Any], where: str) -> Any:
        if TAG not in value and all(type(key) is str and _is_unicode(key) for key in value):
            return {key: self.encode(item, f"{where}[{key!r}]") for key, item in value.items()}
        pairs = [
            [self.encode(key, f"a key of {where}"), self.encode(item, f"{where}[{key!r}]")]
            for key, item in value.items()
        ]
        return {TAG: "map", "items": pairs}

    def encode_path(self, value: Path, where: str) -> Any:
        if self.keep_paths:
            return {TAG: "location", "path": str(value.absolute())}
        if value.is_dir():
            artifact = self.store.put_tree(value, "folder")
        elif value.is_file():
            artifact = self.store.put_file(value, "file")
        else:
            raise CodecError(f"{where} is the path {value}, where there is neither a file nor a folder to keep.")
        return {
            TAG: "path",
            "digest": artifact.digest,
            "kind": artifact.kind,
            "size": artifact.size,
            "name": value.absolute().name,
        }

    def encode_pickle(self, value: Any, where: str) -> Any:
        import cloudpickle

        needs: dict[str, None] = {}

        class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
            """Notes the classes and functions that the bytes depend on; they take part in fingerprints."""

            def persistent_id(self, item: Any) -> None:
                named = item if isinstance(item, (type, FunctionType)) else type(item)
                if named.__module__ != "builtins" and (path := import_path(named)):
                    needs.setdefault(path)
                elif isinstance(named, type) and issubclass(named, msgspec.Struct):
                    raise TypeError(f"the struct {named.__qualname__} has no import path; put it into a module")

        buffer = io.BytesIO()
        try:
            Pickler(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
        except Exception as error:
            raise CodecError(
                f"{where} is a {type(value).__module__}.{type(value).__qualname__}, which cannot travel between steps "
                f"({type(error).__name__}: {error}). Return plain data, a msgspec struct, the path of a file or "
                "folder, or an object that can be pickled."
            ) from error
        artifact = self.store.put_bytes(buffer.getvalue(), "pickle")
        return {TAG: "pickle", "digest": artifact.digest, "kind": "pickle", "size": artifact.size, "needs": list(needs)}


class _Decoder:
    def __init__(self, store: FolderStore, folder: Path) -> None:
        self.store = store
        self.folder = folder

    def decode(self, data: Any) -> Any:
        if isinstance(data, list):
            return [self.decode(item) for item in data]
        if not isinstance(data, dict):
            return data
        if TAG not in data:
            return {key: self.decode(item) for key, item in data.items()}
        return getattr(self, f"decode_{data[TAG]}")(data)

    def decode_int(self, data: Mapping[str, Any]) -> int:
        return int(data["text"])

    def decode_float(self, data: Mapping[str, Any]) -> float:
        return float(data["text"])

    def decode_text(self, data: Mapping[str, Any]) -> str:
        return base64.b64decode(data["base64"]).decode(errors=_ANY_TEXT)

    def decode_bytes(self, data: Mapping[str, Any]) -> bytes:
        return base64.b64decode(data["base64"])

    def decode_tuple(self, data: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(self.decode(data["items"]))

    def decode_set(self, data: Mapping[str, Any]) -> set[Any]:
        return set(self.decode(data["items"]))

    def decode_frozenset(self, data: Mapping[str, Any]) -> frozenset[Any]:
        return frozenset(self.decode(data["items"]))

    def decode_map(self, data: Mapping[str, Any]) -> dict[Any, Any]:
        return {self.decode(key): self.decode(item) for key, item in data["items"]}

    def decode_artifact(self, data: Mapping[str, Any]) -> Artifact:
        return Artifact(digest=data["digest"], kind=data["kind"], size=data["size"])

    def decode_struct(self, data: Mapping[str, Any]) -> Any:
        return load_object(data["path_of"])(**{name: self.decode(item) for name, item in data["fields"].items()})

    def decode_enum(self, data: Mapping[str, Any]) -> Any:
        return load_object(data["path_of"])[data["name"]]

    def decode_object(self, data: Mapping[str, Any]) -> Any:
        found = load_object(data["path_of"])
        return found if isinstance(found, (FunctionType, type)) else getattr(found, "__wrapped__", found)

    def decode_item(self, data: Mapping[str, Any]) -> Any:
        return self.decode(data["of"])[data["key"]]

    def decode_location(self, data: Mapping[str, Any]) -> Path:
        return Path(data["path"])

    def decode_pickle(self, data: Mapping[str, Any]) -> Any:
        return pickle.loads(self.store.read(data["digest"]))

    def decode_path(self, data: Mapping[str, Any]) -> Path:
        """A link into the store for a file, a copy for a folder; both read-only."""
        place: Path = self.folder / data["digest"].removeprefix("sha256:")[:16] / data["name"]
        if place.exists():
            return place
        if data["kind"] == "folder":
            self.store.copy_tree(data["digest"], place)
            for file in place.rglob("*"):
                if file.is_file():
                    file.chmod(0o444)
            return place
        self.store.verify(data["digest"])
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(self.store.path(data["digest"]).resolve())
        return place
