"""Configuration: read, overridden, and refused with the nearest spelling."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.core.config import Config, convert, load, merge, parse_override, read_file
from ganglion.core.errors import ConfigurationError


class Cache(Config, frozen=True):
    folder: str = "cache"
    limit: int = 10


class Training(Config, frozen=True):
    epochs: int = 1
    learning_rate: float = 0.001
    shuffle: bool = True
    cache: Cache = Cache()


def test_values_are_converted_and_defaults_stay():
    made = convert(Training, {"epochs": "3", "cache": {"limit": 5}})
    assert made == Training(epochs=3, cache=Cache(limit=5))


def test_configuration_is_frozen():
    with pytest.raises(AttributeError):
        Training().epochs = 2


def test_an_unknown_key_names_itself_the_allowed_ones_and_the_nearest():
    with pytest.raises(ConfigurationError) as caught:
        convert(Training, {"epoch": 3}, where="recipe.toml")
    assert str(caught.value) == (
        "recipe.toml: unknown key 'epoch'. Allowed: cache, epochs, learning_rate, shuffle. Did you mean 'epochs'?"
    )
    assert caught.value.exit_code == 2


def test_an_unknown_nested_key_is_named_by_its_path():
    with pytest.raises(ConfigurationError, match=r"unknown key 'cache\.limits'.*Did you mean 'limit'"):
        convert(Training, {"cache": {"limits": 3}})


def test_a_key_like_no_other_gets_no_suggestion():
    with pytest.raises(ConfigurationError, match=r"unknown key 'zzz'\. Allowed: folder, limit\.$"):
        convert(Cache, {"zzz": 3})


@pytest.mark.parametrize("values", [{"epochs": "many"}, {"epochs": 1.5}, {"cache": 3}, {"shuffle": "perhaps"}])
def test_a_value_of_the_wrong_type_is_refused_by_its_key(values):
    with pytest.raises(ConfigurationError, match=rf"configuration: .*\$\.{next(iter(values))}"):
        convert(Training, values)


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("epochs=3", ("epochs",), 3),
        ("a.b.c=0.5", ("a", "b", "c"), 0.5),
        ("flag=true", ("flag",), True),
        ("none=null", ("none",), None),
        ("list=[1, 2]", ("list",), [1, 2]),
        ('quoted="3"', ("quoted",), "3"),
        ("word=plain text", ("word",), "plain text"),
        ("empty=", ("empty",), ""),
        ("equation=a=b", ("equation",), "a=b"),
        (" spaced . key =1", ("spaced", "key"), 1),
    ],
)
def test_an_override_is_a_path_and_json_or_text(text, path, value):
    assert parse_override(text) == (path, value)


@pytest.mark.parametrize("text", ["epochs", "=3", "a..b=1", ".a=1", ""])
def test_what_is_no_override_is_refused(text):
    with pytest.raises(ConfigurationError, match="not of the form key=value"):
        parse_override(text)


def test_overrides_apply_in_order_and_leave_the_base_alone():
    base = {"epochs": 1, "cache": {"limit": 5, "folder": "x"}}
    assert merge(base, ["cache.limit=6", "epochs=2", "epochs=3"]) == {
        "epochs": 3,
        "cache": {"limit": 6, "folder": "x"},
    }
    assert base == {"epochs": 1, "cache": {"limit": 5, "folder": "x"}}


def test_an_override_makes_the_sections_it_needs():
    assert merge({"a": 1}, ["b.c.d=2"]) == {"a": 1, "b": {"c": {"d": 2}}}


@given(st.dictionaries(st.text("abc", min_size=1), st.integers() | st.booleans() | st.none(), max_size=4))
def test_plain_values_survive_being_written_as_overrides(values):
    assert merge({}, [f"{key}={json.dumps(value)}" for key, value in values.items()]) == values


@pytest.mark.parametrize(
    ("name", "text"),
    [("good.toml", "epochs = 4\n[cache]\nlimit = 2\n"), ("good.json", '{"epochs": 4, "cache": {"limit": 2}}')],
)
def test_files_are_read_and_then_overridden(tmp_path: Path, name: str, text: str):
    (tmp_path / name).write_text(text)
    assert load(Training, tmp_path / name, ["cache.limit=7"]) == Training(epochs=4, cache=Cache(limit=7))


def test_without_a_file_there_are_overrides_and_defaults():
    assert load(Training, overrides=["epochs=2"]) == Training(epochs=2)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("bad.toml", b"epochs = \n", "does not parse"),
        ("bad.json", b"{", "does not parse"),
        ("list.json", b"[1]", "holds list; a JSON object is expected"),
        ("binary.toml", b"\xff\xfe", "does not parse"),
        ("settings.yaml", b"epochs: 1", "neither .toml nor .json"),
        ("missing.toml", None, "Cannot read configuration file .*: No such file or directory"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, name: str, data: bytes | None, message: str):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigurationError, match=message) as caught:
        read_file(tmp_path / name)
    assert name in str(caught.value)


def test_an_error_in_a_file_names_the_file(tmp_path: Path):
    path = tmp_path / "recipe.toml"
    path.write_text("epoch = 4\n")
    with pytest.raises(ConfigurationError, match=r"recipe\.toml: unknown key 'epoch'"):
        load(Training, path)
