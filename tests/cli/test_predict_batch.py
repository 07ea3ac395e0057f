"""`ganglion predict --input`: processes that are killed, and what a person reads afterwards."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.dataset
import pytest
from command_line import CommandLine, write_lights, write_picture

from ganglion.serving.repository import ModelRepository

FILES, PER_FILE = 5, 40


@pytest.fixture
def project(tmp_path: Path) -> CommandLine:
    """A project of its own with the model `lights`."""
    ModelRepository(tmp_path / "home" / "models").publish("lights", write_lights(tmp_path / "package"))
    return CommandLine(tmp_path / "home")


@pytest.fixture
def readings(tmp_path: Path) -> Path:
    """Files of four numbers each under `sensor`, dark and bright in turn; one line is cut off."""
    folder = tmp_path / "readings"
    folder.mkdir()
    for file in range(FILES):
        lines = [
            json.dumps({"name": f"{file}-{row}", "sensor": [255 * (row % 2)] * 4, "row": row})
            for row in range(PER_FILE)
        ]
        (folder / f"{file}.jsonl").write_text("\n".join(lines) + ('\n{"name": "cut' if file == 3 else "") + "\n")
    return folder


def rows(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pyarrow.dataset.dataset(folder).to_table().to_pylist()
    return found


def test_a_prediction_by_tasks_that_is_killed_goes_on(project: CommandLine, readings: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    line = ("predict", "lights", "--input", readings, "--output", out, "--columns", "name,row", "--part", "1B")
    with project.start(*line, "--workers", "2", "--json") as command:
        while not list(out.glob("part-*")) and command.poll() is None:
            with pytest.raises(subprocess.TimeoutExpired):
                command.wait(timeout=0.02)
        family = psutil.Process(command.pid).children(recursive=True)
        command.send_signal(signal.SIGKILL)
        assert command.wait(timeout=60) == -signal.SIGKILL
    assert psutil.wait_procs(family, timeout=30)[1] == [], "nobody goes on without it"
    done = {path.name: os.stat(path).st_mtime_ns for path in out.glob("part-*")}
    assert not (out / "_report.json").exists()
    document = project.json(*line, "--workers", "2")
    counts = [document[key] for key in ("state", "read", "predicted", "set_aside", "left_out")]
    assert counts == ["predicted", FILES * PER_FILE + 1, FILES * PER_FILE, 1, 0]
    assert document["parts_of_an_earlier_attempt"] >= len(done) - 2  # of two it may not have said that they are done
    kept = [name for name, at in done.items() if os.stat(out / name).st_mtime_ns == at]
    assert len(kept) == document["parts_of_an_earlier_attempt"], "and these were not written again"
    found = rows(out)
    assert [row["name"] for row in found] == [f"{file}-{row}" for file in range(FILES) for row in range(PER_FILE)]
    assert [row["class"] for row in found] == ["dark", "bright"] * (FILES * PER_FILE // 2)
    np.testing.assert_allclose([sum(row["probabilities"].values()) for row in found], 1, atol=1e-6)
    assert found == sorted(found, key=lambda row: row["id"])
    assert project.json(*line)["state"] == "done before"


def test_after_ctrl_c_it_goes_on_where_it_was(project: CommandLine, readings: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    line = ("predict", "lights", "--input", readings, "--output", out, "--part", "1B")
    with project.start(*line) as command:
        while not list((out / "_work" / "done").glob("*.json")) and command.poll() is None:
            with pytest.raises(subprocess.TimeoutExpired):
                command.wait(timeout=0.01)
        command.send_signal(signal.SIGINT)
        said, _nothing = command.communicate(timeout=60)
        assert command.returncode == 130
    assert "Traceback" not in said
    assert "The same command goes on where it was" in said
    numbers = {path.stem for path in (out / "_work" / "done").glob("*.json")}
    done = {path.name: os.stat(path).st_mtime_ns for path in out.glob("part-*") if path.stem[5:] in numbers}
    assert 0 < len(done) == len(numbers) < FILES, "it was in the middle"
    assert f"Interrupted with {len(done)} part{'s' if len(done) > 1 else ''} in " in said
    again = project(*line)
    assert again.returncode == 0, again.stderr
    kept = [name for name, at in done.items() if os.stat(out / name).st_mtime_ns == at]
    assert len(kept) == len(done), "these were not written again"
    assert re.search(rf"went on after +{len(kept)} parts? of an earlier attempt", again.stdout)
    assert len(rows(out)) == FILES * PER_FILE


def test_pictures_of_a_folder_get_their_classes_as_json_lines(project: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for number, brightness in enumerate((10, 240, 10)):
        write_picture(tmp_path / "pictures" / f"{number}.png", brightness)
    (tmp_path / "pictures" / "broken.png").write_bytes(b"\x89PNG no more")
    out = tmp_path / "out.jsonl"
    line = ("predict", "lights:1", "--input", tmp_path / "pictures" / "*.png", "--option", "labels=false")
    done = project(*line, "--output", out, "--max-bad", "1")
    assert done.returncode == 0, done.stderr
    assert "4 read, 3 predicted, 1 set aside, 0 left out" in done.stdout
    found = [json.loads(text) for text in (out / "part-00000.jsonl").read_text().splitlines()]
    assert [row["class"] for row in found] == ["dark", "bright", "dark"]
    assert set(found[0]["probabilities"]) == {"dark", "bright"}


def test_a_prepared_dataset_is_named_by_its_digest(project: CommandLine, readings: Path, tmp_path: Path) -> None:
    digest = project.json("data", "prepare", readings)["dataset"].removeprefix("sha256:")[:12]
    document = project.json("predict", "lights", "--input", digest, "--output", tmp_path / "out")
    assert (document["read"], document["predicted"]) == (FILES * PER_FILE, FILES * PER_FILE)
    assert [row["class"] for row in rows(tmp_path / "out")] == ["dark", "bright"] * (FILES * PER_FILE // 2)
    assert "--limit is for sources" in project.error(
        "predict", "lights", "--input", digest, "--output", tmp_path / "out", "--limit", "3"
    )


def test_what_cannot_work_is_refused(project: CommandLine, readings: Path, tmp_path: Path) -> None:
    good = ("predict", "lights", "--input", readings, "--output", tmp_path / "out")
    assert "Did you mean 'lights'?" in project.error("predict", "lihgts", *good[2:])
    assert "--output FOLDER" in project.error(*good[:4])
    assert "no input 'pixel'" in project.error(*good, "--feed", "pixel=sensor")
    assert "INPUT=COLUMN" in project.error(*good, "--feed", "sensor")
    assert "--max-bad" in project.error(*good, "--max-bad", "some")
    assert "--url does not go together with --input" in project.error(*good, "--url", "http://127.0.0.1:1")
    assert "--columns does not go together with --instances" in project.error(
        "predict", "lights", "--instances", "[1]", "--columns", "x"
    )
    assert "Give one of" in project.error(*good, "--stdin")
    assert not (tmp_path / "out").exists()
    project.json(*good)
    ModelRepository(project.home / "models").publish("lights", tmp_path / "package")
    assert "version 1 of 'lights', and 'lights' version 2 was asked" in project.error(*good)
