from __future__ import annotations

import sys
import textwrap
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ganglion.workflow.codec import Encoded
from ganglion.workflow.fingerprint import Fingerprint, take_fingerprint, what_changed

Module = Callable[..., types.ModuleType]


@pytest.fixture
def module() -> Iterator[Module]:
    """Makes modules of the project out of source text; making one again is editing it."""
    made: set[str] = set()

    def make(name: str, source: str) -> types.ModuleType:
        created = types.ModuleType(name)
        sys.modules[name] = created
        made.add(name)
        exec(compile(source, f"{name}.py", "exec"), vars(created))
        return created

    yield make
    for name in made:
        del sys.modules[name]


def taken(function: Any, **inputs: Any) -> Fingerprint:
    return take_fingerprint({"function": function}, inputs, {"seed": "1"}, {})


MOVED = '''

    # why
    def f( x ) :
        """Other
        text."""

        if (x):  # really
            return {
                1: x,
                "y": [
                    x
                ],
            }

        return None
'''


def test_comments_formatting_docstrings_and_line_numbers_do_not_count(module: Module):
    tidy = module("project", 'def f(x):\n    "Doc."\n    if x:\n        return {1: x, "y": [x]}\n    return None\n')
    moved = module("project", textwrap.dedent(MOVED))
    assert taken(tidy.f) == taken(moved.f)
    bare = module("project", 'def f(x):\n    if x:\n        return {1: x, "y": [x]}\n    return None\n')
    assert taken(bare.f) == taken(tidy.f)


F = "code of `project.f` changed"


@pytest.mark.parametrize(
    ("source", "old", "new", "change"),
    [
        ("def f(): return 1", "1", "2", F),
        ("def f(): return 1", "1", "1.0", F),
        ("def f(x=1): return x", "1", "2", F),
        ("def f(x): return x in {'a', 'b'}", "'b'", "'c'", F),
        ("def f():\n try: return 1\n except ValueError: return 2", "ValueError", "KeyError", F),
        ("def f(x): return [g(y) for y in x]\ndef g(y): return y", "n y", "n -y", "code of `project.g` changed"),
        ("N = 3\ndef f(): return N", "3", "4", "value of `project.N` changed"),
        ("N = {'a': [1]}\ndef f(): return N", "1", "2", "value of `project.N` changed"),
        ("class A:\n def m(self): return 1\ndef f(): return A().m()", "1", "2", "code of `project.A.m` changed"),
        ("class B:\n k = 1\nclass A(B): pass\ndef f(): return A().k", "1", "2", "code of `project.B` changed"),
        ("def m(k):\n def f(): return k\n return f\nf = m(1)", "1", "2", "code of `project.m.<locals>.f` changed"),
        (
            "import functools\n@functools.lru_cache\ndef g(): return 1\ndef f(): return g()",
            "1",
            "2",
            "code of `project.g` changed",
        ),
        (
            "from dataclasses import dataclass\n@dataclass\nclass A:\n x: int = 1\ndef f(): return A()",
            "1",
            "2",
            "code of `project.A` changed, code of `project.A.__init__` changed",
        ),
        ("import enum\nclass E(enum.Enum):\n A = 1\ndef f(): return E.A", "1", "2", "code of `project.E` changed"),
        (
            "import msgspec\nclass S(msgspec.Struct):\n x: int = 1\ndef f(): return S()",
            "1",
            "2",
            "code of `project.S` changed",
        ),
        (
            "def f(n): return n and g(n - 1)\ndef g(n): return n and f(n - 3)",
            "3",
            "2",
            "code of `project.g` changed",
        ),
        (
            "class A:\n @property\n def p(self): return 1\ndef f(): return A().p",
            "1",
            "2",
            "code of `project.A.p` changed",
        ),
        (
            "class A:\n def __init__(self, k): self.k = k\nX = A(1)\ndef f(): return X.k",
            "1",
            "2",
            "value of `project.X` changed",
        ),
    ],
)
def test_a_change_is_seen_and_named(module: Module, source: str, old: str, new: str, change: str):
    first, second = taken(module("project", source).f), taken(module("project", source.replace(old, new)).f)
    again = taken(module("project", source).f)
    assert first.digest is not None, first.reason
    assert first.digest == again.digest != second.digest
    assert what_changed(first.parts, second.parts) == change


@pytest.mark.parametrize(
    "use",
    [
        "import helpers\ndef f(): return helpers.scale(1)",
        "from helpers import scale\ndef f(): return scale(1)",
        "import helpers as h\ndef f(): return [h.scale(x) for x in ()]",
        "def f():\n from helpers import scale\n return scale(1)",
        "import functools, helpers\nscaled = functools.partial(helpers.scale, 1)\ndef f(): return scaled()",
        "import helpers\nTABLE = {'scale': helpers.scale}\ndef f(): return TABLE['scale'](1)",
    ],
)
def test_helpers_in_other_modules_are_followed(module: Module, use: str):
    source = "F = 2\ndef scale(x): return x * F\ndef unused(): return {}\n"
    parts = []
    for text in (
        source.format(1),
        source.format(1).replace("* F", "+ F"),
        source.replace("F = 2", "F = 3"),
        source.format(2),
    ):
        module("helpers", text)
        parts.append(taken(module("project", use).f).parts)
    original, code, value, unused = parts
    assert "code of `helpers.scale` changed" in what_changed(original, code)
    assert "value of `helpers.F` changed" in what_changed(original, value)
    assert what_changed(original, unused) == ""


@pytest.mark.parametrize(
    "use",
    ["import helpers\ndef f(name): return getattr(helpers, name)", "def f():\n import helpers\n return helpers.scale"],
)
def test_a_module_that_is_used_as_a_value_counts_as_a_whole(module: Module, use: str):
    module("helpers", "def scale(): return 1\ndef other(): return 1")
    before = taken(module("project", use).f)
    module("helpers", "def scale(): return 1\ndef other(): return 2")
    after = taken(module("project", use).f)
    assert what_changed(before.parts, after.parts) == "code of `helpers.other` changed"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (
            "import socket\ns = socket.socket()\ndef f(): return s",
            "value of `project.s`: a socket.socket has no stable",
        ),
        ("def f(x): return eval(x)", "code of `project.f`: it calls eval\\(\\)"),
        ("import importlib\ndef f(x): return importlib.import_module(x)", "it calls importlib.import_module"),
        ("g = (x for x in ())\nf = lambda: next(g)", "value of `project.g`: a generator has no stable"),
        ("def f():\n import project_that_is_not_there\n", "imports project_that_is_not_there, which cannot be loaded"),
    ],
)
def test_what_cannot_be_followed_has_no_digest_and_says_why(module: Module, source: str, reason: str):
    made = module("project", source)
    found = taken(made.f)
    if hasattr(made, "s"):
        made.s.close()
    assert found.digest is None
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(found.reason)


def test_installed_code_counts_by_its_version(module: Module, monkeypatch: pytest.MonkeyPatch):
    made = module("project", "import numpy as np\ndef f(): return np.arange(3)")
    before = taken(made.f)
    assert before.parts["version numpy"] == np.__version__
    lazily = module("project", "def f():\n    import torch\n    return torch.zeros(1)")
    assert "version torch" in taken(lazily.f).parts
    changed = {**before.parts, "version numpy": "1.0"}
    assert what_changed(changed, before.parts) == f"numpy 1.0 -> {np.__version__}"


def test_a_compiled_module_of_the_project_counts_by_its_file(module: Module, tmp_path: Path):
    source = "import native\ndef f(): return native.Thing(), getattr(native, 'thing')"
    digests = []
    for content in (b"1", b"2", b"1"):
        (tmp_path / "native.so").write_bytes(content)
        module("native", f"__file__ = {str(tmp_path / 'native.so')!r}\nclass Thing: pass")
        digests.append(taken(module("project", source).f).digest)
    assert digests[0] == digests[2] != digests[1]


def test_inputs_settings_and_variables_count():
    def taken_with(**changes: Any) -> Fingerprint:
        given = {"inputs": {"epochs": 1}, "settings": {"seed": "1"}, "variables": {"TOKEN": "abc"}, **changes}
        return take_fingerprint({"f": test_inputs_settings_and_variables_count}, **given)

    before = taken_with()
    assert what_changed(before.parts, taken_with(inputs={"epochs": True}).parts) == "input `epochs` changed"
    assert what_changed(before.parts, taken_with(settings={"seed": "2"}).parts) == "seed 1 -> 2"
    assert (
        what_changed(before.parts, taken_with(variables={"TOKEN": "x"}).parts) == "environment variable `TOKEN` changed"
    )
    assert "abc" not in str(before.parts)


def test_the_code_of_the_classes_in_an_input_counts(module: Module):
    result = Encoded({"$": "struct", "path_of": "project:Point", "fields": {"x": 1}})

    def use(point: Any) -> Any:
        return point.norm()

    source = "import msgspec\nclass Point(msgspec.Struct):\n x: int\n def norm(self): return abs(self.x)"
    module("project", source)
    before = taken(use, point=result)
    module("project", source.replace("abs(self.x)", "0"))
    after = taken(use, point=result)
    assert what_changed(before.parts, after.parts) == "code of `project.Point.norm` changed"


def test_digests_are_the_same_in_fresh_interpreters_whatever_the_hash_seed(tmp_path: Path, python: Any):
    (tmp_path / "project.py").write_text(
        "import enum, re, logging, threading, dataclasses, msgspec\n"
        "import numpy as np\n"
        "NAMES = {'b', 'a', 'c'}\nPATTERN = re.compile('x+')\nlog = logging.getLogger('p')\nlock = threading.Lock()\n"
        "class Color(enum.Enum):\n    RED = 1\n    BLUE = 2\n"
        "@dataclasses.dataclass\nclass Point:\n    x: int = 0\n    tags: frozenset = frozenset({'u', 'v', 'w'})\n"
        "class S(msgspec.Struct):\n    p: Point\n    names: set = msgspec.field(default_factory=set)\n"
        "def helper(x): return x in {'one', 'two', 'three'}\n"
        "def f(x=Point()):\n"
        "    with lock:\n        log.info('x')\n"
        "        return [helper(n) for n in NAMES if PATTERN.match(n)], Color.RED, S(x), np.arange(3)\n"
    )
    script = (
        "import project\nfrom ganglion.workflow.fingerprint import take_fingerprint\n"
        "found = take_fingerprint({'f': project.f}, {'x': {'k', 'l', 'm'}, 'p': project.Point(3)}, {}, {})\n"
        "print(found.digest, found.reason)"
    )
    outputs = {python(script, PYTHONHASHSEED=seed).stdout for seed in ("0", "1", "2")}
    assert len(outputs) == 1
    assert "None" not in outputs.pop()
