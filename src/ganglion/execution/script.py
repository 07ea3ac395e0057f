"""The entry that runs somebody's script, unchanged, as `python FILE` would."""

from __future__ import annotations

import atexit
import faulthandler
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from typing import Any, NoReturn

from ganglion.execution import script_main


def run_script(file: str, arguments: list[str], python: str | None = None) -> None:
    """Run a script to its end.

    SIGTERM ends it as it ends any program, unless it has a handler of its own. What it raises, or the status that it
    exits with, is passed on, after it was shown on standard error as Python does.

    Args:
        file: the script.
        arguments: its command line.
        python: the interpreter, if not this one: then it runs as a child, which ends with this process.
    """
    if python is not None:
        _run_child(python, file, arguments)
        return
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a handler in Python never runs under a blocking native call
    try:
        script_main.execute(file, arguments)
    except SystemExit as end:
        if end.code is not None and not isinstance(end.code, int):
            sys.stderr.write(f"{end.code}\n")
        raise
    except BaseException as error:  # it is raised again, without the frames of this package
        script_main.show(error)
        raise
    finally:
        _finish()


def _finish() -> None:
    """What an interpreter does at its end; members leave without it.

    The script's threads are awaited and exit handlers are called.
    """
    threading._shutdown()  # type: ignore[attr-defined]  # nothing public also ends the threads of executors
    atexit._run_exitfuncs()


def _run_child(python: str, file: str, arguments: list[str]) -> None:
    with tempfile.TemporaryFile() as report:
        descriptor = report.fileno()
        command = [python, script_main.__file__, str(os.getpid()), str(descriptor), file, *arguments]
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=(descriptor,))
        try:
            status = child.wait()
        except BaseException:  # this process is asked to end
            child.terminate()
            child.wait()
            raise
        report.seek(0)
        described = report.read()
    if status < 0:
        _end_by(-status)
    if described:
        raise _recreate(json.loads(described))
    if status != 0:
        raise SystemExit(status)


def _end_by(number: int) -> NoReturn:
    """End this process by a signal, as its child has ended."""
    faulthandler.disable()
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    raise SystemExit(128 + number)


def _recreate(described: dict[str, Any]) -> Exception:
    """An exception of the name, message and traceback of one that another interpreter had, and of a base like its."""
    known = (MemoryError, OSError, RuntimeError, Exception)
    base = next((kind for kind in known if kind.__name__ in described["bases"]), Exception)
    kind = type(described["name"], (base,), {"__module__": described["module"]})
    error: Exception = kind(described["message"])
    error.add_note(f"\nIn the script:\n{described['traceback']}")
    return error
