"""Results of steps on the volume that the containers of a workflow share.

```
runs/<run>/steps/<step>/events.jsonl     what happened to the step; the last line is its end, with the result
```
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from ganglion.artifacts.files import replace_durably
from ganglion.core.errors import NotFoundError
from ganglion.core.run_events import AnyRunEvent, StepFinished

FILE = "events.jsonl"


class Results:
    """The results in a project folder.

    Args:
        folder: the project folder, on the shared volume.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, run: str, step: str, events: Sequence[AnyRunEvent]) -> None:
        """Keep the events of a step that has ended well; they appear whole or not at all."""
        replace_durably(self._place(run, step), [msgspec.json.encode(event) + b"\n" for event in events])

    def read(self, run: str, step: str) -> Any:
        """The encoded result of a step.

        Raises:
            NotFoundError: the run has none of it.
        """
        place = self._place(run, step)
        try:
            last = place.read_bytes().splitlines()[-1]
        except OSError as error:
            raise NotFoundError(
                f"Run {run!r} has no result of step {step!r}: there is no {place}. Do all containers mount the same "
                "volume, and was the run deleted?"
            ) from error
        return msgspec.json.decode(last, type=StepFinished).result

    def _place(self, run: str, step: str) -> Path:
        return self._folder / "runs" / run / "steps" / step / FILE
