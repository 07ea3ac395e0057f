from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from ganglion.cli.main import make_app

VERBS = (
    "run",
    "run-script",
    "train",
    "runs list",
    "runs show",
    "runs logs",
    "models list",
    "models show",
    "models publish",
    "models alias",
    "services list",
    "services show",
    "services scale",
    "services rollout",
    "services rollback",
    "services stop",
    "stop",
    "delete",
    "keys add",
    "keys list",
    "keys revoke",
    "keys limit",
    "clean",
    "serve",
    "predict",
    "doctor",
)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_with_examples(verb: str) -> None:
    shown = CliRunner().invoke(make_app(), [*verb.split(), "--help"])
    assert shown.exit_code == 0
    examples = shown.stdout.partition("Examples:")[2].partition("╭")[0]
    assert f"ganglion {verb}" in examples
    assert not examples.splitlines()[0].strip()
    begun = [line for line in examples.splitlines() if "ganglion " in line]
    assert all(line.count("ganglion ") == 1 or "|" in line for line in begun), "each stands on a line of its own"


def test_help_loads_nothing_heavy() -> None:
    script = """
import sys
from ganglion.cli.main import make_app
make_app()(["--help"], standalone_mode=False)
heavy = {"torch", "sqlalchemy", "onnxruntime", "numpy", "PIL", "ray", "kubernetes", "psutil"}
sys.stderr.write(" ".join(heavy & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert all(verb.split()[0] in done.stdout for verb in VERBS)
    assert done.stderr == ""


def test_an_unknown_verb_or_option_is_refused() -> None:
    assert CliRunner().invoke(make_app(), ["rnu"]).exit_code == 2
    assert CliRunner().invoke(make_app(), ["runs", "list", "--limt", "3"]).exit_code == 2
