"""Importing by name, in the one place that does."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ganglion.core.errors import UserError
from ganglion.core.registry import add_to_path, lazy_names, load_file, load_modules, load_object


@pytest.fixture(autouse=True)
def imports_as_before(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_objects_are_found_by_module_and_qualified_name():
    assert load_object("json:dumps") is json.dumps
    assert load_object("json:JSONEncoder.encode") is json.JSONEncoder.encode


@pytest.mark.parametrize("path", ["json", "json:", ":dumps", ""])
def test_another_form_is_refused(path):
    with pytest.raises(UserError, match="not of the form module:name"):
        load_object(path)


@pytest.mark.parametrize("path", ["no_such_module:run", "json.no_such_part:run"])
def test_a_module_that_is_not_there_is_the_users_error(path):
    with pytest.raises(UserError, match=f"No module named {path.split(':')[0]!r} for the entry"):
        load_object(path)


def test_a_name_that_is_not_there_is_the_users_error():
    with pytest.raises(UserError, match=r"'json' has no 'JSONEncoder\.missing'"):
        load_object("json:JSONEncoder.missing")


def test_what_a_module_misses_itself_is_shown_as_it_is(tmp_path: Path):
    (tmp_path / "needs_something.py").write_text("import something_not_installed\n")
    add_to_path((str(tmp_path),))
    with pytest.raises(ModuleNotFoundError, match="something_not_installed"):
        load_object("needs_something:run")


def test_folders_go_to_the_front_in_order_and_once(tmp_path: Path):
    first, second = str(tmp_path / "a"), str(tmp_path / "b")
    add_to_path((first, second))
    add_to_path((second,))
    assert sys.path[:2] == [first, second]
    assert sys.path.count(second) == 1


def test_modules_are_loaded_for_their_effect(tmp_path: Path):
    (tmp_path / "leaves_a_mark.py").write_text("import sys\nsys.left_a_mark = True\n")
    add_to_path((str(tmp_path),))
    load_modules(("leaves_a_mark",))
    assert sys.left_a_mark is True
    del sys.left_a_mark


def test_a_recipe_is_imported_by_its_name_with_its_neighbours(tmp_path: Path):
    (tmp_path / "neighbour_of_recipe.py").write_text("VALUE = 42\n")
    (tmp_path / "recipe_of_test.py").write_text("from neighbour_of_recipe import VALUE\n")
    module = load_file(tmp_path / "recipe_of_test.py")
    assert (module.__name__, module.VALUE) == ("recipe_of_test", 42)
    assert load_object("recipe_of_test:VALUE") == 42


@pytest.mark.parametrize("name", ["my-recipe.py", "1recipe.py", "recipe.txt"])
def test_a_name_that_cannot_be_imported_is_refused(tmp_path: Path, name: str):
    (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"must be a Python identifier followed by \.py"):
        load_file(tmp_path / name)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="There is no file"):
        load_file(tmp_path / "missing.py")


def test_a_recipe_with_the_name_of_another_module_is_refused(tmp_path: Path):
    (tmp_path / "json.py").write_text("VALUE = 1\n")
    with pytest.raises(UserError, match=r"has the name of another module .*rename the file"):
        load_file(tmp_path / "json.py")


def test_lazy_names_are_imported_on_first_use():
    load = lazy_names("xml", {"dump": "etree.ElementTree"})
    assert load("dump").__module__ == "xml.etree.ElementTree"
    with pytest.raises(AttributeError, match="module 'xml' has no attribute 'other'"):
        load("other")
