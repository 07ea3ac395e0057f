"""`ganglion doctor`: what this machine has and what of it Ganglion can use."""

from __future__ import annotations

import os
import platform as machine
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.markup import escape

from ganglion import __version__
from ganglion.cli.output import console, make_table, write_json
from ganglion.core.errors import ConfigurationError, DataError
from ganglion.core.project import find_folder
from ganglion.core.resources import format_size
from ganglion.platform import load_configuration

if TYPE_CHECKING:
    from ganglion.data.sources.idx import IdxSource

PATIENCE = 2.0
"""Seconds within which a cluster has to answer."""

_RAY_PORT, _HTTPS_PORT = 6379, 443


def doctor(
    data: Annotated[
        bool, typer.Option("--data", help="Only look for Fashion-MNIST; exit code 1 if it is not there.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False,
) -> None:
    """Show what this machine has: cores, memory, GPUs, libraries, clusters within reach, data.

    Nothing is downloaded or written, and no large library is loaded.

    Examples:
        ganglion doctor

        ganglion doctor --data
    """
    folder = find_folder()
    found = {"fashion_mnist": find_data(folder)} if data else examine(folder)
    if json_:
        write_json(found)
    else:
        table = make_table("", "")
        table.show_header = False
        for name, value in found.items():
            table.add_row(f"[dim]{name.replace('_', ' ')}[/]", escape(_text(value)))
        console().print(table)
    if data and not found["fashion_mnist"]["found"]:
        raise typer.Exit(1)


def examine(folder: Path) -> dict[str, Any]:
    """Everything about this machine, as plain data; sizes in bytes."""
    import psutil

    existing = next(path for path in (folder, *folder.parents) if path.is_dir())
    memory = psutil.virtual_memory()
    return {
        "ganglion": __version__,
        "python": f"{machine.python_version()} ({machine.python_implementation()}, {sys.executable})",
        "system": f"{machine.system()} {machine.release()} {machine.machine()}",
        "cores": _cores(),
        "memory": {"total": memory.total, "available": memory.available},
        "gpus": _gpus(),
        "project": {"folder": str(folder), "exists": folder.is_dir(), "free": shutil.disk_usage(existing).free},
        "processes": _processes(folder),
        "torch": _torch(),
        "onnxruntime": _version("onnxruntime"),
        "ray": _ray(),
        "kubernetes": _kubernetes(),
        "fashion_mnist": find_data(folder),
    }


def find_data(folder: Path) -> dict[str, Any]:
    """Where the files of Fashion-MNIST are, by part, if both parts are there; nothing is downloaded."""
    found: dict[str, IdxSource | None] = {part: _find_part(part, folder) for part in ("train", "test")}
    files = {part: [source.images, source.labels] for part, source in found.items() if source is not None}
    return {"found": len(files) == len(found), "files": files}


def _find_part(part: str, folder: Path) -> IdxSource | None:
    from ganglion.data.datasets import fashion_mnist, places_of_fashion_mnist

    for place in places_of_fashion_mnist(folder / "cache" / "fashion-mnist"):
        try:
            return fashion_mnist(part, place)
        except DataError:
            continue
    return None


def _cores() -> dict[str, Any]:
    usable = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    return {"usable": usable, "present": os.cpu_count()}


def _gpus() -> list[str]:
    """Name and memory of each NVIDIA GPU, as its driver says."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in listed.splitlines() if line.strip()]


def _processes(folder: Path) -> dict[str, Any]:
    """How processes are started and their memory limited."""
    from ganglion.backends.processes.memory import delegated_cgroup

    try:
        execution = load_configuration(folder).execution
    except ConfigurationError as error:
        return {"problem": str(error)}
    chosen = execution.local.get("start_method", "auto")
    cgroup = delegated_cgroup()
    return {
        "backend": execution.backend,
        "start_method": ("fork" if sys.platform == "linux" else "spawn") if chosen == "auto" else chosen,
        "memory_limit": f"cgroup v2 at {cgroup}" if cgroup else "RLIMIT_DATA (no cgroup v2 is delegated)",
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _torch() -> dict[str, Any] | None:
    """Version of the installed PyTorch and what it was built for, without importing it."""
    version = _version("torch")
    if version is None:
        return None
    file = Path(str(metadata.distribution("torch").locate_file("torch/version.py")))
    text = file.read_text() if file.is_file() else ""
    builds = re.findall(r"^(cuda|hip)\b[^=\n]*=\s*'([^']+)'", text, re.MULTILINE)
    return {"version": version, "build": " ".join(f"{kind} {number}" for kind, number in builds) or "cpu"}


def _ray() -> dict[str, Any]:
    """Whether Ray is installed, and whether the cluster that `RAY_ADDRESS` names answers."""
    address = os.environ.get("RAY_ADDRESS", "")
    servers = [address] if address not in ("", "auto", "local") else []
    return {"installed": _version("ray"), "address": address or None, "answers": _answering(servers, _RAY_PORT)}


def _kubernetes() -> dict[str, Any]:
    """Whether the client is installed, and which API servers of the configuration answer."""
    given = os.environ.get("KUBECONFIG")
    files = [Path(name) for name in given.split(os.pathsep) if name] if given else [Path.home() / ".kube" / "config"]
    present = [path for path in files if path.is_file()]
    texts = [path.read_text(errors="replace") for path in present]
    servers = [
        server for text in texts for server in re.findall(r"""["']?server["']?:\s*["']?(https?://[^\s"',}]+)""", text)
    ]
    if host := os.environ.get("KUBERNETES_SERVICE_HOST"):
        servers.append(f"https://{host}:{os.environ.get('KUBERNETES_SERVICE_PORT', _HTTPS_PORT)}")
    return {
        "installed": _version("kubernetes"),
        "configuration": [str(path) for path in present],
        "answers": _answering(servers, _HTTPS_PORT),
    }


def _answering(servers: Sequence[str], port: int) -> dict[str, bool]:
    """Which servers accept a connection."""
    distinct = list(dict.fromkeys(servers))
    if not distinct:
        return {}
    with ThreadPoolExecutor(len(distinct)) as threads:
        return dict(zip(distinct, threads.map(lambda server: _answers(server, port), distinct), strict=True))


def _answers(server: str, port: int) -> bool:
    try:
        parts = urlsplit(server if "//" in server else f"//{server}")
        with socket.create_connection((parts.hostname or "", parts.port or port), timeout=PATIENCE):
            return True
    except (OSError, ValueError):  # ValueError: the port is no number
        return False


def _text(value: Any) -> str:
    """Plain data in a few words."""
    match value:
        case None:
            return "not installed"
        case []:
            return "none"
        case list():
            return "; ".join(map(str, value))
        case {"usable": usable, "present": present}:
            return f"{usable} usable of {present}"
        case {"total": total, "available": available}:
            return f"{format_size(total)}, {format_size(available)} available"
        case {"folder": where, "exists": exists, "free": free}:
            return f"{where}{'' if exists else ' (not made yet)'}, {format_size(free)} free"
        case {"version": version, "build": build}:
            return f"{version}, built for {build}"
        case {"found": found, "files": files}:
            return f"found: {', '.join(map(str, files['train']))}" if found else "not found; it will be downloaded"
        case {"installed": installed, "answers": answers}:
            reach = [f"{server} {'answers' if good else 'does not answer'}" for server, good in answers.items()]
            return "; ".join([installed or "not installed", *(reach or ["no cluster is configured"])])
        case dict():
            return "; ".join(f"{name.replace('_', ' ')}: {found}" for name, found in value.items())
    return str(value)
