"""What the container image of a pipeline is built from: a Dockerfile and the packages of this environment."""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[([^\]]*)\])?")
_EXTRA = re.compile(r"""extra\s*==\s*['"]([^'"]+)['"]""")

_TORCH_INDEX = "https://download.pytorch.org/whl"
"""Where builds of torch for one kind of device are (https://pytorch.org/get-started/locally/)."""

PROJECT = "/project"
"""Where the image holds the project."""


def dockerfile(*, python: str, home: str, ganglion: bool) -> str:
    """The Dockerfile of the image.

    Args:
        python: version of Python, such as `3.11`.
        home: where the shared volume is mounted.
        ganglion: whether Ganglion itself is built from the build context of that name, as it has no pinned release.
    """
    lines = [
        "# Needs BuildKit: the project comes from a build context of its own.",
        f"FROM python:{python}-slim",
        "COPY requirements.txt /tmp/requirements.txt",
        "RUN pip install --no-cache-dir -r /tmp/requirements.txt",
    ]
    if ganglion:
        lines += ["COPY --from=ganglion . /opt/ganglion", "RUN pip install --no-cache-dir --no-deps /opt/ganglion"]
    lines += [
        f"COPY --from=project . {PROJECT}",
        f"ENV PYTHONPATH={PROJECT} PYTHONUNBUFFERED=1 GANGLION_HOME={home}",
        f"WORKDIR {PROJECT}",
    ]
    return "\n".join(lines) + "\n"


def build_command(image: str, folder: Path, project: Path, ganglion: Path | None) -> str:
    """The command that builds the image from what the export has written."""
    contexts = {"project": project, **({"ganglion": ganglion} if ganglion else {})}
    options = " ".join(f"--build-context {name}={path}" for name, path in contexts.items())
    return f"docker build -t {image} {options} {folder}"


def ganglion_source() -> Path | None:
    """The source tree that Ganglion is run from; `None` for an installed release (https://peps.python.org/pep-0610/)."""
    text = metadata.distribution("ganglion").read_text("direct_url.json")
    described = json.loads(text) if text else {}
    if "dir_info" not in described:
        return None
    return Path(described["url"].removeprefix("file://"))


def requirements(project: Path) -> str:
    """The packages that Ganglion and the loaded modules of the project need, as they are installed here, pinned.

    Args:
        project: the folder of the project's modules.
    """
    pins = _closure({**{name: set() for name in _imported(project)}, "ganglion": {"torch"}})
    if ganglion_source() is not None:
        del pins["ganglion"]
    indexes = sorted({version.partition("+")[2] for name, version in pins.items() if name == "torch"} - {""})
    lines = [f"--extra-index-url {_TORCH_INDEX}/{label}" for label in indexes]
    lines += [f"{name}=={version}" for name, version in sorted(pins.items())]
    return "\n".join(lines) + "\n"


def _imported(project: Path) -> set[str]:
    """Distributions that the project's loaded modules import."""
    owners = metadata.packages_distributions()
    found: set[str] = set()
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if file is None or not file.endswith(".py") or project.resolve() not in Path(file).resolve().parents:
            continue
        for name in _imports(Path(file)):
            found.update(_normal(owner) for owner in owners.get(name, ()))
    return found


def _imports(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def _closure(roots: dict[str, set[str]]) -> dict[str, str]:
    """Versions of the distributions and of all that they need, as far as they are installed here."""
    pins: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(name, extra) for name, extras in roots.items() for extra in ("", *extras)]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # needed on other platforms, or with other extras
        pins[name] = found.version
        waiting += _needs(found.requires or (), extra)
    return pins


def _needs(lines: Iterable[str], extra: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for line in lines:
        wanted, _, marker = line.partition(";")
        belongs = _EXTRA.search(marker)
        if (belongs[1] if belongs else "") != extra:
            continue
        if match := _REQUIREMENT.match(wanted):
            extras = [text.strip() for text in (match[2] or "").split(",") if text.strip()]
            found += [(_normal(match[1]), each) for each in ("", *extras)]
    return found


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
