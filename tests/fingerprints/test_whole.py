from __future__ import annotations

import importlib
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module as load_module
from pathlib import Path

import numpy as np
import pytest

from ganglion.core.registry import load_object
from ganglion.fingerprints import NoDigestError, digest_code

evaluate = eval
MODULES = {
    "steps": """
        import helpers
        from helpers import FACTOR
        import numpy as np
        TABLE = {"a": 1}
        def step(columns, by=2):
            import other
            return {"x": helpers.scale(columns["x"]) * FACTOR * by + other.shift + TABLE["a"] + np.sum([1])}
        def fib(n):
            return n if n < 2 else fib(n - 1) + fib(n - 2)
    """,
    "helpers": """
        import deeper
        FACTOR = 3
        UNUSED = 1
        def scale(x):
            return deeper.twice(x)
        class Kept:
            def f(self):
                return 1
    """,
    "deeper": """
        def twice(x):
            # doubles
            return x + x
    """,
    "other": "shift = 1",
}


def write(folder: Path, **changes: tuple[str, str]) -> None:
    for name, text in MODULES.items():
        old, new = changes.get(name, ("", ""))
        assert old in text
        lines = [line.removeprefix("        ") for line in text.replace(old, new).splitlines()]
        (folder / f"{name}.py").write_text("\n".join(lines) + "\n")


@pytest.fixture
def digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Digest something of these modules, loaded anew after changes."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def digest(name: str, **changes: tuple[str, str]) -> str:
        write(tmp_path, **changes)
        forget()
        importlib.invalidate_caches()
        return digest_code(load_object(name))

    def forget() -> None:
        for module in MODULES:
            sys.modules.pop(module, None)

    yield digest
    forget()


def test_the_digest_follows_everything_that_a_function_leads_to(digest) -> None:
    reference = digest("steps:step")
    for module, old, new in (("deeper", "# doubles", "# does it twice"), ("helpers", "UNUSED = 1", "UNUSED = 2")):
        assert digest("steps:step", **{module: (old, new)}) == reference, f"{old} -> {new} changes nothing"
    for module, old, new in (
        ("deeper", "x + x", "x * 2"),
        ("helpers", "FACTOR = 3", "FACTOR = 4"),
        ("steps", "by=2", "by=3"),
        ("steps", '"a": 1', '"a": 2'),
        ("other", "shift = 1", "shift = 2"),
    ):
        assert digest("steps:step", **{module: (old, new)}) != reference, f"{old} -> {new} changes the result"


def test_another_process_finds_the_same_digest(digest, tmp_path: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nimport steps\n"
    code += "from ganglion.fingerprints import digest_code; print(digest_code(steps.step))"
    reference = digest("steps:step")
    done = subprocess.run([sys.executable, "-B", "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == reference


def test_classes_and_functions_that_call_themselves_have_digests(digest) -> None:
    changed = {"helpers": ("return 1", "return 2")}
    assert digest("helpers:Kept") != digest("helpers:Kept", **changed)
    assert digest("steps:fib") == digest("steps:fib", **changed)


def test_values_count_with_type_and_order() -> None:
    values = [
        1,
        True,
        1.0,
        "1",
        b"1",
        (1,),
        [1],
        {1},
        {"a": 1, "b": 2},
        {"b": 2, "a": 1},
        np.array([1]),
        np.array([1.0]),
    ]
    assert len({digest_code(value) for value in values}) == len(values)
    assert digest_code({"x", "y", "z"}) == digest_code({"z", "y", "x"})


def inside() -> object:
    import importlib as loading

    return loading.import_module("json")


def imported() -> object:
    from importlib import import_module as load

    return load("json")


@pytest.mark.parametrize(
    "function",
    [
        lambda: eval("1"),
        lambda: exec("1"),
        lambda: compile("1", "", "eval"),
        lambda: (yield __import__("os")),
        lambda: importlib.import_module("os"),
        lambda: load_module("os"),
        lambda: globals(),
        lambda: locals(),
        lambda name: vars(sys)[name],
        lambda: [evaluate(text) for text in ("1", "2")],
        inside,
        imported,
    ],
)
def test_what_cannot_be_followed_has_no_digest(function) -> None:
    with pytest.raises(NoDigestError, match="cannot be followed"):
        digest_code(function)


def test_attributes_that_are_called_like_what_cannot_be_followed_have_digests() -> None:
    def compiled(text: str) -> object:
        return re.compile("a").match(text)

    def other(text: str) -> object:
        return re.compile("b").match(text)

    assert digest_code(compiled) == digest_code(compiled) != digest_code(other)


def test_the_error_says_what_has_no_digest_and_why() -> None:
    with socket.socket() as connection:

        def uses_a_socket() -> object:
            return connection

        with pytest.raises(NoDigestError, match=r"code of `.*uses_a_socket`: a socket.socket has no stable encoding"):
            digest_code(uses_a_socket)
    with pytest.raises(NoDigestError, match="value of `generator`: a generator has no stable encoding"):
        digest_code(number for number in ())


def test_a_function_that_is_deeper_down_is_named_when_it_has_no_digest(digest) -> None:
    with pytest.raises(NoDigestError, match=r"code of `deeper.twice`: it calls eval\(\), and what that does"):
        digest("steps:step", deeper=("x + x", "eval(x)"))
