"""What another process of the project asks of a model server, and what it answers: one frame each."""

from __future__ import annotations

from typing import Any

import msgspec

from ganglion.core import errors
from ganglion.core.errors import ControlError, GanglionError
from ganglion.serving import frames
from ganglion.serving.rollout import Canary


class Command(msgspec.Struct, frozen=True, kw_only=True, tag_field="command"):
    """Base of what is asked."""


class Describe(Command, frozen=True, kw_only=True, tag="describe"):
    """What is served; answered with `ModelServer.status`."""


class Scale(Command, frozen=True, kw_only=True, tag="scale"):
    """Serve a model with so many replicas.

    Attributes:
        model: its name.
        replicas: at least one.
        timeout: seconds to wait until they are ready.
    """

    model: str
    replicas: int
    timeout: float


class RollOut(Command, frozen=True, kw_only=True, tag="roll out"):
    """Change to another version; answered with its number once requests are sent to it.

    Attributes:
        model: its name.
        version: a number, an alias to be followed, or nothing for the newest.
        canary: how it is tried before it takes over.
        timeout: seconds to wait.
    """

    model: str
    version: int | str | None = None
    canary: Canary | None = None
    timeout: float


class RollBack(Command, frozen=True, kw_only=True, tag="roll back"):
    """Leave the version that is tried, else go back to the one before; answered with what answers then.

    Attributes:
        model: its name.
        timeout: seconds to wait.
    """

    model: str
    timeout: float


class Stop(Command, frozen=True, kw_only=True, tag="stop"):
    """Serve a model or an ensemble no longer; answered with the names of what is served still.

    Attributes:
        model: its name.
        timeout: seconds to wait until its replicas have ended.
    """

    model: str
    timeout: float


AnyCommand = Describe | Scale | RollOut | RollBack | Stop


class Done(msgspec.Struct, frozen=True, kw_only=True, tag_field="reply", tag="done"):
    """It was carried out.

    Attributes:
        value: plain data.
    """

    value: Any = None


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag_field="reply", tag="failed"):
    """It was not carried out.

    Attributes:
        error: name of a class of `core.errors`.
        message: for a person.
    """

    error: str
    message: str

    def to_error(self) -> GanglionError:
        """The error as it was raised in the other process."""
        found = getattr(errors, self.error, None)
        known = isinstance(found, type) and issubclass(found, GanglionError)
        return found(self.message) if known and found is not None else ControlError(f"{self.error}: {self.message}")


AnyReply = Done | Failed

_commands = msgspec.msgpack.Decoder(AnyCommand)
_replies = msgspec.msgpack.Decoder(AnyReply)


def encode(message: Command | AnyReply) -> bytes:
    """One frame, ready to send."""
    return b"".join(frames.encode(message, ()))


def decode_command(header: frames.Buffer) -> AnyCommand:
    """Read a command.

    Raises:
        ControlError: it is not one.
    """
    try:
        command: AnyCommand = _commands.decode(header)
    except msgspec.MsgspecError as error:
        raise ControlError(f"A frame that is not a command: {error}.") from error
    return command


def decode_reply(header: frames.Buffer) -> AnyReply:
    """Read a reply.

    Raises:
        ControlError: it is not one.
    """
    try:
        reply: AnyReply = _replies.decode(header)
    except msgspec.MsgspecError as error:
        raise ControlError(f"A frame that is not a reply: {error}.") from error
    return reply
