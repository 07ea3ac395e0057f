from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ganglion.data.dataset.quarantine import too_many
from ganglion.data.preparation.outlook import MARGIN, SEEN, most_to_come, most_tolerated
from ganglion.data.records.unit import Unit

counts = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=12)
tolerances = st.one_of(st.integers(0, 60), st.floats(0, 1))


def units(sizes: list[int], *, known: bool) -> list[Unit]:
    return [
        Unit(number=number, name=f"unit {number}", records=size if known else None, size=size)
        for number, size in enumerate(sizes)
    ]


@given(counts, tolerances)
def test_whoever_gives_up_before_the_end_would_have_failed_there_and_nobody_fails_later(
    found: list[tuple[int, int]], max_bad: float
) -> None:
    """Units of good and bad records, read one after the other, of which it is known how many they have."""
    every = units([good + bad for good, bad in found], known=True)
    bad, read = sum(bad for _, bad in found), sum(good + bad for good, bad in found)
    given_up = False
    for done in range(len(found) + 1):
        so_far = sum(bad for _, bad in found[:done]), sum(good + bad for good, bad in found[:done])
        most = most_tolerated(max_bad, so_far[1], most_to_come(every[done:], so_far[1], so_far[1]))
        assert most is not None
        given_up = given_up or so_far[0] > most
        if given_up:
            assert too_many(bad, read, max_bad)
    assert given_up == too_many(bad, read, max_bad)


@given(counts, st.floats(0, 1), st.integers(1, MARGIN))
def test_bytes_do_not_deceive_while_records_are_up_to_four_times_as_dense(
    found: list[tuple[int, int]], share: float, density: int
) -> None:
    """As before, of units that only know how many bytes they have; the later ones have more records to a byte."""
    first, later = (SEEN + found[0][0], SEEN + found[0][1]), [unit for unit in found[1:] if sum(unit)]
    dense = [(density * good, density * bad) for good, bad in later]
    every = units([sum(first), *map(sum, later)], known=False)
    read = sum(first) + sum(map(sum, dense))
    bad = first[1] + sum(bad for _, bad in dense)
    most = most_tolerated(share, sum(first), most_to_come(every[1:], sum(first), every[0].size))
    assert most is not None
    if first[1] > most:
        assert too_many(bad, read, share)


def test_nothing_is_said_while_nothing_is_known() -> None:
    few = units([10, 10], known=False)
    assert most_to_come(few, SEEN - 1, 100) is None
    assert most_to_come(few, SEEN, 0) is None
    assert most_to_come(units([10, 0], known=False), SEEN, 100) is None
    assert most_tolerated(0.5, SEEN, None) is None
    assert most_tolerated(3, SEEN, None) == 3


def test_a_unit_made_of_another_one_has_no_fewer_records_than_that() -> None:
    inner = Unit(number=0, name="", records=100)
    assert most_to_come([Unit(number=0, name="", records=40, inner=inner)], 0, 0) == 100
    assert most_to_come([Unit(number=0, name="", records=40, inner=Unit(number=0, name=""))], 0, 0) is None
