from __future__ import annotations

import re

from command_line import RECIPE, CommandLine, ProjectWithRuns


def test_list_shows_the_newest_first_and_selects_by_state(history: ProjectWithRuns) -> None:
    failed, succeeded = history.json("runs", "list")
    assert (failed["pipeline"], failed["state"], failed["steps"]) == (
        "lights:bad",
        "failed",
        {"cached": 1, "failed": 1},
    )
    assert (succeeded["pipeline"], succeeded["state"]) == ("lights:good", "succeeded")
    assert history.json("runs", "list", "--state", "succeeded") == [succeeded]
    assert history.json("runs", "list", "--limit", "1") == [failed]
    table = history("runs").stdout
    assert re.search(rf"^{succeeded['id']} +succeeded .* 3/3 +lights:good", table, re.MULTILINE)


def test_show_prints_what_run_printed_also_when_the_record_was_lost(ganglion: CommandLine) -> None:
    printed = ganglion.json("run", f"{RECIPE}:good")
    del printed["value"], printed["url"]
    assert ganglion.json("runs", "show", printed["id"]) == printed
    for path in ganglion.home.glob("record.db*"):
        path.unlink()
    assert ganglion.json("runs", "show", "latest") == printed


def test_show_tells_why_a_run_failed(history: ProjectWithRuns) -> None:
    step = history.json("runs", "show", "latest")["steps"][-1]
    assert (step["name"], step["state"]) == ("fail", "failed")
    assert "ValueError: [/6] is bad" in step["message"]
    assert 'raise ValueError(f"[/{number}] is bad")' in step["traceback"]
    shown = history("runs", "show", "latest")
    assert shown.returncode == 0
    assert "ValueError: [/6] is bad" in shown.stdout
    assert 'raise ValueError(f"[/{number}] is bad")' in shown.stdout


def test_the_beginning_of_an_id_is_enough_if_no_other_begins_so(history: ProjectWithRuns) -> None:
    whole = history.json("runs", "list", "--state", "succeeded")[0]["id"]
    assert history.json("runs", "show", whole[:-1])["id"] == whole
    assert "More than one" in history.error("runs", "show", "run-")
    assert f"Did you mean '{whole}'?" in history.error("runs", "show", whole.replace("run-", "rnu-"))


def test_logs_name_step_and_member_of_each_line(history: ProjectWithRuns) -> None:
    run = history.json("runs", "list", "--state", "succeeded")[0]["id"]
    assert history("runs", "logs", run).stdout.splitlines() == [
        "double task-0 | doubling 3",
        "again task-0  | doubling 4",
        "add task-0    | adding",
        "add task-0    | two lines",
    ]
    assert history("runs", "logs", run, "--step", "again").stdout == "again task-0 | doubling 4\n"
    assert "Did you mean 'again'?" in history.error("runs", "logs", run, "--step", "agian")


def test_a_state_that_does_not_exist_is_refused(history: ProjectWithRuns) -> None:
    assert "Did you mean 'failed'?" in history.error("runs", "list", "--state", "faild")


def test_looking_into_an_empty_project_writes_nothing(ganglion: CommandLine) -> None:
    assert ganglion.json("runs", "list") == []
    assert ganglion.json("models", "list") == []
    assert "ganglion run" in ganglion.error("runs", "show", "latest")
    assert not ganglion.home.exists()
