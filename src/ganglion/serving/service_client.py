"""Asks the model servers of a project, from another process."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from ganglion.core.errors import ControlError, NotFoundError, UserError, suggest
from ganglion.serving.frames import FrameReader
from ganglion.serving.service_directory import ServiceDirectory, ServiceEntry
from ganglion.serving.service_messages import Command, Describe, Failed, decode_reply, encode

_CHUNK = 2**16
_PATIENCE = 30.0
"""Seconds that a server may take beyond what a command allows it."""


class ServiceClient:
    """The model servers of a project, as another process sees them.

    Args:
        project: the project folder.
    """

    def __init__(self, project: Path) -> None:
        self._project = project
        self._directory = ServiceDirectory(project)

    def states(self) -> list[dict[str, Any]]:
        """What each of them serves, as `ModelServer.status` says it, with its `id` and `pid`; of all that answer."""
        found = []
        for entry in self._directory.entries():
            try:
                found.append({"id": entry.id, "pid": entry.pid, **ask(entry, Describe())})
            except ControlError:
                if entry.is_running:
                    raise  # one that ends while it is asked is not there any more
        return found

    def find(self, model: str, url: str | None = None) -> ServiceEntry:
        """The one that serves a model or an ensemble.

        Args:
            model: its name.
            url: of the server that is meant, where several serve it.

        Raises:
            NotFoundError: none serves it, or none runs.
            UserError: several do.
            ControlError: one of them does not answer.
        """
        states = [state for state in self.states() if url is None or state["url"] == url.rstrip("/")]
        if not states:
            where = f"at {url}" if url is not None else f"for the project {self._project}"
            raise NotFoundError(f"No service is running {where}. Start one with 'ganglion serve MODEL'.")
        names = {name for state in states for name in (*state["models"], *state["ensembles"])}
        found = {state["id"]: state["url"] for state in states if model in (*state["models"], *state["ensembles"])}
        if not found:
            raise NotFoundError(f"No running service serves {model!r}. {suggest(model, names)}")
        if len(found) > 1:
            raise UserError(f"{model!r} is served at {' and '.join(found.values())}; say which by --url.")
        entries = {entry.id: entry for entry in self._directory.entries()}
        (id_,) = found
        if id_ not in entries:
            raise ControlError(f"The service at {found[id_]} has just ended.")
        return entries[id_]


def ask(entry: ServiceEntry, command: Command, timeout: float = 0.0) -> Any:
    """Have a model server carry out a command.

    Args:
        entry: the server.
        command: what is asked.
        timeout: seconds that the command itself allows.

    Returns:
        Plain data.

    Raises:
        GanglionError: as it was raised there.
        ControlError: it does not answer.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout + _PATIENCE)
            connection.connect(entry.socket)
            connection.sendall(encode(command))
            reader = FrameReader()
            while data := connection.recv(_CHUNK):
                for header, _body in reader.feed(data):
                    reply = decode_reply(header)
                    if isinstance(reply, Failed):
                        raise reply.to_error()
                    return reply.value
    except OSError as error:
        raise ControlError(f"The service {entry.id} (process {entry.pid}) does not answer: {error}.") from error
    raise ControlError(f"The service {entry.id} (process {entry.pid}) ended before it had answered.")
