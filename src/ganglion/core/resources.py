"""What a process needs and what a machine has: CPU cores, bytes of memory, GPUs."""

from __future__ import annotations

import math
import os
import re
import sys

import msgspec

from ganglion.core.errors import ConfigurationError

_ROUNDING = 1e-4
"""Shares such as a third do not add up to one exactly; less than this is no difference."""

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?\s*$", re.IGNORECASE)


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def parse_size(text: str | int) -> int:
    """Read `"512MiB"`, `"2GB"`, `"1Gi"` or a plain number as bytes.

    Raises:
        ConfigurationError: the text is not a size.
    """
    if isinstance(text, int):
        return text
    match = _SIZE.match(text)
    if match is None:
        raise ConfigurationError(f"{text!r} is not a size; write for example 512MiB, 2GB or a number of bytes.")
    return round(float(match[1]) * _UNITS[(match[2] or "").lower()])


def format_size(count: float) -> str:
    """Write bytes for a person: `1.5 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


class Resources(msgspec.Struct, frozen=True, kw_only=True):
    """An amount of each resource.

    Attributes:
        cpu: cores; a fraction shares a core.
        memory: bytes; in a request 0 means that no amount is declared and no limit is set.
        gpu: devices; a fraction shares a device.
    """

    cpu: float = 1.0
    memory: int = 0
    gpu: float = 0.0

    def __post_init__(self) -> None:
        amounts = self.cpu, self.memory, self.gpu
        if min(amounts) < 0 or not all(map(math.isfinite, amounts)):
            raise ConfigurationError(f"Resources cannot be negative and have to be finite: {self}.")

    def __add__(self, other: Resources) -> Resources:
        return Resources(
            cpu=round(self.cpu + other.cpu, 6),
            memory=self.memory + other.memory,
            gpu=round(self.gpu + other.gpu, 6),
        )

    def __sub__(self, other: Resources) -> Resources:
        return Resources(
            cpu=_difference(self.cpu, other.cpu),
            memory=self.memory - other.memory,
            gpu=_difference(self.gpu, other.gpu),
        )

    def fits(self, available: Resources) -> bool:
        """Whether this request can be met from `available`."""
        return not self.missing(available)

    def missing(self, available: Resources) -> str:
        """Say which amounts of this request exceed `available`; empty when it fits."""
        parts = []
        if self.cpu > available.cpu + _ROUNDING:
            parts.append(f"{self.cpu:g} CPUs of {available.cpu:g}")
        if self.memory > available.memory:
            parts.append(f"{format_size(self.memory)} of memory of {format_size(available.memory)}")
        if self.gpu > available.gpu + _ROUNDING:
            parts.append(f"{self.gpu:g} GPUs of {available.gpu:g}")
        return ", ".join(parts)

    def __str__(self) -> str:
        parts = [f"{self.cpu:g} CPU"]
        if self.memory:
            parts.append(format_size(self.memory))
        if self.gpu:
            parts.append(f"{self.gpu:g} GPU")
        return ", ".join(parts)


def _difference(whole: float, part: float) -> float:
    left = round(whole - part, 6)
    return 0.0 if -_ROUNDING < left < 0 else left


NOTHING = Resources(cpu=0.0)


def total(amounts: list[Resources] | tuple[Resources, ...]) -> Resources:
    """Sum of `amounts`."""
    result = NOTHING
    for amount in amounts:
        result = result + amount
    return result
