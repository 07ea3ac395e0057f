# ruff: noqa: T201
"""Says that it runs, then waits for a word from the named pipe that its argument names; a parameter server for ever."""

import ctypes
import json
import os
import sys
from pathlib import Path

if json.loads(os.environ["TF_CONFIG"])["task"]["type"] == "ps":
    native, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(128)
    while True:  # like a server's join(): no handler written in Python runs while it waits
        native.pthread_mutex_lock(mutex)
print("waiting", os.getpid())
print("got", Path(sys.argv[1]).read_text())
