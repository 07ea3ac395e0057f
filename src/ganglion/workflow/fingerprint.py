"""Fingerprints of steps: code, inputs and environment, part by part, so that a miss can say what changed."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from typing import Any

import msgspec

from ganglion.fingerprints import UNKNOWN, CodeWalk, digest_parts, ganglion_version

_READABLE = ("version", "setting")
"""Parts whose values a person can read; the others are digests."""


class Fingerprint(msgspec.Struct, frozen=True, kw_only=True):
    """What the result of a step depends on.

    Attributes:
        digest: of all parts; `None` when a part has no digest, and then no earlier result is ever used.
        parts: digest, or version, by what it is of.
        reason: which parts have no digest, and why.
    """

    digest: str | None
    parts: dict[str, str]
    reason: str = ""


def take_fingerprint(
    code: Mapping[str, Any], inputs: Mapping[str, Any], settings: Mapping[str, str], variables: Mapping[str, str]
) -> Fingerprint:
    """Fingerprint a step.

    Args:
        code: functions, classes and values that make the step, by name.
        inputs: its arguments by name; results of other steps as `Encoded`.
        settings: what else decides the result, readable: seed, numerics, limit.
        variables: environment variables by name; only their digests are kept.
    """
    walk = CodeWalk()
    for name, value in code.items():
        walk.include(f"operation {name}", value)
    for name, value in inputs.items():
        walk.include(f"input {name}", value)
    for name, text in variables.items():
        walk.parts[f"variable {name}"] = hashlib.sha256(text.encode()).hexdigest()
    for name, text in settings.items():
        walk.parts[f"setting {name}"] = text
    walk.parts["version Python"] = ".".join(map(str, sys.version_info[:3]))
    walk.parts["version ganglion"] = ganglion_version()
    digest = None if walk.problems else digest_parts(walk.parts)
    return Fingerprint(digest=digest, parts=walk.parts, reason="; ".join(dict.fromkeys(walk.problems)))


def what_changed(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Name the differences between two sets of parts: "code of `helpers.scale` changed"; empty when there is none."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    changed = [name for name in names if name in before and name in now]
    if changed:  # new or gone parts are then mostly what the changed code calls
        names = changed
    texts = [_change(name, before.get(name), now.get(name)) for name in sorted(names, key=_by_interest)]
    return ", ".join(texts[:3]) + (f" and {len(texts) - 3} more changes" if len(texts) > 3 else "")


def _by_interest(name: str) -> tuple[int, str]:
    kinds = ("input", "code", "value", "operation", "setting", "variable", "version")
    return kinds.index(name.partition(" ")[0]), name


def _change(part: str, before: str | None, now: str | None) -> str:
    kind, _, name = part.partition(" ")
    if kind in _READABLE:
        return f"{name} {before or 'none'} -> {now or 'none'}"
    text = {
        "input": f"input `{name}`",
        "variable": f"environment variable `{name}`",
        "operation": "the operation",
    }.get(kind, f"{kind} of `{name}`")
    if now == UNKNOWN:
        return f"{text} cannot be fingerprinted"
    return f"{text} {'is new' if before is None else 'is gone' if now is None else 'changed'}"
