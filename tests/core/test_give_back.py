"""Memory that was needed only to get ready: it goes back, and everything works as before."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ganglion.core.give_back import unchanged

MAPPINGS = """\
00400000-00401000 r--p 00000000 08:01 11                                 /usr/lib/some module.so
Size:                  4 kB
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd mr mw me
00500000-00502000 r-xp 00001000 08:01 11                                 /usr/lib/some module.so
Size:                  8 kB
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd ex mr mw me
00600000-00601000 r--p 00003000 08:01 11                                 /usr/lib/some module.so
Size:                  4 kB
Anonymous:             4 kB
Swap:                  0 kB
VmFlags: rd mr mw me ac
00610000-00611000 r--p 00003000 08:01 11                                 /usr/lib/some module.so
Anonymous:             0 kB
Swap:                  4 kB
00700000-00701000 rw-p 00004000 08:01 11                                 /usr/lib/some module.so
Anonymous:             0 kB
Swap:                  0 kB
00710000-00711000 r-xp 00000000 08:01 13                                 /usr/lib/another.so
Anonymous:             0 kB
Swap:                  0 kB
00800000-00801000 r--s 00000000 00:05 12                                 /dev/shm/values
Anonymous:             0 kB
Swap:                  0 kB
00900000-00901000 r--p 00000000 00:00 0
Anonymous:             0 kB
Swap:                  0 kB
7ffc00000000-7ffc00001000 r-xp 00000000 00:00 0                          [vdso]
Anonymous:             0 kB
Swap:                  0 kB
"""


def test_only_pages_that_are_as_in_their_file_are_let_go() -> None:
    """What the linker wrote to, swapped out or not, what is shared and what has no file would be lost."""
    found = unchanged(MAPPINGS.splitlines(keepends=True), {"/usr/lib/some module.so"})
    assert [*found] == [(0x400000, 0x401000), (0x500000, 0x502000)]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not say what is mapped")
def test_libraries_work_on_without_what_only_their_start_needed() -> None:
    program = """
import sys
import numpy as np
import onnxruntime
import ganglion.serving.runtimes.onnx_rehearsal as rehearsal
from ganglion.core.give_back import give_back_memory

def mapped():
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Rss:"))

def answer():
    session = onnxruntime.InferenceSession(rehearsal.IDENTITY, providers=["CPUExecutionProvider"])
    values = np.linalg.inv(np.array([[2.0]], np.float32))
    return float(session.run(None, {"x": values[0]})[0][0])

before = answer(), mapped()
give_back_memory()
idle = mapped()
assert answer() == before[0] == 0.5, answer()
assert idle < before[1], (before, idle)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
