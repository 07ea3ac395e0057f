"""A controller in a process of its own, for tests that kill it.

`python -m ganglion.testing.controller FACTORY FOLDER SPEC` makes a backend (`FACTORY` is an import path, called with
the folder), submits the spec (JSON), prints every event as one JSON line, and waits for the job.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from ganglion.core.events import Event
from ganglion.core.registry import load_object
from ganglion.execution.spec import AnySpec
from ganglion.execution.supervisor import Supervisor


def main() -> None:
    """Run until the job is over or the process is killed."""
    factory, folder, text = sys.argv[1:]
    spec = msgspec.json.decode(text, type=AnySpec)

    def show(event: Event) -> None:
        sys.stdout.write(msgspec.json.encode(event).decode() + "\n")
        sys.stdout.flush()

    supervisor = Supervisor(load_object(factory)(Path(folder)), Path(folder))
    supervisor.submit(spec, show).wait()
    supervisor.close()


if __name__ == "__main__":
    main()
