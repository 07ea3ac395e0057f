"""What the Ray backend refuses, decided without a cluster and without Ray."""

import subprocess
import sys

import pytest

from ganglion.backends.ray.backend import check_versions, render
from ganglion.core.errors import SpecError, UserError
from ganglion.core.resources import Resources
from ganglion.execution.backend import Capacity
from ganglion.execution.entry import Entry
from ganglion.execution.spec import Gang, Role, Service, Task

ENTRY = Entry(path="ganglion.testing.entries:add")
GIB = 2**30
CAPACITY = Capacity(
    nodes=(
        Resources(cpu=8.0, memory=16 * GIB),
        Resources(cpu=2.0, memory=4 * GIB, gpu=2.0),
    )
)


def test_a_gang_is_laid_out_in_rank_order():
    roles = (Role(name="worker", count=2, minimum=1), Role(name="ps", resources=Resources(cpu=0.5)))
    plans = render(Gang(id="gang", entry=ENTRY, roles=roles), CAPACITY)
    assert [(plan.member, plan.rank, plan.required, plan.resources.cpu) for plan in plans] == [
        ("worker-0", 0, True, 1.0),
        ("worker-1", 1, False, 1.0),
        ("ps-0", 2, True, 0.5),
    ]


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (Gang(id="wide", entry=ENTRY, roles=(Role(count=11),)), "11 members together need 11 CPUs of 10"),
        (Task(id="large", entry=ENTRY, resources=Resources(cpu=9.0)), "task-0 needs 9 CPUs of 8"),
        (
            Task(id="both", entry=ENTRY, resources=Resources(cpu=4.0, gpu=1.0)),
            "task-0 needs 4 CPU, 1 GPU at once, more than any node",
        ),
        (
            Gang(id="pieces", entry=ENTRY, roles=(Role(count=3),), resources=Resources(cpu=3.0)),
            "3 members need 3 CPU each, and the nodes have room for 2 of them",
        ),
        (Service(id="heavy", entry=ENTRY, resources=Resources(memory=17 * GIB)), "17.0 GiB of memory of 16.0 GiB"),
        (Task(id="devices", entry=ENTRY, resources=Resources(gpu=3.0)), "3 GPUs of 2"),
        (Task(id="parts", entry=ENTRY, resources=Resources(gpu=1.5)), "1.5 GPUs; Ray gives a part of one, or whole"),
        (
            Task(id="late", entry=ENTRY, environment={"OMP_NUM_THREADS": "2"}),
            "OMP_NUM_THREADS in the environment comes too late",
        ),
    ],
    ids=lambda value: value.id if isinstance(value, Task | Gang | Service) else "",
)
def test_what_never_fits_is_refused_with_what_is_missing(spec: Task | Gang | Service, reason: str):
    with pytest.raises(SpecError, match=reason.replace(".", r"\.")):
        render(spec, CAPACITY)


def test_what_just_fits_is_laid_out():
    assert len(render(Gang(id="full", entry=ENTRY, roles=(Role(count=10),)), CAPACITY)) == 10
    assert render(Task(id="nothing", entry=ENTRY, resources=Resources(cpu=0.0)), CAPACITY)


def test_a_node_with_other_versions_is_named():
    with pytest.raises(UserError, match=r"10\.0\.0\.7 runs Python 3\.4\.0, this process"):
        check_versions("10.0.0.7", ("3.4.0", "0.1.0"))
    python = ".".join(map(str, sys.version_info[:3]))
    with pytest.raises(UserError, match=r"10\.0\.0\.7 runs Ganglion 0\.0\.1, this process"):
        check_versions("10.0.0.7", (python, "0.0.1"))


def test_ray_is_not_loaded_until_a_backend_is_made():
    """And where it is not installed, the extra is named."""
    program = (
        "import sys; sys.modules['ray'] = None\n"
        "from pathlib import Path\n"
        "from ganglion.platform import ExecutionConfig, make_backend\n"
        "from ganglion.backends.ray.backend import render\n"
        "make_backend(Path('nowhere'), ExecutionConfig(backend='ray'))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "UserError: Ray is not installed; install it with pip install 'ganglion[ray]'" in done.stderr
