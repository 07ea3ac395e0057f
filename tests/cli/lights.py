"""A small recipe: numbers, failures, steps that wait, and a model that tells dark pictures from bright ones."""

import os
import sys
import time
from pathlib import Path

from ganglion import pipeline, step
from ganglion.core.resources import Resources
from ganglion.pipelines import Candidate, Published, publish
from ganglion.workflow import current_step

SMALL = Resources(cpu=0.1)
CLASSES = ("dark", "bright")


@step(resources=SMALL)
def double(number: int) -> int:
    sys.stdout.write(f"doubling {number}\n")
    current_step().report({"accuracy": 0.5})
    return 2 * number


@step(resources=SMALL)
def add(one: int, other: int) -> int:
    sys.stdout.write("adding\ntwo lines\n")
    return one + other


@step(resources=SMALL)
def fail(number: int) -> int:
    raise ValueError(f"[/{number}] is bad")


@step(resources=SMALL, cache=False)
def wait(number: int, pipe: str) -> int:
    """Tell the reader of a named pipe that the step runs, then wait to be ended; without the pipe go on."""
    if Path(pipe).exists():
        Path(pipe).write_text("started")
        time.sleep(600)
    return number


@step(resources=SMALL, cache=False)
def process() -> int:
    return os.getpid()


@step(resources=SMALL)
def make(folder: str) -> Candidate:
    store = current_step().store
    return Candidate(
        name="light", package=store.put_tree(Path(folder), "model"), metrics={"accuracy": 0.9}, parameters=8
    )


@pipeline
def good(number: int = 3) -> int:
    return add(double(number), double(number + 1, name="again"))


@pipeline
def bad(number: int = 3) -> int:
    return fail(double(number))


@pipeline
def waiting(pipe: str) -> int:
    return wait(double(5), pipe)


@pipeline
def where() -> int:
    return process()


@pipeline
def publishing(folder: str) -> Published:
    return publish(make(folder), name="light")
