"""A check for schemathesis, which loads this module: a fault of ours is any 5xx that the caller did not ask for.

A caller that allows a millisecond may be told that there was none: 503 or 504 are then what the document says.
"""

from __future__ import annotations

from typing import Any

import schemathesis


@schemathesis.check
def no_fault_of_ours(_context: Any, response: Any, case: Any) -> None:
    """Refuse what no request may be answered with."""
    hasty = "X-Request-Timeout-Ms" in (case.headers or {}) or "timeout" in str(case.body)
    if response.status_code >= 500 and not (hasty and response.status_code in (503, 504)):
        raise AssertionError(f"{response.status_code}: {response.text}")
