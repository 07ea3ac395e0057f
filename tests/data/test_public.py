from __future__ import annotations

import subprocess
import sys

import ganglion.data


def test_the_public_names_exist_and_are_listed_once() -> None:
    assert sorted(ganglion.data.__all__) == sorted(ganglion.data._MODULES)
    for name in ganglion.data.__all__:
        assert getattr(ganglion.data, name) is not None


def test_importing_the_package_loads_no_numpy() -> None:
    code = "import sys, ganglion.data; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
