"""Amounts of cores, memory and devices."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.core.errors import ConfigurationError
from ganglion.core.resources import NOTHING, Resources, format_size, parse_size, total

hundredths = st.integers(0, 6400).map(lambda parts: parts / 100)
amounts = st.builds(Resources, cpu=hundredths, memory=st.integers(0, 2**45), gpu=hundredths)


@given(amounts, amounts)
def test_what_is_added_can_be_taken_away_again(a: Resources, b: Resources):
    assert (a + b) - b == a
    assert a + b == b + a
    assert a + NOTHING == a


@given(st.lists(amounts, max_size=5))
def test_a_total_holds_each_of_its_parts(parts: list[Resources]):
    everything = total(parts)
    assert all(part.fits(everything) for part in parts)
    assert everything == total(tuple(reversed(parts)))


@given(amounts, amounts)
def test_what_fits_misses_nothing(wanted: Resources, available: Resources):
    assert wanted.fits(available) == (wanted.missing(available) == "")
    if wanted.fits(available):
        assert (available - wanted) + wanted == available
    else:
        with pytest.raises(ConfigurationError, match="cannot be negative"):
            available - wanted


def test_tenths_of_a_core_add_up():
    assert total([Resources(cpu=0.1)] * 10) == Resources(cpu=1.0)


def test_what_is_missing_is_said_for_each_resource():
    wanted = Resources(cpu=3.0, memory=2 * 2**30, gpu=1.0)
    assert wanted.missing(Resources(cpu=2.0, memory=2**30)) == (
        "3 CPUs of 2, 2.0 GiB of memory of 1.0 GiB, 1 GPUs of 0"
    )


@pytest.mark.parametrize("fields", [{"cpu": -1.0}, {"memory": -1}, {"gpu": -0.5}])
def test_less_than_nothing_is_refused(fields):
    with pytest.raises(ConfigurationError, match="cannot be negative"):
        Resources(**fields)


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (Resources(), "1 CPU"),
        (Resources(cpu=0.5, memory=512 * 2**20), "0.5 CPU, 512.0 MiB"),
        (Resources(cpu=2.0, memory=2**40, gpu=1.0), "2 CPU, 1.0 TiB, 1 GPU"),
    ],
)
def test_amounts_are_written_for_a_person(amount, text):
    assert str(amount) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (17, 17),
        ("17", 17),
        ("512MiB", 512 * 2**20),
        ("512 mib", 512 * 2**20),
        ("2GB", 2 * 10**9),
        ("1Gi", 2**30),
        ("1.5k", 1500),
        ("0.5TiB", 2**39),
        ("100B", 100),
    ],
)
def test_sizes_are_read_in_the_usual_units(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "many", "12XB", "-5MB", "1,5GB", "MiB"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ConfigurationError, match="is not a size; write for example 512MiB"):
        parse_size(text)


@given(st.integers(0, 2**50))
def test_a_written_size_can_be_read_again(size: int):
    """To the one decimal place that is written."""
    written = format_size(size)
    unit = parse_size("1 " + written.split()[1])
    assert abs(parse_size(written) - size) <= 0.05 * unit + 1


def test_shares_that_do_not_quite_add_up_leave_nothing_and_not_less():
    share = Resources(cpu=2 / 3)
    taken = total([share] * 3)
    assert taken.fits(Resources(cpu=2.0))
    assert (Resources(cpu=2.0) - taken).cpu == 0.0
