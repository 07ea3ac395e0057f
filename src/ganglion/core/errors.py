"""Every exception Ganglion raises on purpose.

```
GanglionError                exit code 1
├── UserError                exit code 2: what was given cannot work, and nothing was written
│   ├── ConfigurationError   a configuration key or value
│   ├── OptionError          values of options that cannot work; says them in the words of whoever gave them
│   ├── SpecError            a Task, Gang or Service that this backend can never run
│   ├── GraphError           a pipeline: cycle, missing or unknown input, unused step
│   ├── DataError            a source or dataset: missing, truncated, of the wrong shape
│   ├── ModelError           a model package or version: unknown, half written, invalid
│   └── NotFoundError        a run, step, artifact or service that does not exist
├── IntegrityError           stored bytes are not the bytes that were written
├── OutageError              a source of data is away, and stayed away longer than retries are worth
├── ExecutionError           a job ended without success; carries its outcome
└── ControlError             the control channel or a backend process is gone
```

A message says what was given, what is allowed and what to do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable


class GanglionError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 1


class UserError(GanglionError):
    """What was given cannot work; the message says what to change."""

    exit_code = 2


class ConfigurationError(UserError):
    """A configuration key is unknown or its value has the wrong type."""


class OptionError(UserError):
    """A value of an option is out of bounds, or several contradict each other.

    Args:
        message: with the names of the options as they are in Python.
        names: those of them that it holds.
    """

    def __init__(self, message: str, *names: str) -> None:
        super().__init__(message)
        self.names = names

    def renamed(self, rename: Callable[[str], str]) -> UserError:
        """The same for somebody to whom the options have other names, as on a command line.

        Args:
            rename: from a name to what it is called there.
        """
        if not self.names:
            return UserError(str(self))
        names = "|".join(map(re.escape, self.names))
        pattern = rf"(?<!\w)'[^']*'|(?<![\w.-])({names})(?![\w-])"  # what somebody gave is quoted, and stays
        return UserError(re.sub(pattern, lambda found: rename(found[1]) if found[1] else found[0], str(self)))


class SpecError(UserError):
    """A Task, Gang or Service cannot be run by this backend, now or ever."""


class GraphError(UserError):
    """A pipeline is not a well-formed directed acyclic graph."""


class DataError(UserError):
    """A source or a dataset is missing, truncated or of the wrong shape."""


class ModelError(UserError):
    """A model package or version is unknown, incomplete or invalid."""


class NotFoundError(UserError):
    """Something was named that does not exist."""


class IntegrityError(GanglionError):
    """Stored bytes differ from the bytes that were written."""


class OutageError(GanglionError):
    """A source of data is away: nothing is wrong with it, and it may be back later."""


class ExecutionError(GanglionError):
    """A job ended without success."""


class ControlError(GanglionError):
    """The control channel, or the process behind a backend, is gone."""


_LONGEST_NAME = 200
"""Characters up to which a name that was not recognised is compared; a stranger may have sent a million."""


def suggest(given: str, allowed: Iterable[str]) -> str:
    """Say which names are allowed and which of them is nearest.

    Args:
        given: the name that was not recognised.
        allowed: every recognised name.

    Returns:
        A sentence to append to an error message.
    """
    import difflib  # a message that is wanted once is worth the wait; every start is not

    names = sorted(allowed)
    near = difflib.get_close_matches(given, names, n=1) if len(given) <= _LONGEST_NAME else []
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"Allowed: {', '.join(names) or 'none'}.{hint}"
