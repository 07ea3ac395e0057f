from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest
from command_line import RECIPE, CommandLine, write_lights

from ganglion.artifacts.store import FolderStore
from ganglion.cli.clean import find_unused
from ganglion.platform import Platform

LONG_AGO = time.time() - 3 * 3600


def age(*paths: Path) -> None:
    """Make files and folders look as if they had been written three hours ago."""
    for path in paths:
        for each in (*path.rglob("*"), path):
            os.utime(each, (LONG_AGO, LONG_AGO))


@pytest.fixture
def project(ganglion: CommandLine, tmp_path: Path) -> CommandLine:
    """A project with a run that has published a model, everything in it old."""
    package = write_lights(tmp_path / "package")
    assert ganglion("run", f"{RECIPE}:publishing", "--set", f"folder={package}").returncode == 0
    age(ganglion.home / "store", ganglion.home / "jobs", ganglion.home / "models")
    return ganglion


def test_what_nothing_refers_to_is_shown_and_then_removed(project: CommandLine) -> None:
    store = FolderStore(project.home / "store")
    needed = {digest for digest, _ in store.digests()}
    old, young = store.put_bytes(b"old", "test"), store.put_bytes(b"young", "test")
    job, download = project.home / "jobs" / "serve-lights-1-x", project.home / "cache" / "set" / ".file.gz.0123"
    (job / "replica-0" / "1").mkdir(parents=True)
    (job / "replica-0" / "1" / "log").write_text("many words")
    download.parent.mkdir(parents=True)
    download.write_text("half")
    (download.parent / "file.gz").write_text("whole")
    age(store.path(old), job, project.home / "cache")
    kept = sorted(path for path in project.home.rglob("*") if path.is_file() and path != store.path(old))

    shown = project.json("clean")
    assert {sort: found["count"] for sort, found in shown["unused"].items()} == {
        "artifacts": 1,
        "jobs": 1,
        "temporary": 1,
    }
    assert shown["unused"]["artifacts"]["size"] == len(b"old")
    assert shown["removed"] == 0
    assert shown["use"]["store"] == sum(
        path.stat().st_size for path in (project.home / "store").rglob("*") if path.is_file()
    )
    assert project("clean").returncode == 1  # nobody answers the question
    assert old in store

    removed = project.json("clean", "--yes")
    assert removed["unused"] == shown["unused"]
    assert removed["removed"] == sum(found["size"] for found in shown["unused"].values())
    assert {digest for digest, _ in store.digests()} == needed | {young.digest}
    left = sorted(path for path in project.home.rglob("*") if path.is_file() and not path.name.startswith("record.db"))
    gone = {job / "replica-0" / "1" / "log", download}
    assert left == [path for path in kept if path not in gone and not path.name.startswith("record.db")]
    assert "nothing to remove" in project("clean").stdout


def test_artifacts_of_a_deleted_run_stay_while_an_earlier_result_refers_to_them(project: CommandLine) -> None:
    store = FolderStore(project.home / "store")
    before = list(store.digests())
    assert project("delete", "latest", "--yes").returncode == 0
    project.json("clean", "--yes")
    assert list(store.digests()) == before
    for path in (project.home / "memo").glob("*.json"):
        path.unlink()
    assert project.json("clean", "--yes")["unused"]["artifacts"]["count"] == len(before)
    assert list(store.digests()) == []
    assert project.json("models", "show", "light")["versions"] != []


def test_nothing_is_removed_that_was_written_since_a_living_run_began(ganglion: CommandLine, pipe: Path) -> None:
    later = time.time() + 3 * 3600
    with ganglion.start("run", f"{RECIPE}:waiting", "--set", f"pipe={pipe}"), Platform(ganglion.home) as platform:
        assert pipe.read_text() == "started"
        made = platform.store.put_bytes(b"by the run", "test")
        assert find_unused(platform, now=later).garbage.blobs == ()
        assert ganglion("stop", "latest").returncode == 0
        (found,) = find_unused(platform, now=later).garbage.blobs
        assert found.digest == made.digest


def test_the_folder_of_a_job_stays_while_one_of_its_processes_lives(project: CommandLine) -> None:
    attempt = project.home / "jobs" / "serve-lights-1-x" / "replica-0" / "1"
    attempt.mkdir(parents=True)
    with subprocess.Popen(["sleep", "600"]) as process:
        (attempt / "process").write_text(json.dumps({"pid": process.pid, "at": time.time()}))
        age(project.home / "jobs")
        assert project.json("clean")["unused"]["jobs"]["count"] == 0
        process.kill()
    assert project.json("clean")["unused"]["jobs"]["count"] == 1
