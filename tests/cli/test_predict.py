from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import CommandLine, write_picture


@pytest.fixture
def pictures(tmp_path: Path) -> tuple[Path, Path]:
    return write_picture(tmp_path / "night.png", 10), write_picture(tmp_path / "day.png", 240)


def test_pictures_get_their_classes(shop: CommandLine, pictures: tuple[Path, Path]) -> None:
    night, day = pictures
    document = shop.json("predict", "lights", "--image", night, "--image", day)
    assert (document["model"], document["version"]) == ("lights", 2)
    assert [found["input"] for found in document["predictions"]] == [str(night), str(day)]
    assert [found["best"][0]["class"] for found in document["predictions"]] == ["dark", "bright"]
    assert sum(document["predictions"][0]["prediction"]) == pytest.approx(1)
    table = shop("predict", "lights:champion", "--image", night).stdout
    assert table.index("dark") < table.index("bright")
    assert "%" in table


def test_instances_are_given_as_json_or_in_a_file(shop: CommandLine, tmp_path: Path) -> None:
    text = json.dumps([[[0, 0], [0, 0]], [[255, 255], [255, 255]]])
    (tmp_path / "pixels.json").write_text(text)
    given = shop.json("predict", "lights:1", "--instances", text)
    assert [found["best"][0]["class"] for found in given["predictions"]] == ["dark", "bright"]
    assert shop.json("predict", "lights:1", "--instances", f"@{tmp_path / 'pixels.json'}") == given


def test_bad_input_is_refused(shop: CommandLine, pictures: tuple[Path, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(pictures[0].read_bytes()[:40])
    refused = shop.error("predict", "lights", "--image", pictures[0], "--image", broken)
    assert f"{broken}: " in refused
    assert "not a complete PNG or JPEG" in refused
    assert "no-such.png" in shop.error("predict", "lights", "--image", "no-such.png")
    assert "[2, 2]" in shop.error("predict", "lights", "--instances", "[[1, 2, 3]]")
    assert "not JSON" in shop.error("predict", "lights", "--instances", "[[1, 2")
    assert "Did you mean 'lights'?" in shop.error("predict", "lihgts", "--instances", "[1]")
    assert "--instances" in shop.error("predict", "lights")
