"""Files on web servers: their size and version, their bytes from any place on, and the names in a folder.

Requests are made with the standard library: every operation of a connection ends in time, nothing is shared with other
threads or survives into a forked process.
"""

from __future__ import annotations

import urllib.request
from fnmatch import fnmatchcase
from html.parser import HTMLParser
from http.client import HTTPException, HTTPResponse
from typing import cast
from urllib.error import HTTPError
from urllib.parse import unquote, urljoin, urlsplit

from ganglion.core.errors import DataError

_SKIP = 2**20
_LATER = {408, 425, 429}  # request timeout, too early, too many requests
_BEYOND = 416  # the file ends before the place that was asked for
_NO_HEAD = {403, 405, 501}  # servers, and signed addresses, that answer GET alone


class WebConnection:
    """The bytes of a file from one place to its end, as they arrive.

    Attributes:
        size: bytes of the whole file; `None` where the server does not say.
        version: changes when the file changes; empty where the server does not say.

    Args:
        url: of the file.
        position: of the first byte that is wanted. A server that cannot begin there sends everything, of which the
            bytes before are dropped.
        timeout: seconds that the server may take for any part of its answer.

    Raises:
        DataError: the server refuses for good, such as a file that it does not have.
        OSError: it cannot be reached, does not answer in time, breaks off, or is overloaded.
    """

    def __init__(self, url: str, position: int, timeout: float) -> None:
        self._answer = _ask(url, "GET", timeout, position)
        self.size, self.version = _described(self._answer)
        if position and self._answer.status == 200:
            self._skip(position)

    def readinto(self, buffer: memoryview) -> int:
        """Fill the beginning of `buffer` and return how many bytes; 0 at the end, or where the connection broke."""
        try:
            return self._answer.readinto(buffer) if self._answer.status != _BEYOND else 0
        except HTTPException as error:
            raise ConnectionError(f"the connection broke: {error or type(error).__name__}") from error

    def close(self) -> None:
        """End the connection."""
        self._answer.close()

    def _skip(self, size: int) -> None:
        buffer = memoryview(bytearray(min(size, _SKIP)))
        while size:
            count = self.readinto(buffer[:size])
            if not count:
                self.close()
                raise ConnectionError("the connection ended before the place that was asked for")
            size -= count


def examine(url: str, timeout: float) -> tuple[int | None, str]:
    """Size and version of a file, as in `WebConnection`, without its bytes; errors as there."""
    answer = _ask(url, "HEAD", timeout)
    if answer.status in _NO_HEAD:
        answer.close()
        answer = _ask(url, "GET", timeout)
    with answer:
        return _described(answer)


def listing(url: str, timeout: float) -> list[str]:
    """The addresses of the files of a folder, from the page that its server shows for it.

    Args:
        url: of the folder, ending in `/`, or with a pattern of names as its last part.
        timeout: as for `WebConnection`.

    Returns:
        In order; folders within the folder are left out.

    Raises:
        DataError, OSError: as for `WebConnection`.
    """
    folder, _, pattern = url.rpartition("/")
    with _ask(f"{folder}/", "GET", timeout) as answer:
        links = _Links()
        links.feed(answer.read().decode("utf-8", "replace"))
        base = answer.url
    found = {urljoin(base, link) for link in links.found}
    return sorted(
        address
        for address in found
        if address.rpartition("/")[0] == base.rpartition("/")[0]
        and not urlsplit(address).query
        and (name := unquote(address.rpartition("/")[2]))
        and fnmatchcase(name, pattern or "[!._]*")
    )


class _Links(HTMLParser):
    """The targets of the links of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found += [target for name, target in attrs if name == "href" and target]


def _ask(url: str, method: str, timeout: float, position: int = 0) -> HTTPResponse:
    headers = {"Accept-Encoding": "identity", "User-Agent": "ganglion"}
    if position:
        headers["Range"] = f"bytes={position}-"
    request = urllib.request.Request(url, headers=headers, method=method)
    try:
        return cast("HTTPResponse", urllib.request.urlopen(request, timeout=timeout))
    except HTTPError as error:
        beyond = error.code == _BEYOND and position
        if beyond or (method == "HEAD" and error.code in _NO_HEAD):
            return cast("HTTPResponse", error)  # an answer too
        with error:
            if error.code >= 500 or error.code in _LATER:
                raise ConnectionError(f"the server answers {error.code} {error.reason}") from error
            raise DataError(f"Cannot read {url}: the server answers {error.code} {error.reason}.") from error
    except HTTPException as error:
        raise ConnectionError(f"the server does not answer as one does: {error or type(error).__name__}") from error
    except ValueError as error:
        raise DataError(f"{url} is not an address: {error}.") from error


def _described(answer: HTTPResponse) -> tuple[int | None, str]:
    headers = answer.headers
    length = headers.get("Content-Range", "").rpartition("/")[2] or headers.get("Content-Length", "")
    size = int(length) if length.isdigit() else None
    tag = headers.get("ETag", "")
    modified = headers.get("Last-Modified", "")
    if tag and not tag.startswith("W/"):
        return size, tag
    return size, f"{modified} {size}" if modified else ""
