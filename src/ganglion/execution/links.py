"""Who of a gang goes on where links between its members are broken, although the controller reaches all; pure.

What the members do together needs a link between each two of them. So some are left out until their links are mended,
such that among those who go on none is broken.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

Pair = frozenset[str]
"""Two members that cannot reach each other."""


def cut_off(members: Sequence[str], broken: Collection[Pair], already: Collection[str] = ()) -> frozenset[str]:
    """Whom the others go on without.

    One after the other, the member with the most broken links to those who are left is taken out; of equals one that is
    out already, else the last in rank. Whoever then reaches all that go on is taken back. Where a network has fallen
    apart into sides that cannot reach each other, the largest goes on.

    Args:
        members: those that could go on, in rank order.
        broken: links that do not work; those of others do not count.
        already: who is left out at present, so that nobody changes places without need.

    Returns:
        The smallest sets are not searched for, which would take long; but each of them has a broken link to somebody
        who goes on, and one goes on at least.
    """
    rank = {name: number for number, name in enumerate(members)}
    cut: dict[str, set[str]] = {name: set() for name in members}
    for pair in broken:
        if len(pair) == 2 and pair <= cut.keys():
            one, other = pair
            cut[one].add(other)
            cut[other].add(one)
    staying = set(members)
    while any(cut[name] & staying for name in staying):
        staying.remove(max(staying, key=lambda name: (len(cut[name] & staying), name in already, rank[name])))
    for name in members:
        if not cut[name] & staying:
            staying.add(name)
    return frozenset(members) - staying
