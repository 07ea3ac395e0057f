"""Checks for schemathesis, which loads this module.

A fault of ours is any 5xx that the caller did not ask for: one that allows a millisecond may be told that there was
none, and 503 or 504 are then what the document says. And what the document allows is accepted, but for what no schema
can say: that the shape of a tensor and its data agree, that bytes are an image or UTF-8, and what binary tensors look
like.
"""

from __future__ import annotations

from typing import Any

import schemathesis
from schemathesis.specs.openapi.checks import positive_data_acceptance

_BEYOND_SCHEMAS = (
    "; its shape",
    "has data of the shape",
    "not a complete PNG or JPEG",
    "the bytes are not UTF-8",
    "got `float` - at `$.inputs",
)


@schemathesis.check
def no_fault_of_ours(_context: Any, response: Any, case: Any) -> None:
    """Refuse what no request may be answered with."""
    hasty = "X-Request-Timeout-Ms" in (case.headers or {}) or "timeout" in str(case.body)
    if response.status_code >= 500 and not (hasty and response.status_code in (503, 504)):
        raise AssertionError(f"{response.status_code}: {response.text}")


@schemathesis.check
def what_fits_is_accepted(context: Any, response: Any, case: Any) -> None:
    """Refuse refusals of what the document allows."""
    binary = case.media_type == "application/octet-stream" or "Inference-Header-Content-Length" in (case.headers or {})
    if not binary and not any(text in response.text for text in _BEYOND_SCHEMAS):
        positive_data_acceptance(context, response, case)
