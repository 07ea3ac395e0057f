"""Memory that a process needed only to get ready, given back to the kernel."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Container, Iterable, Iterator
from contextlib import suppress

_MADV_DONTNEED = 4


def give_back_memory() -> None:
    """Give back what was freed, and let go of code that ran once; for a process that has got ready and now waits.

    The C library keeps what was freed. Pages of libraries stay mapped once anything near them was used: most of what
    ONNX Runtime has mapped after it has loaded a model is what loads models. They are left to the cache of the kernel,
    from where the few that are needed again come back at the first use, without being read or copied.

    Only extension modules that have been imported are let go of: Python never unloads them, so their addresses cannot
    become another's while other threads go on. Does nothing where the system cannot do it.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    with suppress(AttributeError):  # not every C library has it
        library.malloc_trim(0)
    with suppress(OSError), open("/proc/self/smaps", errors="surrogateescape") as file:
        for start, end in tuple(unchanged(file, _extension_modules())):
            library.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_DONTNEED)


def unchanged(lines: Iterable[str], files: Container[str]) -> Iterator[tuple[int, int]]:
    """Address ranges of files, mapped to be run or read and not written, of which no page differs from the file.

    A page that was changed after it had been mapped, as by the dynamic linker, would be lost with its range, also one
    that was swapped out since.

    Args:
        lines: of `/proc/PID/smaps`, see proc(5).
        files: which files count.
    """
    candidate: tuple[int, int] | None = None
    changed = False
    for line in lines:
        if line.startswith("Anonymous:"):
            changed = line.split()[1] != "0"
        elif line.startswith("Swap:"):  # always behind it; what is swapped out is counted here alone
            if candidate is not None and not changed and line.split()[1] == "0":
                yield candidate
            candidate = None
        elif not line[0].isupper():  # the head of a mapping; what follows it are names with values
            span, permissions, _offset, _device, _inode, *path = line.rstrip("\n").split(maxsplit=5)
            start, _, end = span.partition("-")
            wanted = permissions in ("r-xp", "r--p") and path and path[0] in files
            candidate = (int(start, 16), int(end, 16)) if wanted else None


def _extension_modules() -> set[str]:
    """Files of the libraries that are modules of Python."""
    files = (getattr(module, "__file__", None) for module in tuple(sys.modules.values()))
    return {file for file in files if isinstance(file, str) and file.endswith(".so")}
