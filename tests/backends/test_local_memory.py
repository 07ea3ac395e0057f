"""Memory limits: which cgroup may be used, and what `RLIMIT_DATA` does."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

import pytest

from ganglion.backends.processes.memory import delegated_cgroup, enter_cgroup, leave_cgroup, limit_data

MIB = 2**20


@pytest.fixture
def hierarchy(tmp_path: Path) -> tuple[Path, Path]:
    """A mount with one cgroup, and the file that says that this process is in it."""
    folder = tmp_path / "cgroup" / "user" / "session"
    folder.mkdir(parents=True)
    (folder / "cgroup.controllers").write_text("cpu memory pids\n")
    (folder / "cgroup.subtree_control").write_text("memory\n")
    membership = tmp_path / "membership"
    membership.write_text("12:cpu:/elsewhere\n0::/user/session\n")
    return tmp_path / "cgroup", membership


def test_a_cgroup_with_the_memory_controller_is_used(hierarchy):
    mount, membership = hierarchy
    assert delegated_cgroup(mount, membership) == mount / "user" / "session"


@pytest.mark.parametrize("file", ["cgroup.controllers", "cgroup.subtree_control"])
def test_the_controller_has_to_be_there_and_enabled(hierarchy, file):
    mount, membership = hierarchy
    (mount / "user" / "session" / file).write_text("cpu pids\n")
    assert delegated_cgroup(mount, membership) is None
    (mount / "user" / "session" / file).unlink()
    assert delegated_cgroup(mount, membership) is None


def test_version_one_is_not_used(hierarchy):
    mount, membership = hierarchy
    membership.write_text("4:memory:/user/session\n")
    assert delegated_cgroup(mount, membership) is None


def test_without_proc_there_is_none(hierarchy, tmp_path):
    assert delegated_cgroup(hierarchy[0], tmp_path / "missing") is None


def test_entering_sets_the_limit_before_the_process_is_in(tmp_path):
    enter_cgroup(tmp_path, "ganglion-a", 300 * MIB)
    assert (tmp_path / "ganglion-a" / "memory.max").read_text() == str(300 * MIB)
    assert (tmp_path / "ganglion-a" / "memory.swap.max").read_text() == "0"
    assert (tmp_path / "ganglion-a" / "cgroup.procs").read_text() == str(os.getpid())


@pytest.mark.parametrize(("kills", "killed"), [(0, False), (2, True)])
def test_leaving_tells_whether_the_kernel_killed(tmp_path, kills, killed):
    folder = tmp_path / "ganglion-a"
    folder.mkdir()
    (folder / "memory.events").write_text(f"low 0\nhigh 0\nmax 9\noom 3\noom_kill {kills}\n")
    assert leave_cgroup(tmp_path, "ganglion-a") is killed


def test_leaving_what_was_never_entered_is_nothing(tmp_path):
    assert leave_cgroup(tmp_path, "ganglion-a") is False


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA covers mappings only on Linux")
@pytest.mark.parametrize(("amount", "expected"), [(20 * MIB, b"allocated"), (400 * MIB, b"refused")])
def test_beyond_the_limit_an_allocation_fails(amount, expected):
    """In a child, since a limit cannot be taken back; what the process had before is not counted."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            limit_data(100 * MIB)
            block = bytearray(amount)
            os.write(writing, b"allocated" if block else b"empty")
        except MemoryError:
            os.write(writing, b"refused")
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert pipe.read() == expected
    os.waitpid(pid, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA covers mappings only on Linux")
def test_a_stricter_limit_of_the_system_stays():
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            strict = 2**40
            resource.setrlimit(resource.RLIMIT_DATA, (strict, strict))
            limit_data(2**50)
            os.write(writing, str(resource.getrlimit(resource.RLIMIT_DATA) == (strict, strict)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert pipe.read() == b"True"
    os.waitpid(pid, 0)
