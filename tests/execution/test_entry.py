"""Functions as plain data."""

import json

import msgspec
import pytest

from ganglion.core.errors import SpecError, UserError
from ganglion.execution.entry import Entry, entry_of
from ganglion.testing import entries


def test_an_importable_function_travels_by_its_path():
    entry = entry_of(entries.add)
    assert entry == Entry(path="ganglion.testing.entries:add")
    assert entry.load() is entries.add
    assert str(entry) == "ganglion.testing.entries:add"


def test_a_closure_travels_pickled():
    base = 40
    entry = entry_of(lambda more: base + more)
    assert entry.path == ""
    assert entry.load()(2) == 42
    assert str(entry) == "a function without an import path"


@pytest.mark.parametrize("function", [entries.add, lambda: None])
def test_an_entry_is_plain_data(function):
    entry = entry_of(function)
    assert msgspec.json.decode(msgspec.json.encode(entry), type=Entry) == entry
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(entry), type=Entry) == entry


@pytest.mark.parametrize("fields", [{}, {"path": "json:dumps", "pickled": b"x"}])
def test_an_entry_is_one_or_the_other(fields):
    with pytest.raises(SpecError, match="either an import path or a pickled function"):
        Entry(**fields)


def test_what_cannot_be_called_is_refused():
    with pytest.raises(SpecError, match="is a str, which cannot be called"):
        Entry(path="json:__name__").load()


def test_what_is_not_there_is_refused():
    with pytest.raises(UserError, match="'json' has no 'missing'"):
        Entry(path="json:missing").load()


def test_a_method_travels_by_its_qualified_name():
    assert entry_of(json.JSONEncoder.encode).load() is json.JSONEncoder.encode
