"""Which versions a policy asks for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.core.errors import UserError
from ganglion.serving.policy import VersionPolicy

numbers = st.frozensets(st.integers(1, 20), max_size=6)


def test_what_is_said_is_what_is_meant() -> None:
    assert str(VersionPolicy.of(None)) == "latest"
    assert str(VersionPolicy.of(3)) == "version 3"
    assert str(VersionPolicy.of("champion")) == "alias champion"
    assert str(VersionPolicy.of(None, "all")) == "all"
    for version, name in ((3, "latest"), (3, "all"), (None, "specific")):
        with pytest.raises(UserError, match="only it names one"):
            VersionPolicy.of(version, name)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="Did you mean 'latest'"):
        VersionPolicy.of(None, "lates")  # type: ignore[arg-type]


def test_an_alias_is_looked_up() -> None:
    policy = VersionPolicy.of("champion")
    assert policy.wanted((1, 2), {"champion": 2}, ()) == (2,)
    assert policy.wanted((1, 2), {"champion": 3}, ()) == (), "what is not complete is not served"
    assert policy.wanted((1, 2), {}, ()) == ()


@given(numbers, numbers)
def test_what_was_refused_is_never_asked_for(versions: frozenset[int], refused: frozenset[int]) -> None:
    allowed = sorted(versions - refused)
    assert VersionPolicy.of(None).wanted(versions, {}, refused) == tuple(allowed[-1:])
    assert VersionPolicy.of(None, "all").wanted(versions, {}, refused) == tuple(allowed)
    assert VersionPolicy.of(7).wanted(versions, {}, refused) == ((7,) if 7 in allowed else ())
