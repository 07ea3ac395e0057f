from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from command_line import CommandLine, served_at

PREDICTOR = """
class Doubled:
    def load(self, folder):
        print("a word of the class")

    def predict(self, batch):
        return {"y": batch["x"] * 2}
"""


@pytest.fixture
def line(tmp_path: Path) -> CommandLine:
    (tmp_path / "doubled.py").write_text(PREDICTOR)
    return CommandLine(tmp_path / "home")


PUBLISH = ("--input", "x=float32", "--output", "y=float32")


def test_a_class_is_published_served_and_answers(line: CommandLine, tmp_path: Path) -> None:
    source = f"{tmp_path}/doubled.py:Doubled"
    assert line.json("models", "publish", "doubled", source, *PUBLISH)["version"] == 1
    said = line("models", "publish", "doubled", source, *PUBLISH, "--alias", "champion")
    assert said.returncode == 0, said.stderr
    assert "Published doubled version 2 as champion." in said.stdout
    assert "ganglion serve doubled" in said.stdout
    with line.start("serve", "doubled:champion", "--port", "0") as process:
        url = served_at(process)
        answer = httpx.post(f"{url}/v1/models/doubled/labels/champion:predict", json={"instances": [1, 2.5]}).json()
        assert answer == {"predictions": [2.0, 5.0]}
        process.terminate()
        process.communicate(timeout=30)
        assert process.returncode == 0


def test_the_same_file_given_twice_is_one(line: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "weights.json").write_text("2")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "weights.json").write_text("3")
    source = f"{tmp_path}/doubled.py:Doubled"
    twice = ("--with", tmp_path / "weights.json", "--with", f"{tmp_path}/more/../weights.json")
    assert line.json("models", "publish", "doubled", source, *PUBLISH, *twice)["version"] == 1
    others = ("--with", tmp_path / "weights.json", "--with", tmp_path / "more" / "weights.json")
    assert "rename one of them" in line.error("models", "publish", "doubled", source, *PUBLISH, *others)


def test_an_alias_is_moved_to_a_version(line: CommandLine, tmp_path: Path) -> None:
    for _ in range(2):
        assert line("models", "publish", "doubled", f"{tmp_path}/doubled.py:Doubled", *PUBLISH).returncode == 0
    assert "doubled:stable is version 1." in line("models", "alias", "doubled:1", "stable").stdout
    line("models", "alias", "doubled:2", "next")
    line("models", "alias", "doubled:next", "stable")
    assert line.json("models", "list")[0]["aliases"] == {"next": 2, "stable": 2}
    assert "Allowed: 1, 2" in line.error("models", "alias", "doubled:3", "stable")
    assert "A number is a version" in line.error("models", "alias", "doubled:1", "7")


def test_what_cannot_be_served_is_not_published(line: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("a\nb\n")
    source = f"{tmp_path}/doubled.py:Doubled"
    assert "--output" in line.error("models", "publish", "doubled", source)
    assert "cannot be the name" in line.error("models", "publish", "../doubled", source, *PUBLISH)
    assert "There is no output" in line.error(
        "models", "publish", "doubled", source, "--input", "x=float32", "--output", "z=float32"
    )
    assert "WIDTHxHEIGHT" in line.error("models", "publish", "doubled", source, *PUBLISH, "--image", "big")
    assert "cannot be read" in line.error("models", "publish", "doubled", source, *PUBLISH, "--classes", "@nowhere")
    assert "A number is a version" in line.error("models", "publish", "doubled", source, *PUBLISH, "--alias", "3")
    assert "name of its own" in line.error("models", "publish", "doubled", source, *PUBLISH, "--classes", "a,,b")
    thousands = ",".join(map(str, range(5000)))
    said = line.error("models", "publish", "doubled", source, *PUBLISH, "--classes", f"crane,{thousands},crane,maillot")
    assert "several are called 'crane'. Tell them apart, such as crane_1 and crane_2." in said
    assert json.loads(line("models", "list", "--json").stdout) == []
