from __future__ import annotations

import subprocess
import sys

import ganglion.fingerprints


def test_the_public_names_are_these() -> None:
    assert set(ganglion.fingerprints.__all__) == {
        "UNKNOWN",
        "CodeWalk",
        "ImportPath",
        "NoDigestError",
        "digest_code",
        "digest_parts",
        "ganglion_version",
        "project_folders",
    }


def test_taking_digests_loads_nothing_heavy() -> None:
    heavy = {"torch", "sqlalchemy", "numpy", "ray", "psutil"}
    script = f"import sys, ganglion.fingerprints; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]"
