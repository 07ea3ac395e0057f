"""Where the project is: the folder that holds runs, models, artifacts and caches."""

from __future__ import annotations

import os
from pathlib import Path

NAME = ".ganglion"


def find_folder(start: Path | None = None) -> Path:
    """The project folder: `$GANGLION_HOME`, else the nearest `.ganglion` here or above, else `./.ganglion`.

    Args:
        start: where to look from; the current folder by default.
    """
    if given := os.environ.get("GANGLION_HOME"):
        return Path(given).absolute()
    here = (start or Path.cwd()).absolute()
    for folder in (here, *here.parents):
        if (folder / NAME).is_dir():
            return folder / NAME
    return here / NAME
