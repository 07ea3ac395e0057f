# ruff: noqa: T201
"""Ends in the way that its argument names, on rank 1; others wait to be stopped."""

import atexit
import multiprocessing
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor


class OddError(Exception):
    pass


def fail():
    try:
        {}["missing"]
    except KeyError as error:
        raise OddError("a rank's own words") from error


def say_after(event, words, then=None):
    event.wait()
    print(words, flush=True)
    if then is not None:
        then.set()


def leave_things_behind():
    """What the interpreter waits for, or calls, after the last line: one after the other."""
    left, executed, called = threading.Event(), threading.Event(), multiprocessing.Event()
    multiprocessing.Process(target=say_after, args=(called, "a process that nobody joined")).start()
    atexit.register(lambda: (print("an exit handler", flush=True), called.set()))
    threading.Thread(target=say_after, args=(executed, "a thread that nobody joined")).start()
    ThreadPoolExecutor().submit(say_after, left, "an executor that nobody shut down", executed)
    print("the last line", flush=True)
    left.set()


if __name__ == "__main__":
    if os.environ.get("RANK", "1") != "1" and sys.argv[1] != "behind":
        time.sleep(600)
    match sys.argv[1]:
        case "raise":
            fail()
        case "memory":
            bytearray(2**62)
        case "status":
            sys.exit(7)
        case "words":
            sys.exit("no data")
        case "signal":
            os.kill(os.getpid(), signal.SIGKILL)
        case "behind":
            leave_things_behind()
