from __future__ import annotations

from typing import Any

import ganglion.workflow


def test_the_public_names_are_these():
    assert set(ganglion.workflow.__all__) == {
        "Encoded",
        "Engine",
        "Graph",
        "Host",
        "Operation",
        "Pipeline",
        "RunFailedError",
        "RunResult",
        "Step",
        "StepCall",
        "StepOptions",
        "StepOutput",
        "as_completed",
        "current_step",
        "operation",
        "pipeline",
        "step",
    }
    assert all(hasattr(ganglion.workflow, name) for name in ganglion.workflow.__all__)


def test_defining_pipelines_loads_nothing_heavy(python: Any):
    heavy = {"torch", "sqlalchemy", "numpy", "ray", "psutil"}
    script = f"import sys, ganglion.workflow; print(sorted({heavy!r} & set(sys.modules)))"
    assert python(script).stdout.strip() == "[]"
