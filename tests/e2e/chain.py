"""A chain and a fan of short steps, each of which writes down that it was executed."""

import os
import time
from pathlib import Path

from ganglion import Resources, pipeline, step

SMALL = Resources(cpu=0.2)


def note(folder: str, name: str) -> None:
    with (Path(folder) / name).open("a") as file:
        file.write(f"{os.getpid()}\n")


@step(resources=SMALL, cache=False)
def link(folder: str, name: str, before: int) -> int:
    note(folder, f"{name}.begun")
    time.sleep(0.1)
    note(folder, f"{name}.ended")
    return before + 1


@step(resources=SMALL, cache=False)
def join(numbers: list[int]) -> int:
    return sum(numbers)


@pipeline
def chain(folder: str) -> int:
    first = link(folder, "first", 0)
    second = link(folder, "second", first)
    return join([link(folder, f"fan{number}", second) for number in range(4)])
