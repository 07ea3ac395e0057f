"""Files fetched from the network, which appear complete and verified or not at all."""

from __future__ import annotations

import gzip
import hashlib
import os
import secrets
import urllib.request
import zlib
from http.client import HTTPException
from pathlib import Path

from ganglion.core.errors import DataError

_CHUNK = 2**20


def download_gzip(url: str, destination: Path, sha256: str, *, timeout: float = 30.0) -> None:
    """Fetch a gzip file and verify what it decompresses to.

    Any number of processes may fetch the same file at the same time.

    Args:
        url: where it is.
        destination: its name here; the folder is created.
        sha256: hexadecimal digest of the *decompressed* content, so that a mirror may compress in its own way.
        timeout: seconds without an answer after which the attempt is given up.

    Raises:
        DataError: the file cannot be fetched or is not the file that was expected; nothing is left behind.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    temporary = destination.with_name(f".{destination.name}.{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            with urllib.request.urlopen(url, timeout=timeout) as response:
                while chunk := response.read(_CHUNK):
                    file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        if (found := _content_digest(temporary)) != sha256:
            raise DataError(f"{url} has other content than expected: SHA-256 {found}, expected {sha256}.")
        temporary.rename(destination)
    except (OSError, HTTPException, EOFError, zlib.error) as error:
        raise DataError(f"{url} could not be fetched: {error or type(error).__name__}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def _content_digest(path: Path) -> str:
    with gzip.open(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
