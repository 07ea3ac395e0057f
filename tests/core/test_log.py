"""What is logged, and what never is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ganglion.core import log
from ganglion.core.errors import ConfigurationError


@pytest.fixture(autouse=True)
def unconfigured() -> Iterator[None]:
    log.configure()
    yield
    log.configure()


def test_a_library_is_quiet_but_for_warnings(capsys: pytest.CaptureFixture[str]):
    log.get_logger().info("all is well")
    log.get_logger().warning("look here")
    output = capsys.readouterr()
    assert output.out == ""
    assert "look here" in output.err
    assert "all is well" not in output.err


def test_lines_carry_what_was_bound(capsys: pytest.CaptureFixture[str]):
    log.configure("info")
    log.get_logger(run="run-1").bind(job="job-1").info("started", pid=7)
    assert capsys.readouterr().err.split()[1:] == ["[info", "]", "started", "job=job-1", "pid=7", "run=run-1"]


@pytest.mark.parametrize(
    "key", ["token", "api_token", "PASSWORD", "database_password", "client_secret", "Authorization"]
)
def test_secrets_are_masked(capsys: pytest.CaptureFixture[str], key: str):
    log.configure("debug")
    log.get_logger(**{key: "hunter2"}).debug("bound")
    log.get_logger().debug("given", **{key: "hunter2"})
    text = capsys.readouterr().err
    assert "hunter2" not in text
    assert text.count("***") == 2


def test_an_exception_is_shown_with_its_traceback(capsys: pytest.CaptureFixture[str]):
    try:
        raise ValueError("broken")
    except ValueError:
        log.get_logger().error("failed", exc_info=True)
    text = capsys.readouterr().err
    assert "ValueError: broken" in text
    assert "Traceback" in text


def test_a_line_goes_to_what_standard_error_is_when_it_is_written(capsys, monkeypatch, tmp_path):
    log.configure()
    with open(tmp_path / "log", "w") as file:
        monkeypatch.setattr("sys.stderr", file)
        log.get_logger().warning("to the file")
    monkeypatch.undo()
    log.get_logger().warning("to the terminal")
    assert "to the file" in (tmp_path / "log").read_text()
    assert "to the terminal" in capsys.readouterr().err


def test_an_unknown_level_is_refused_by_name():
    with pytest.raises(ConfigurationError, match=r"'loud'.*warning"):
        log.configure("loud")


def test_values_that_are_not_one_word_are_quoted(capsys: pytest.CaptureFixture[str]):
    log.get_logger().warning("odd", text="two words", empty="", line="a\nb", number=1.5)
    [line] = capsys.readouterr().err.splitlines()
    assert line.split("odd", 1)[1].strip() == "empty='' line='a\\nb' number=1.5 text='two words'"


def test_whoever_has_nobody_to_tell_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for nobody in (None, (tmp_path / "log").open("w")):
        if nobody is not None:
            nobody.close()
        monkeypatch.setattr("sys.stderr", nobody)
        log.get_logger().warning("nobody reads this")
    monkeypatch.undo()
    assert (tmp_path / "log").read_text() == ""
