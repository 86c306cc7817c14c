"""A worker's part of the limits, and the count of clients over all."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.limits import Limits
from proxy.siblings.place import Headcount, Place


@given(st.integers(0, 300), st.integers(1, 64))
def test_parts_are_the_whole_or_one_each(total: int, count: int) -> None:
    parts = [Place(number, count).part(total) for number in range(1, count + 1)]
    assert sum(parts) == (max(total, count) if total else 0)
    assert max(parts) - min(parts) <= 1


def test_links_are_divided_and_nothing_else() -> None:
    whole = Limits(pool_size=5, pool_extra=0, gather_links=1)
    first, second = Place(1, 2).limits(whole), Place(2, 2).limits(whole)
    assert (first.pool_size, second.pool_size) == (3, 2)
    assert (first.pool_extra, first.gather_links) == (0, 1)
    assert first.clients_max == whole.clients_max
    assert Place().limits(whole) == whole


def test_clients_are_counted_over_all() -> None:
    heads = Headcount(3)
    heads.put(1, 4)
    heads.put(3, 7)
    heads.put(3, 5)
    assert (heads.total(), heads.of(3), heads.of(2)) == (9, 5, 0)
