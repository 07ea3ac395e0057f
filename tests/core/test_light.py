"""What importing Ganglion costs: nothing heavy is loaded before it is used."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "ray", "sqlalchemy", "numpy", "onnxruntime", "pandas", "alembic"}


@pytest.mark.parametrize(
    "module", ["ganglion", "ganglion.execution.supervisor", "ganglion.backends.local.backend", "ganglion.core.config"]
)
def test_an_import_stays_light(module):
    code = f"import {module}, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert module in loaded
    assert HEAVY & {name.partition(".")[0] for name in loaded} == set()
