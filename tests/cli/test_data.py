"""`ganglion data`: sources are looked at, datasets prepared, verified, grown, and every bad record is accounted for."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import sqlite3
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import CommandLine
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from ganglion.artifacts.store import FolderStore
from ganglion.cli.data_dataset import open_digest
from ganglion.cli.data_prepare import Pace, PrepareProgress, parse_max_bad
from ganglion.cli.main import make_app
from ganglion.core.errors import ConfigurationError
from ganglion.data import PreparedDataset, Progress
from ganglion.data.contact_sheet import GAP, TILE, sheet_size

STEPS = """
import os, signal, time

HERE = os.path.dirname(__file__)  # no Path: what lies in it would be part of what these functions are

def big(columns):
    return columns["x"] >= 2

def stuck(columns):
    if columns["x"][0] >= 100:
        with open(os.path.join(HERE, "pipe"), "w") as pipe:
            pipe.write("reading")
        time.sleep(100)
    return columns

def doubled(columns):
    return {"x": columns["x"] * 2}

def deadly(columns):
    x = columns["x"].tolist()
    if x[0] >= 100:  # what probing makes up is less
        with open(os.path.join(HERE, "seen"), "a") as seen:
            seen.write(f"{x[0]}\\n")
        if 500 in x and not os.path.exists(os.path.join(HERE, "immortal")):
            os.kill(os.getpid(), signal.SIGKILL)
    return columns
"""


RECIPE = """
from ganglion import pipeline, step
from ganglion.artifacts.store import Artifact
from ganglion.core.resources import Resources

@step(resources=Resources(cpu=0.1))
def choose() -> Artifact:
    return Artifact(digest="{digest}", kind="dataset", size={size})

@pipeline
def study() -> Artifact:
    return choose()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where commands run: a folder with the module `steps`."""
    (tmp_path / "steps.py").write_text(STEPS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "steps", raising=False)
    return tmp_path


@pytest.fixture
def table(folder: Path) -> Path:
    """A CSV file with 40 records, two of which are bad."""
    lines = [f"{number},{number % 4}.5,{'ab'[number % 2]}" for number in range(40)]
    lines[7], lines[30] = "7,many", "30,0.5,a,oops"
    path = folder / "table.csv"
    path.write_text("\n".join(["x,y,kind", *lines]) + "\n")
    return path


def write_parts(folder: Path, numbers: range) -> None:
    for number in numbers:
        rows = "\n".join(str(100 * number + place) for place in range(3))
        (folder / f"part-{number}.csv").write_text(f"x\n{rows}\n")


def json_of(ganglion: CommandLine, *arguments: str | Path, status: int = 0) -> Any:
    """What the command prints with `--json`; run in this process, which takes less time."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        shown = CliRunner().invoke(
            make_app(), [*map(str, arguments), "--json"], env={"GANGLION_HOME": str(ganglion.home)}
        )
    finally:
        signal.signal(signal.SIGTERM, before)
    assert shown.exit_code == status, (shown.exception, shown.output)
    return json.loads(shown.stdout)


def opened(ganglion: CommandLine, shown: dict[str, Any]) -> PreparedDataset:
    return open_digest(shown["dataset"], FolderStore(ganglion.home / "store"))


def test_a_source_is_shown_with_fields_statistics_sample_and_bad_records(ganglion: CommandLine, table: Path) -> None:
    shown = json_of(ganglion, "data", "inspect", "table.csv", "--sample", "3")
    assert (shown["count"], shown["set_aside"]) == (38, 2)
    assert [(field["name"], field["dtype"]) for field in shown["schema"]] == [
        ("x", "int64"),
        ("y", "float64"),
        ("kind", "text"),
    ]
    good = [number for number in range(40) if number not in (7, 30)]
    x, y, kind = shown["statistics"]
    assert (x["min"], x["max"], x["distinct"]) == (0, 39, 38)
    assert x["mean"] == pytest.approx(np.mean(good))
    assert y["std"] == pytest.approx(np.std([number % 4 + 0.5 for number in good]))
    assert {one["value"]: one["count"] for one in kind["most_frequent"]} == {"a": 19, "b": 19}
    assert [record["record"] for record in shown["sample"]] == sorted({record["record"] for record in shown["sample"]})
    assert [record["values"]["x"] for record in shown["sample"]] == [record["record"] for record in shown["sample"]]
    assert [record["offset"] for record in shown["bad"]] == [
        table.read_text().index("7,many"),
        table.read_text().index("30,0.5,a,oops"),
    ]
    text = ganglion("data", "inspect", "table.csv").stdout
    for expected in ("38, 2 set aside", "kind", "float64", "distinct", "Sample", f"byte {shown['bad'][0]['offset']}"):
        assert expected in text
    assert not ganglion.home.exists()  # looking writes nothing


def test_a_contact_sheet_has_the_images_under_the_names_of_their_classes(ganglion: CommandLine, folder: Path) -> None:
    colours = {"blue": (0, 0, 250), "red": (250, 0, 0)}
    for name, colour in colours.items():
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (50 + number, 60), colour).save(folder / "photos" / name / f"{number}.png")
    (folder / "photos" / "red" / "9.png").write_bytes(b"no image")
    shown = ganglion.json("data", "inspect", "photos", "--contact-sheet", "sheet.png")
    page = Image.open(folder / "sheet.png")
    assert (page.format, page.size) == ("PNG", sheet_size(6, columns=3, captions=True))
    assert shown["contact_sheet"] == {
        "file": "sheet.png",
        "field": "image",
        "images": 6,
        "width": page.width,
        "height": page.height,
    }
    first = GAP + TILE // 2
    assert page.convert("RGB").getpixel((first, first)) == (0, 0, 250)
    assert page.convert("RGB").getpixel((first, page.height - first)) == (250, 0, 0)
    assert shown["set_aside"] == 1


def test_a_dataset_is_prepared_once_listed_and_looked_at(ganglion: CommandLine, table: Path) -> None:
    first = ganglion("data", "prepare", "table.csv", "--max-bad", "10%")
    assert first.returncode == 0, first.stderr
    assert "40 read, 38 written, 2 set aside, 0 left out" in first.stdout
    assert "ganglion data quarantine" in first.stdout
    again = json_of(ganglion, "data", "prepare", str(table), "--max-bad", "2")
    assert (again["state"], again["added"], again["read"], again["written"]) == ("cached", 0, 40, 38)
    assert again["dataset"] in first.stdout
    (listed,) = json_of(ganglion, "data", "list")
    assert (listed["dataset"], listed["count"]) == (again["dataset"], 38)
    short = again["dataset"].removeprefix("sha256:")[:8]
    assert short in ganglion("data", "list").stdout
    shown = json_of(ganglion, "data", "inspect", short, "--shards", "3,1", "--hash-key", "kind")
    assert sum(shard["records"] for shard in shown["shards"]) == 38
    assert {shard["records"] for shard in shown["shards"]} <= {0, 19, 38}
    assert shown["statistics"][0]["max"] == 39
    assert "75.0%" in ganglion("data", "inspect", short, "--shards", "3,1").stdout


def test_bad_input_is_refused_and_nothing_is_written(ganglion: CommandLine, table: Path) -> None:
    for arguments, expected in {
        ("prepare", "nowhere.csv"): "nowhere.csv matches no file",
        ("prepare", "table.csv", "--option", "delimitr=;"): "no option 'delimitr'. Allowed",
        ("prepare", "table.csv", "--option", "header=7"): "Expected `bool`",
        ("prepare", "table.csv", "--max-bad", "many"): "neither a count",
        ("prepare", "table.csv", "--memory", "much"): "not a size",
        ("prepare", "table.csv", "--map", "steps:gone"): "no 'gone'",
        ("prepare", "table.csv", "--table", "t"): "--table is for databases",
        ("prepare", "sqlite:///shop.db"): "--table NAME or --query SELECT",
        ("prepare", "sqlite:///shop.db", "--table", "t", "--key", "k", "--option", "rows=1"): "unknown key 'rows'",
        ("inspect", "table.csv", "--shards", "2"): "for prepared datasets",
        ("inspect", "table.csv", "--contact-sheet", "sheet.jpg"): "ends in .png",
        ("inspect", "table.csv", "--contact-sheet", "sheet.png"): "no images in x int64",
        ("verify", "table.csv"): "not a prepared dataset",
        ("verify", "abcdef"): "No dataset",
        ("grow", "abcdef", "--format", "csv"): "--format goes with a SOURCE",
        ("quarantine", "."): "no lists of bad records",
    }.items():
        assert expected in ganglion.error("data", *arguments)
    assert not ganglion.home.exists()
    assert not list(table.parent.glob("sheet*"))


def test_filters_maps_options_and_workers(ganglion: CommandLine, folder: Path) -> None:
    for number in range(3):
        (folder / f"{number}.csv").write_text(f"x;y\n{number};0\n{number + 5};0\n")
    arguments = ("prepare", "*.csv", "--option", "delimiter=;", "--filter", "steps:big", "--map", "steps:doubled")
    shown = ganglion.json("data", *arguments, "--segment", "16", "--workers", "2")
    assert (shown["state"], shown["read"], shown["written"], shown["left_out"]) == ("prepared", 6, 4, 2)
    dataset = opened(ganglion, shown)
    assert dataset.slice(0, 4)["x"].tolist() == [10, 12, 4, 14]
    assert len(dataset.segments) >= 2
    assert json_of(ganglion, "data", *arguments, "--segment", "16")["dataset"] == shown["dataset"]


def test_a_killed_preparation_goes_on_where_it_was(ganglion: CommandLine, folder: Path) -> None:
    write_parts(folder, range(1, 9))
    arguments = ("data", "prepare", "part-*.csv", "--map", "steps:deadly", "--segment", "8")
    assert ganglion(*arguments).returncode == -signal.SIGKILL
    before = (folder / "seen").read_text().split()
    assert before == ["100", "200", "300", "400", "500"]
    assert json_of(ganglion, "data", "list") == []
    (folder / "immortal").touch()
    shown = ganglion.json(*arguments)
    assert (shown["state"], shown["pieces_of_an_earlier_attempt"], shown["count"]) == ("prepared", 4, 24)
    assert (folder / "seen").read_text().split()[len(before) :] == ["500", "600", "700", "800"]
    expected = [100 * number + place for number in range(1, 9) for place in range(3)]
    assert opened(ganglion, shown).slice(0, 24)["x"].tolist() == expected


def test_a_preparation_by_several_processes_ends_when_it_is_told_to(ganglion: CommandLine, folder: Path) -> None:
    write_parts(folder, range(1, 2))
    os.mkfifo(folder / "pipe")
    with ganglion.start("data", "prepare", "part-1.csv", "--map", "steps:stuck", "--workers", "2") as process:
        assert (folder / "pipe").read_text() == "reading"
        process.terminate()
        assert process.wait(timeout=30) == 130


def test_damage_is_found_with_file_and_records(ganglion: CommandLine, folder: Path) -> None:
    rows = "\n".join(f"{number},word{number}" for number in range(30_000))
    (folder / "big.csv").write_text(f"x,text\n{rows}\n")
    shown = json_of(ganglion, "data", "prepare", "big.csv")
    assert json_of(ganglion, "data", "verify", shown["dataset"])["sound"]
    (segment,) = opened(ganglion, shown).segments
    hurt = segment.segment.columns["text"][1].offset + sum(len(f"word{number}") for number in range(20_000))
    segment.path.chmod(0o644)
    with segment.path.open("r+b") as file:
        file.seek(hurt)
        file.write(b"W")
    found = json_of(ganglion, "data", "verify", shown["dataset"], status=1)
    (part,) = found["damaged"]
    assert not found["sound"]
    assert (part["file"], part["path"]) == ("000/00000.arrow", str(segment.path))
    assert part["bytes"][0] <= hurt < part["bytes"][1]
    assert part["bytes"][1] - part["bytes"][0] <= 2**16
    assert "text" in part["columns"]
    assert part["records"][0] <= 20_000 < part["records"][1]
    assert part["records"][1] - part["records"][0] < 2**16 / len("word1000")
    with segment.path.open("r+b") as file:
        file.truncate(1000)
    done = ganglion("data", "verify", shown["dataset"])
    assert done.returncode == 1
    assert "it has 1,000 bytes" in done.stdout
    assert "0 to 29,999" in done.stdout
    segment.path.unlink()
    (part,) = json_of(ganglion, "data", "verify", shown["dataset"][7:15], status=1)["damaged"]
    assert "missing" in part["problem"]
    assert json_of(ganglion, "data", "prepare", "big.csv")["dataset"] == shown["dataset"]
    assert json_of(ganglion, "data", "verify", shown["dataset"])["sound"]


def test_the_quarantine_is_shown_and_replayed_after_a_fix(ganglion: CommandLine, table: Path) -> None:
    refused = ganglion.error("data", "prepare", "table.csv", "--max-bad", "1")
    assert "records are bad, and max_bad tolerates 1" in refused
    (left,) = ganglion.home.glob("store/prepared/*/quarantine")
    assert str(left) in refused
    assert json_of(ganglion, "data", "quarantine", left)["count"] == 2

    shown = json_of(ganglion, "data", "prepare", "table.csv", "--max-bad", "2")
    found = json_of(ganglion, "data", "quarantine", shown["dataset"], "--show", "1")
    assert found["count"] == sum(kind["count"] for kind in found["kinds"]) == 2
    first, second = found["records"]
    assert (first["path"], first["offset"]) == (str(table), table.read_text().index("7,many"))
    assert base64.b64decode(first["payload"]).strip() == b"7,many"
    assert "payload" not in second
    text = ganglion("data", "quarantine", shown["dataset"][7:15], "--show", "2").stdout
    for expected in ("2 records set aside", str(table), "30,0.5,a,oops", first["reason"], f"{first['offset']}"):
        assert expected in text

    table.write_text(table.read_text().replace("7,many", "7,1.5,a"))
    replayed = ganglion.json("data", "quarantine", shown["dataset"], "--replay")
    assert (replayed["state"], replayed["added"], replayed["count"], replayed["set_aside"]) == ("replayed", 1, 39, 1)
    assert opened(ganglion, replayed).slice(38, 39)["x"].tolist() == [7]
    assert json_of(ganglion, "data", "quarantine", replayed["dataset"])["count"] == 1


def test_a_dataset_grows_by_new_files(ganglion: CommandLine, folder: Path) -> None:
    write_parts(folder, range(1, 3))
    first = json_of(ganglion, "data", "prepare", "part-*.csv")
    assert json_of(ganglion, "data", "grow", first["dataset"])["state"] == "cached"
    write_parts(folder, range(3, 4))
    grown = ganglion.json("data", "grow", first["dataset"])
    assert (grown["state"], grown["added"], grown["generations"]) == ("grown", 3, [6, 9])
    named = json_of(ganglion, "data", "grow", first["dataset"], "part-*.csv")
    assert (named["state"], named["dataset"]) == ("cached", grown["dataset"])
    assert opened(ganglion, first).count == 6
    (folder / "part-1.csv").unlink()
    assert "is gone" in ganglion.error("data", "grow", first["dataset"])


def test_a_deleted_dataset_is_gone_and_what_shares_its_files_stays(ganglion: CommandLine, folder: Path) -> None:
    write_parts(folder, range(3))
    first = json_of(ganglion, "data", "prepare", "part-*.csv")
    write_parts(folder, range(3, 4))
    grown = json_of(ganglion, "data", "grow", first["dataset"], "part-*.csv")
    other = json_of(ganglion, "data", "prepare", "part-0.csv")
    store = FolderStore(ganglion.home / "store")
    before = set(dict(store.digests()))

    asked = json_of(ganglion, "data", "delete", first["dataset"])
    assert (asked["deleted"], asked["freed"], asked["runs"], asked["models"]) == (False, 0, [], [])
    assert set(dict(store.digests())) == before
    deleted = json_of(ganglion, "data", "delete", first["dataset"], "--yes")
    gone = before - set(dict(store.digests()))
    assert deleted["deleted"]
    assert first["dataset"] in gone
    assert gone.isdisjoint({grown["dataset"], *store.references(grown["dataset"])})
    assert opened(ganglion, grown).count == 12
    assert [one["dataset"] for one in json_of(ganglion, "data", "list")] == [other["dataset"], grown["dataset"]]
    assert "No dataset" in ganglion.error("data", "delete", first["dataset"][7:19], "--yes")

    space = sum(size for _, size in store.digests())
    freed = json_of(ganglion, "data", "delete", grown["dataset"], "--yes")["freed"]
    assert freed == space - sum(size for _, size in store.digests()) > 0
    write_parts(folder, range(3, 4))
    (folder / "part-3.csv").unlink()
    again = json_of(ganglion, "data", "prepare", "part-*.csv")
    assert (again["state"], again["dataset"]) == ("prepared", first["dataset"])


def test_a_dataset_that_a_run_refers_to_is_deleted_by_force_alone(ganglion: CommandLine, folder: Path) -> None:
    write_parts(folder, range(2))
    shown = json_of(ganglion, "data", "prepare", "part-*.csv")
    recipe = folder / "recipe.py"
    recipe.write_text(RECIPE.format(digest=shown["dataset"], size=opened(ganglion, shown).artifact.size))
    run = ganglion.json("run", f"{recipe}:study")["id"]
    refused = ganglion.error("data", "delete", shown["dataset"], "--yes")
    assert f"run {run}" in refused
    assert "--force" in refused
    assert opened(ganglion, shown).count == 6
    deleted = json_of(ganglion, "data", "delete", shown["dataset"], "--yes", "--force")
    assert deleted["runs"] == [run]
    assert deleted["freed"] > 0
    assert json_of(ganglion, "data", "list") == []
    assert ganglion.json("runs", "show", run)["state"] == "succeeded"
    assert ganglion.json("clean", "--yes")["unused"]["artifacts"]["count"] == 0


def test_rows_of_a_database(ganglion: CommandLine, folder: Path) -> None:
    with sqlite3.connect(folder / "shop.db") as database:
        database.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, price REAL NOT NULL)")
        database.executemany("INSERT INTO orders VALUES (?, ?)", [(3 * number, number / 2) for number in range(50)])
    database.close()
    where = ("sqlite:///shop.db", "--table", "orders", "--key", "id")
    shown = json_of(ganglion, "data", "inspect", *where)
    assert (shown["count"], shown["statistics"][1]["max"]) == (50, 24.5)
    query = ("sqlite:///shop.db", "--query", "SELECT id, price FROM orders WHERE price < 5", "--key", "id")
    assert json_of(ganglion, "data", "prepare", *query)["count"] == 10


@pytest.mark.parametrize("verb", ["inspect", "prepare", "grow", "verify", "quarantine", "list", "delete"])
def test_every_verb_explains_itself_with_examples(verb: str) -> None:
    shown = CliRunner().invoke(make_app(), ["data", verb, "--help"])
    assert shown.exit_code == 0
    assert f"ganglion data {verb}" in shown.stdout.partition("Examples:")[2]


@pytest.mark.parametrize(("text", "expected"), [("3", 3), ("0", 0), ("1.0", 1.0), ("0.02", 0.02), ("2%", 0.02)])
def test_tolerance_is_a_count_or_a_share(text: str, expected: float) -> None:
    assert parse_max_bad(text) == expected
    assert type(parse_max_bad(text)) is type(expected)


@pytest.mark.parametrize("text", ["", "-1", "1.5", "120%", "%", "1e3", "nan"])
def test_other_tolerances_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="neither a count"):
        parse_max_bad(text)


def progress(pieces: int, records: int) -> Progress:
    return Progress(pieces=pieces, of=10, records=records, size=8 * records, set_aside=0)


def test_the_pace_does_not_count_what_an_earlier_attempt_did() -> None:
    now = [100.0]
    pace = Pace(lambda: now[0])
    assert pace.take(progress(3, 3000)) == (0, 0)
    now[0] = 102.0
    assert pace.take(progress(3, 3500)) == (250, 2000)
    now[0] = 104.0
    assert pace.take(progress(6, 6000)) == (750, 6000)
    assert pace.earlier == 3


def test_progress_shows_records_and_bytes_in_a_second_and_the_time_left() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=150)
    with PrepareProgress(console) as shown:
        shown(progress(1, 1000))
        shown(progress(5, 5000))
        shown._bars.refresh()
    text = screen.getvalue()
    for expected in ("5/10", "5,000", "records/s", "B/s", "0:00:"):
        assert expected in text
