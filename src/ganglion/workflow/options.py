"""The options of a step."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from ganglion.core.config import Config
from ganglion.core.errors import ConfigurationError, suggest
from ganglion.core.resources import Resources
from ganglion.execution.spec import Numerics

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([smhdw]?)\s*", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def parse_duration(text: str | float) -> float:
    """Read `"90s"`, `"30m"`, `"1h"`, `"7d"`, `"2w"` or a number as seconds.

    Raises:
        ConfigurationError: the text is not a duration, or it is negative.
    """
    if not isinstance(text, str):
        if text >= 0:
            return float(text)
    elif match := _DURATION.fullmatch(text):
        return float(match[1]) * _UNITS[match[2].lower()]
    raise ConfigurationError(f"{text!r} is not a duration; write for example 90s, 30m, 1h, 7d or a number of seconds.")


class StepOptions(Config, frozen=True, kw_only=True):
    """How a step is run and when its result is used again.

    Attributes:
        name: of the step in the run; empty for that of its function.
        named_by: the parameter whose value names the step, if one does.
        resources: what its process needs.
        numerics: threads and instruction set of its process.
        environment: variables of its process; they take part in the fingerprint.
        preload: modules that its process finds imported.
        timeout: seconds after which its process is stopped; `None` for no limit.
        retries: further attempts after a failed one.
        backoff: seconds before the first of them; doubled for each further one, up to a minute.
        cache: whether an earlier result is used when nothing has changed.
        max_age: seconds for which a result may be used again; `None` for ever.
        effect: whether the step is there for what it does, so that nothing needs to use its result.
    """

    name: str = ""
    named_by: str = ""
    resources: Resources = Resources()
    numerics: Numerics = Numerics()
    environment: dict[str, str] = msgspec.field(default_factory=dict)
    preload: tuple[str, ...] = ()
    timeout: float | None = None
    retries: int = 0
    backoff: float = 0.5
    cache: bool = True
    max_age: float | None = None
    effect: bool = False

    def __post_init__(self) -> None:
        if self.name:
            check_name(self.name)
        if self.retries < 0 or self.backoff < 0:
            raise ConfigurationError(f"retries and backoff cannot be negative: {self.retries}, {self.backoff}.")


def change_options(options: StepOptions, changes: dict[str, Any]) -> StepOptions:
    """Return `options` with some replaced; durations may be given as text.

    Raises:
        ConfigurationError: an option is unknown (the nearest is suggested) or its value is not allowed.
    """
    for name in changes:
        if name not in options.__struct_fields__:
            raise ConfigurationError(f"Unknown step option {name!r}. {suggest(name, options.__struct_fields__)}")
    values = dict(changes)
    for name in ("timeout", "max_age", "backoff"):
        if values.get(name) is not None:
            values[name] = parse_duration(values[name])
    return msgspec.structs.replace(options, **values)


def check_name(name: str) -> str:
    """Return `name` if a step can have it.

    Raises:
        ConfigurationError: it cannot.
    """
    if not _NAME.fullmatch(name):
        raise ConfigurationError(f"{name!r} cannot name a step: use letters, digits, '_', '-' and '.'.")
    return name
