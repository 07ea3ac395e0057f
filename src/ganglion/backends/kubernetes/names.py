"""Names and labels that Kubernetes accepts; the same text always gets the same name, different texts different ones."""

from __future__ import annotations

import hashlib
import re

from ganglion.core.errors import SpecError

LONGEST = 63
"""Characters of a DNS label and of the value of a label."""

LABEL_PREFIX = "ganglion/"
"""In front of the labels and annotations that Ganglion writes."""

_HASH = 8
_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")


def dns_label(text: str, *, longest: int = LONGEST) -> str:
    """`text` itself where it is a DNS-1035 label, else the nearest one with a hash of `text` at its end.

    Args:
        text: any text with at least one ASCII letter or digit.
        longest: characters that the name may have, for kinds whose controllers append to it.

    Raises:
        SpecError: nothing of the text can stay.
    """
    if _DNS_1035.fullmatch(text) and len(text) <= longest:
        return text
    mended = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if not mended:
        raise SpecError(f"{text!r} cannot name an object of Kubernetes: it needs at least one letter or digit (ASCII).")
    if not mended[0].isalpha():
        mended = f"g-{mended}"
    return _with_hash(mended, text, longest)


def label_value(text: str) -> str:
    """`text` itself where it is the value of a label, else the nearest one with a hash of `text` at its end."""
    if _LABEL.fullmatch(text) and len(text) <= LONGEST:
        return text
    mended = re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-_.")
    return _with_hash(mended or "label", text, LONGEST)


def is_dns_label(text: str) -> bool:
    """Whether `text` can name a claim, a secret, a queue or a namespace as it is (DNS-1123)."""
    return len(text) <= LONGEST and re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", text) is not None


def _with_hash(mended: str, text: str, longest: int) -> str:
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:_HASH]
    return f"{mended[: longest - _HASH - 1].rstrip('-_.')}-{digest}"
