"""The tree of errors."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest

from ganglion.core import errors
from ganglion.core.errors import GanglionError, UserError, suggest


def drawn() -> dict[str, str]:
    """Each class in the drawing of the module docstring, with the class it hangs from."""
    parents: dict[str, str] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^([│├└─ ]*)(\w+Error)\b", line)
        if match:
            depth = len(match[1]) // 4
            above[depth:] = [match[2]]
            parents[match[2]] = above[depth - 1] if depth else "Exception"
    return parents


def test_the_drawing_is_the_tree():
    classes = {
        name: found.__bases__[0].__name__
        for name, found in inspect.getmembers(errors, inspect.isclass)
        if issubclass(found, BaseException) and found.__module__ == errors.__name__
    }
    assert drawn() == classes
    assert len(classes) >= 11


def test_exit_codes_tell_the_users_errors_from_the_others():
    for found in vars(errors).values():
        if inspect.isclass(found) and issubclass(found, GanglionError):
            assert found.exit_code == (2 if issubclass(found, UserError) else 1)


@pytest.mark.parametrize(
    ("given", "allowed", "text"),
    [
        ("epoch", ["rate", "epochs"], "Allowed: epochs, rate. Did you mean 'epochs'?"),
        ("zzz", ["rate", "epochs"], "Allowed: epochs, rate."),
        ("anything", [], "Allowed: none."),
    ],
)
def test_a_suggestion_lists_what_is_allowed_and_the_nearest(given, allowed, text):
    assert suggest(given, allowed) == text


def test_options_have_other_names_on_a_command_line():
    def rename(name):
        return f"--{name.replace('_', '-')}"

    message = "most is 1 and at_least 2: give at_least=1. It is almost the 'most', at mostly."
    error = errors.OptionError(message, "most", "at_least")
    assert str(error) == message
    renamed = error.renamed(rename)
    assert type(renamed) is errors.UserError
    assert str(renamed) == "--most is 1 and --at-least 2: give --at-least=1. It is almost the 'most', at mostly."
    assert str(errors.OptionError("most is 1").renamed(rename)) == "most is 1", "no name is guessed"
    copied = pickle.loads(pickle.dumps(error))
    assert (str(copied), copied.names) == (message, error.names)
