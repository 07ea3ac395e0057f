"""A file as `__main__`, the way `python FILE` runs it; also what another interpreter runs to do so.

Only the standard library is imported, and nothing newer than Python 3.8 is used: the interpreter may be that of an
environment in which Ganglion is not installed.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import json
import os
import signal
import sys
import traceback
from types import ModuleType

_PR_SET_PDEATHSIG = 1


def execute(file: str, arguments: list[str]) -> None:
    """Run `file` in this process: its folder first on the import path, its module left as `__main__`."""
    sys.argv = [file, *arguments]
    sys.path.insert(0, os.path.dirname(os.path.abspath(file)))
    main = ModuleType("__main__")
    main.__file__ = file
    main.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = main  # stays: threads, exit handlers and multiprocessing look for it
    with io.open_code(file) as source:
        code = compile(source.read(), file, "exec", dont_inherit=True)
    exec(code, main.__dict__)


def show(error: BaseException) -> None:
    """Show an exception that `execute` has let through as Python does, without the frames that are not the script's."""
    executing = error.__traceback__.tb_next if error.__traceback__ else None
    error.__traceback__ = executing.tb_next if executing else None
    sys.excepthook(type(error), error, error.__traceback__)


def main() -> None:
    """`python script_main.py PARENT REPORT FILE ARGUMENTS`: run the file, and end with the process PARENT.

    An exception that the script does not catch is shown as Python shows it, and written as JSON to the file descriptor
    REPORT: `module`, `name`, `bases`, `message`, `traceback`.
    """
    parent, report, file = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    _die_with(parent)
    os.set_inheritable(report, False)
    own = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [folder for folder in sys.path if folder != own]
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    try:
        execute(file, sys.argv[4:])
    except SystemExit:
        raise
    except BaseException as error:  # noqa: BLE001  # whatever the script raises is its end
        show(error)
        with os.fdopen(report, "w") as stream:
            json.dump(_describe(error), stream)
        sys.exit(1)


def _die_with(parent: int) -> None:
    """Ask the kernel, where it offers this, to be killed with `parent`."""
    if sys.platform == "linux":
        with contextlib.suppress(ImportError):  # an interpreter that was built without it
            import ctypes

            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def _describe(error: BaseException) -> dict[str, object]:
    return {
        "module": type(error).__module__,
        "name": type(error).__qualname__,
        "bases": [base.__name__ for base in type(error).__mro__],
        "message": str(error),
        "traceback": "".join(traceback.format_exception(type(error), error, error.__traceback__)),
    }


if __name__ == "__main__":
    main()
