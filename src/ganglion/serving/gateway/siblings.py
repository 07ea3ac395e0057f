"""What several gateways of one port know of each other: what they let in, and their metrics.

Whoever scrapes a shared port meets one gateway at a time, so each posts its metrics every now and then, and any of them
shows all. Samples carry the gateway's number as the label `gateway`, so
that a counter which begins anew with a gateway that was replaced is seen as what it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ganglion.core.log import get_logger
from ganglion.serving.gateway.tally import Share, Tally

POST_INTERVAL = 1.0
"""Seconds between two posts: how old the metrics of the other gateways may be."""

_log = get_logger(part="serving.gateway")


class Siblings:
    """The gateways of one port, as one of them sees them.

    Args:
        tally: what all of them have let in.
        folder: that they share; closed to others.
        gateways: how many there are.
    """

    def __init__(self, tally: Tally, folder: Path, gateways: int) -> None:
        self._tally = tally
        self._folder = folder
        self._gateways = gateways

    def share(self, rows: Mapping[str, int]) -> Share:
        """The part of this gateway in the limits of callers, which are counted in these rows."""
        return Share(self._tally, rows, self._tally.column, self._gateways)

    def post(self, page: bytes) -> None:
        """Let the others see a page of this gateway's metrics; what cannot be written stays as it was."""
        new = self._folder / f"metrics-{self._tally.column}.new"
        try:
            new.write_bytes(page)
            new.replace(self._page(self._tally.column))
        except OSError as error:
            _log.warning("metrics_not_posted", error=str(error))

    def show(self, page: bytes) -> bytes:
        """The metrics of all gateways: this one's as they are, the others' as they were posted."""
        pages = {self._tally.column: page}
        for gateway in range(self._gateways):
            if gateway not in pages:
                with suppress(FileNotFoundError):  # it has not posted yet
                    pages[gateway] = self._page(gateway).read_bytes()
        return merge([label(pages[gateway], gateway) for gateway in sorted(pages)])

    def _page(self, gateway: int) -> Path:
        return self._folder / f"metrics-{gateway}"


def label(page: bytes, gateway: int) -> bytes:
    """Metrics in the text format of Prometheus, each sample with the label `gateway` added; names have no spaces."""
    lines = []
    for line in page.splitlines():
        if line and not line.startswith(b"#"):
            name, brace, rest = line.partition(b"{")
            if brace:
                line = b'%b{gateway="%d",%b' % (name, gateway, rest)
            else:
                name, _, value = line.partition(b" ")
                line = b'%b{gateway="%d"} %b' % (name, gateway, value)
        lines.append(line)
    return b"\n".join([*lines, b""])


def merge(pages: Sequence[bytes]) -> bytes:
    """One page of several: the samples of a metric stand together behind its one description, as the format wants."""
    groups: dict[bytes, tuple[list[bytes], list[bytes]]] = {}
    for page in pages:
        name = b""
        for line in page.splitlines():
            if line.startswith(b"# HELP "):
                name = line.split(b" ", 3)[2]
            about, samples = groups.setdefault(name, ([], []))
            if not line.startswith(b"#"):
                samples.append(line)
            elif line not in about:
                about.append(line)
    return b"\n".join([line for about, samples in groups.values() for line in (*about, *samples)] + [b""])
