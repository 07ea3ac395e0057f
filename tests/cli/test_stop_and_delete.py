from __future__ import annotations

from pathlib import Path

from command_line import RECIPE, CommandLine, write_lights


def test_stop_ends_a_run_in_another_process_and_says_what_became_of_it(ganglion: CommandLine, pipe: Path) -> None:
    with ganglion.start("run", f"{RECIPE}:waiting", "--set", f"pipe={pipe}") as command:
        assert pipe.read_text() == "started"
        run = ganglion.json("runs", "list", "--state", "running")[0]["id"]
        assert f"ganglion stop {run}" in ganglion.error("delete", run, "--yes")
        stopped = ganglion("stop", "latest")
        assert stopped.returncode == 0
        assert f"{run} cancelled" in stopped.stdout
        assert command.wait(timeout=60) == 130
    assert "was cancelled" in ganglion.error("stop", run)


def test_delete_removes_everything_of_a_run_but_what_it_published(ganglion: CommandLine, tmp_path: Path) -> None:
    package = write_lights(tmp_path / "package")
    run = ganglion.json("run", f"{RECIPE}:publishing", "--set", f"folder={package}")["id"]
    version = ganglion.json("models", "show", "light:champion")
    assert (version["version"], version["run"], version["step"]) == (1, run, "publish")
    other = ganglion.json("run", f"{RECIPE}:good")["id"]

    refused = ganglion("delete", run)  # nobody answers the question
    assert refused.returncode == 1
    assert ganglion.json("runs", "show", run)["id"] == run

    assert ganglion("delete", run, "--yes").returncode == 0
    assert [found["id"] for found in ganglion.json("runs", "list")] == [other]
    assert list(ganglion.home.glob(f"*/*{run}*")) == []
    assert list(ganglion.home.glob(f"jobs/{other}-*")) != []
    assert ganglion.json("models", "show", "light:champion")["files"] == version["files"]
    assert "There is no run" in ganglion.error("delete", run, "--yes")
