"""`ganglion predict --stdin` as a process in a pipe."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from command_line import CommandLine, served_at

DARK, BRIGHT = [[0, 0], [0, 0]], [[255, 255], [255, 255]]


@contextmanager
def stream(command: CommandLine, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    pipe = subprocess.PIPE
    line = [*command.line, "predict", *arguments, "--stdin"]
    with subprocess.Popen(line, env=command.environment, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        try:
            yield process
        finally:
            process.kill()


def say(process: subprocess.Popen[bytes], *values: Any) -> None:
    assert process.stdin is not None
    for value in values:
        process.stdin.write(value if isinstance(value, bytes) else json.dumps(value).encode() + b"\n")
    process.stdin.flush()


def hear(process: subprocess.Popen[bytes], count: int) -> list[dict[str, Any]]:
    assert process.stdout is not None
    return [json.loads(process.stdout.readline()) for _ in range(count)]


def check_a_conversation(process: subprocess.Popen[bytes]) -> None:
    say(process, DARK)
    [first] = hear(process, 1)
    assert (first["line"], first["class"]) == (1, "dark")
    assert sum(first["prediction"]) == pytest.approx(1)
    say(process, BRIGHT, b"\n", {"pixels": DARK}, b"[[1, 2\n", [1, 2, 3], *[BRIGHT, DARK] * 50)
    found = hear(process, 104)
    assert [answer["line"] for answer in found] == [2, *range(4, 107)], "an empty line is none"
    assert [answer.get("class") for answer in found[:4]] == ["bright", "dark", None, None]
    assert "not JSON" in found[2]["error"]
    assert "[2, 2]" in found[3]["error"]
    assert [answer["class"] for answer in found[4:]] == ["bright", "dark"] * 50
    say(process, json.dumps(BRIGHT).encode())  # the last line may have no end
    out, errors = process.communicate(timeout=60)
    assert json.loads(out)["class"] == "bright"
    assert b"2 of 106 lines were bad." in errors
    assert process.returncode == 1


def test_lines_are_answered_in_order_while_they_come(shop: CommandLine) -> None:
    with stream(shop, "lights:champion") as process:
        check_a_conversation(process)


def test_lines_are_answered_through_a_service(shop: CommandLine) -> None:
    with shop.start("serve", "lights", "--port", "0", "--replicas", "1", "--cpu", "0.1") as service:
        url = served_at(service)
        with stream(shop, "lights", "--url", url) as process:
            check_a_conversation(process)
        service.terminate()
        service.wait(timeout=60)


def test_tolerated_lines_are_no_failure_and_an_end_is_an_end(shop: CommandLine) -> None:
    with stream(shop, "lights", "--max-bad", "50%") as process:
        out, errors = process.communicate(b"[1]\n" + json.dumps(DARK).encode() + b"\n", timeout=60)
        assert (process.returncode, errors) == (0, b"")
        assert len(out.splitlines()) == 2
    assert "Did you mean 'lights'?" in shop.error("predict", "lihgts", "--stdin")
    assert "alias" in shop.error("predict", "lights:champion", "--stdin", "--url", "http://127.0.0.1:9")


def test_a_reader_that_goes_away_ends_it(shop: CommandLine) -> None:
    with stream(shop, "lights") as process:
        say(process, DARK)
        hear(process, 1)
        assert process.stdout is not None
        process.stdout.close()
        say(process, DARK)
        assert process.wait(timeout=60) == 1
        assert process.stderr is not None
        assert process.stderr.read() == b"ReaderGoneError: Nobody reads the answers any more.\n"
