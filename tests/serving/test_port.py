"""A port that cannot be had: the message says why, and what would be."""

from __future__ import annotations

import pytest

from ganglion.core.errors import UserError
from ganglion.serving.port import hold_port


def test_a_port_that_is_taken_is_answered_with_another_port() -> None:
    with hold_port("127.0.0.1", 0) as held:
        held.listen()
        port = held.getsockname()[1]
        with pytest.raises(UserError, match=rf"127.0.0.1:{port}: Address already in use\. Give another port, or 0"):
            hold_port("127.0.0.1", port)


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_an_address_of_another_machine_is_answered_with_those_of_this_one(host: str) -> None:
    with pytest.raises(UserError, match=rf"Cannot serve at {host}:0: .*Give an address of this machine"):
        hold_port(host, 0)
