"""A model of text from the command line: published, asked about lines and about a source, served."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from command_line import CommandLine

PREDICTOR = """
class Shout:
    def load(self, folder):
        pass

    def predict(self, batch):
        return {"loud": [text.upper() for text in batch["text"]]}
"""


@pytest.fixture
def line(tmp_path: Path) -> CommandLine:
    (tmp_path / "shout.py").write_text(PREDICTOR)
    command = CommandLine(tmp_path / "home")
    source = f"{tmp_path}/shout.py:Shout"
    said = command("models", "publish", "shout", source, "--input", "text=string", "--output", "loud=string")
    assert "Published shout version 1." in said.stdout, said.stderr
    return command


def test_lines_of_text_are_answered(line: CommandLine) -> None:
    given = b'"good"\n{"text": "\xc3\xbc"}\n7\n{"b64": "YQ=="}\n'
    command = [*line.line, "predict", "shout", "--stdin"]
    done = subprocess.run(command, env=line.environment, input=given, capture_output=True, timeout=60, check=False)
    answers = [json.loads(answer) for answer in done.stdout.splitlines()]
    assert [answer.get("prediction") for answer in answers] == ["GOOD", "Ü", None, "A"]
    assert answers[2]["error"].startswith("Input 'text': a number was given; the model takes text")


@pytest.mark.skipif(shutil.which("curl") is None, reason="the command that is shown is curl")
def test_the_command_that_is_shown_asks_it(line: CommandLine) -> None:
    with line.start("serve", "shout", "--port", "0", "--replicas", "1", "--cpu", "0.1") as service:
        assert service.stdout is not None
        curl = next(text.split(maxsplit=1)[1] for text in service.stdout if text.split()[:1] == ["ask"])
        answer = subprocess.run(curl, shell=True, capture_output=True, text=True, timeout=30, check=True)
        assert json.loads(answer.stdout) == {"predictions": [""]}
        service.terminate()
        assert service.wait(60) == 0


def test_a_column_of_text_is_predicted(line: CommandLine, tmp_path: Path) -> None:
    records = [{"review": "good", "stars": 5}, {"review": "grün 🦆", "stars": 1}]
    (tmp_path / "reviews.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    out = tmp_path / "out.jsonl"
    done = line("predict", "shout", "--input", tmp_path / "reviews.jsonl", "--output", out, "--columns", "stars")
    assert done.returncode == 0, done.stderr
    (part,) = out.glob("part-*")
    assert [json.loads(row) for row in part.read_text().splitlines()] == [
        {"id": 0, "stars": 5, "loud": "GOOD"},
        {"id": 1, "stars": 1, "loud": "GRÜN 🦆"},
    ]
