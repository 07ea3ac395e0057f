from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ganglion.data.loading.certificate import Certificate

ids = st.lists(st.integers(0, 2**63 - 1), max_size=40)


def of(records) -> Certificate:
    return Certificate.of(np.array(records, np.int64))


@given(records=ids, data=st.data())
def test_neither_order_nor_who_delivers_matters(records: list[int], data) -> None:
    shuffled = data.draw(st.permutations(records))
    cut = data.draw(st.integers(0, len(records)))
    assert of(shuffled[:cut]) + of(shuffled[cut:]) == of(records)
    assert of(records) - of(shuffled[:cut]) == of(shuffled[cut:])
    assert of(records).count == len(records)


@given(records=st.lists(st.integers(0, 2**63 - 1), min_size=2, max_size=40, unique=True), data=st.data())
def test_a_record_that_is_lost_doubled_or_exchanged_shows(records: list[int], data) -> None:
    whole = of(records)
    place = data.draw(st.integers(0, len(records) - 1))
    rest = records[:place] + records[place + 1 :]
    assert of(rest) != whole
    assert of([*records, records[place]]) != whole
    assert of([*rest, rest[0]]) != whole, "one lost and one doubled"
    stranger = data.draw(st.integers(0, 2**63 - 1).filter(lambda record: record not in records))
    assert of([*rest, stranger]) != whole


def test_neighbouring_ids_do_not_make_up_for_each_other() -> None:
    seen = set()
    for first in range(120):
        for second in range(first + 1, 120):
            certificate = of([first, second])
            seen.add((certificate.first, certificate.second))
    assert len(seen) == 120 * 119 // 2


@given(groups=st.lists(ids, max_size=6))
def test_groups_have_certificates_of_their_own(groups: list[list[int]]) -> None:
    records = np.array([record for group in groups for record in group], np.int64)
    ends = np.cumsum([len(group) for group in groups]).tolist()
    assert Certificate.of_each(records, ends) == [of(group) for group in groups]
