"""What a user gives to merge outputs of text; imported in replicas."""

from __future__ import annotations

from typing import Any

import numpy as np


def joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The texts of all parts, one behind the other."""
    return {"label": np.array(["".join(rows) for rows in zip(*(part["label"] for part in parts), strict=True)])}


def objects(parts: list[dict[str, Any]]) -> dict[str, Any]:
    return {"label": np.array([object() for _ in parts])}


def ended(parts):
    """Text behind which something is that NumPy's own text cannot hold."""
    return {"label": [f"{text}\0" for text in parts[0]["label"]]}
