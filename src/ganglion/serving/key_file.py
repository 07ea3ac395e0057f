"""The file with the limits of callers and the digests of API keys; whoever serves follows its changes.

It is JSON in the form of `Callers`, readable by its owner only. It is replaced as a whole, never written in place, so
that a reader sees the old one or the new one. Only digests of keys are in it: whoever reads it cannot use them.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from ganglion.core.config import convert, read_file
from ganglion.core.errors import NotFoundError, UserError, suggest
from ganglion.core.log import get_logger
from ganglion.serving.callers import ApiKey, CallerLimit, Callers, digest_of, new_key

NAME = "keys.json"
"""Name of the file in a project folder."""

ANONYMOUS = CallerLimit(concurrency=2, rate=10.0, burst=10)
"""What callers without a key may ask for once somebody has a key and nothing else is said."""

_POLL = 0.25
"""Seconds between two looks at the file."""

_OTHERS_WRITE = 0o022

Stamp = tuple[int, int, int] | None
"""What differs between two versions of a file; `None` where there is none."""

_log = get_logger(part="serving.keys")


class KeyFile:
    """The keys of one project.

    Args:
        path: of the file; the first change makes it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def stamp(self) -> Stamp:
        """Changes whenever the file does."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    def read(self) -> Callers:
        """Everybody who may ask; with no file, nobody has a key.

        Raises:
            UserError: others than its owner can write it.
            ConfigurationError: it is damaged, or a limit in it makes no sense.
        """
        try:
            mode = self.path.stat().st_mode
        except FileNotFoundError:
            return Callers(anonymous=ANONYMOUS)
        if mode & _OTHERS_WRITE:
            raise UserError(f"{self.path} can be written by others, who could add keys; say 'chmod 600 {self.path}'.")
        return convert(Callers, read_file(self.path), where=str(self.path))

    def add(self, name: str, limit: CallerLimit | None = None) -> str:
        """Give a caller a key; returns the key, which is nowhere else.

        Args:
            name: of the caller.
            limit: of this caller; `None` for the one of all that have a key.

        Raises:
            UserError: the name has a key.
        """
        key = new_key()
        with self._changing() as change:
            callers = self.read()
            if any(other.name == name for other in callers.keys):
                raise UserError(f"{name!r} has a key. Use another name, or revoke that key first.")
            created = datetime.now(UTC).isoformat(timespec="seconds")
            added = ApiKey(name=name, digest=digest_of(key), limit=limit, created=created)
            change(msgspec.structs.replace(callers, keys=(*callers.keys, added)))
        return key

    def revoke(self, name: str) -> ApiKey:
        """Take a caller's key away; returns what was known of it.

        Raises:
            NotFoundError: nobody of that name has one.
        """
        with self._changing() as change:
            callers = self.read()
            found = find(callers, name)
            change(msgspec.structs.replace(callers, keys=tuple(key for key in callers.keys if key is not found)))
        return found

    def limit(self, name: str, choose: Callable[[CallerLimit], CallerLimit | None]) -> None:
        """Change what one caller may ask for.

        Args:
            name: of the caller.
            choose: gets the limit that is in force for it, returns its own; `None` for that of all that have a key.

        Raises:
            NotFoundError: nobody of that name has a key.
        """
        with self._changing() as change:
            callers = self.read()
            found = find(callers, name)
            changed = msgspec.structs.replace(found, limit=choose(found.limit or callers.authenticated))
            keys = tuple(changed if key is found else key for key in callers.keys)
            change(msgspec.structs.replace(callers, keys=keys))

    def limit_authenticated(self, choose: Callable[[CallerLimit], CallerLimit]) -> None:
        """Change what each caller with a key may ask for; `choose` gets what it was until now."""
        with self._changing() as change:
            callers = self.read()
            change(msgspec.structs.replace(callers, authenticated=choose(callers.authenticated)))

    def limit_anonymous(self, choose: Callable[[CallerLimit], CallerLimit | None]) -> None:
        """Change what all callers without a key may ask for together; `choose` returns `None` to refuse them."""
        with self._changing() as change:
            callers = self.read()
            change(msgspec.structs.replace(callers, anonymous=choose(callers.anonymous or ANONYMOUS)))

    @contextmanager
    def _changing(self) -> Iterator[Callable[[Callers], None]]:
        """Keep others from changing it at the same time; yields what puts a new version in place."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.path.with_name(f".{self.path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield self._replace
        finally:
            os.close(lock)

    def _replace(self, callers: Callers) -> None:
        msgspec.convert(msgspec.to_builtins(callers), Callers)  # limits are checked where they are converted
        new = self.path.with_name(f".{self.path.name}.new")
        new.unlink(missing_ok=True)  # left by one that died; the lock keeps others away
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(msgspec.json.format(msgspec.json.encode(callers), indent=2) + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        new.replace(self.path)


def find(callers: Callers, name: str) -> ApiKey:
    """The key of a caller.

    Raises:
        NotFoundError: nobody of that name has one.
    """
    names = [key.name for key in callers.keys]
    if name not in names:
        raise NotFoundError(f"Nobody called {name!r} has a key. {suggest(name, names)}")
    return callers.keys[names.index(name)]


class KeyFileWatch:
    """Hands the callers on whenever the file changes, from a thread of its own.

    A file that cannot be read leaves the callers as they were; one that was deleted leaves nobody with a key.

    Args:
        file: which.
        changed: called with everybody who may ask.
    """

    def __init__(self, file: KeyFile, changed: Callable[[Callers], None]) -> None:
        self._file = file
        self._changed = changed
        self._seen = file.stamp
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="ganglion-keys", daemon=True)

    def start(self) -> None:
        """Read the file now and follow it from now on."""
        self._changed(self._file.read())
        self._thread.start()

    def close(self) -> None:
        """Follow it no longer."""
        self._over.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._over.wait(_POLL):
            stamp = self._file.stamp
            if stamp != self._seen:
                self._seen = stamp
                try:
                    callers = self._file.read()
                except (UserError, OSError) as error:
                    _log.error("keys_unreadable", path=str(self._file.path), error=str(error))
                    continue
                self._changed(callers)
