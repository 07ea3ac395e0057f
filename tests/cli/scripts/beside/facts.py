# ruff: noqa: T201
"""What a script sees of the way in which it was started."""

import json
import multiprocessing
import os
import pickle
import sys

import helper


class Point:
    pass


def annotated(number: int):
    return number


def ask(answers):
    answers.put((__name__, os.path.basename(sys.modules["__mp_main__"].__file__)))


if __name__ == "__main__":
    spawn = multiprocessing.get_context("spawn")
    answers = spawn.Queue()
    process = spawn.Process(target=ask, args=(answers,))
    process.start()
    spawned = answers.get()
    process.join()
    print(
        json.dumps(
            {
                "arguments": sys.argv[1:],
                "script": os.path.abspath(sys.argv[0]),
                "file": os.path.abspath(__file__),
                "name": __name__,
                "folder": sys.path[0],
                "current": os.getcwd(),
                "package": __package__,
                "helper": helper.WORD,
                "input": sys.stdin.read(),
                "annotation": annotated.__annotations__["number"] is int,
                "pickled": isinstance(pickle.loads(pickle.dumps(Point())), Point),
                "spawned": spawned,
                "python_path": os.environ.get("PYTHONPATH") or None,
            }
        )
    )
