"""Configuration: frozen, keyword-only structs, read from TOML or JSON and overridden key by key.

A class that has options nests or owns a `Config`; unknown keys are errors that name the key, the allowed ones and
the nearest spelling.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ganglion.core.errors import ConfigurationError, suggest


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every configuration class."""


C = TypeVar("C", bound=msgspec.Struct)


def read_file(path: Path) -> dict[str, Any]:
    """Read a TOML or JSON file into plain data.

    Raises:
        ConfigurationError: the file is missing, has another suffix, or does not parse.
    """
    try:
        if path.suffix == ".toml":
            return tomllib.loads(path.read_text())
        if path.suffix == ".json":
            loaded = json.loads(path.read_text())
            if isinstance(loaded, dict):
                return loaded
            raise ConfigurationError(f"{path} holds {type(loaded).__name__}; a JSON object is expected.")
    except OSError as error:
        raise ConfigurationError(f"Cannot read configuration file {path}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} does not parse: {error}.") from error
    raise ConfigurationError(f"{path} is neither .toml nor .json.")


def parse_override(text: str) -> tuple[tuple[str, ...], Any]:
    """Split `a.b=value` into its key path and value.

    The value is read as JSON where it is JSON (`3`, `0.5`, `true`, `[1, 2]`, `"text"`), else taken as a string.

    Raises:
        ConfigurationError: there is no `=` or the key is empty.
    """
    key, separator, raw = text.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    if not separator or not all(path):
        raise ConfigurationError(f"Override {text!r} is not of the form key=value or section.key=value.")
    try:
        return path, json.loads(raw)
    except json.JSONDecodeError:
        return path, raw


def merge(base: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Return `base` with every `a.b=value` override applied; `base` is not changed."""
    merged: dict[str, Any] = {key: dict(value) if isinstance(value, Mapping) else value for key, value in base.items()}
    for text in overrides:
        path, value = parse_override(text)
        node = merged
        for part in path[:-1]:
            child = node.get(part)
            node[part] = dict(child) if isinstance(child, Mapping) else {}
            node = node[part]
        node[path[-1]] = value
    return merged


def convert(cls: type[C], values: Mapping[str, Any], *, where: str = "configuration") -> C:
    """Build `cls` from plain data.

    Args:
        cls: a `Config` (or any msgspec struct).
        values: plain data, nested as the class is.
        where: what to call the data in an error.

    Raises:
        ConfigurationError: a key is unknown (the nearest is suggested) or a value has the wrong type.
    """
    _refuse_unknown(cls, values, where, ())
    try:
        return msgspec.convert(values, cls, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{where}: {error}.") from error


def load(cls: type[C], path: Path | None = None, overrides: Iterable[str] = ()) -> C:
    """Read `cls` from an optional file, then apply `a.b=value` overrides."""
    values = read_file(path) if path is not None else {}
    return convert(cls, merge(values, overrides), where=str(path or "configuration"))


def _refuse_unknown(cls: type[msgspec.Struct], values: Mapping[str, Any], where: str, path: tuple[str, ...]) -> None:
    fields = {field.encode_name: field.type for field in msgspec.structs.fields(cls)}
    for key, value in values.items():
        if key not in fields:
            dotted = ".".join((*path, str(key)))
            raise ConfigurationError(f"{where}: unknown key {dotted!r}. {suggest(str(key), fields)}")
        inner = fields[key]
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct) and isinstance(value, Mapping):
            _refuse_unknown(inner, value, where, (*path, str(key)))
