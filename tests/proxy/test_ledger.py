"""The ledger: what quick lanes have done is counted once, by either way of sorting it in."""

from __future__ import annotations

import random
from typing import Any, cast

import pytest

from proxy.admin.counts import Counts
from proxy.ledger import FULL, ROOM, Ledger, Spent, _one_by_one, _together
from proxy.timings import BOUNDS, Timings
from router.shortcut import NAMED, PARSED, QUERY, Expected

SEED = 20261123


def running(kind: int, tally: object) -> Expected:
    known = Expected(cast("Any", None), kind, 0)
    known.tally = tally
    return known


def filled(chance: random.Random, number: int, *, alike: bool) -> list[Any]:
    """Entries of statements with durations around all bounds, and on them."""
    kinds = [QUERY] if alike else [QUERY, NAMED, PARSED]
    tallies = [object()] if alike else [object(), object()]
    known = [running(kind, tally) for kind in kinds for tally in tallies]
    loads = [object(), object(), object()]
    entries: list[Any] = []
    for _ in range(number):
        seconds = chance.choice(BOUNDS) * chance.choice((0.5, 1.0, 1.0000001, 40.0))
        entries += (seconds, chance.choice(known), chance.choice(loads))
    return entries


def seen(spent: list[Spent]) -> dict[Any, Any]:
    return {
        (one.kind, one.tally, one.load): (one.number, one.buckets, pytest.approx(one.seconds), one.longest_s)
        for one in spent
    }


@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("number", [1, 2, 77, ROOM])
def test_both_ways_of_sorting_in_say_what_the_entries_say(number: int, *, alike: bool) -> None:
    entries = filled(random.Random(SEED + number), number, alike=alike)
    expected: dict[Any, Any] = {}
    for at in range(0, len(entries), 3):
        seconds, known, load = entries[at : at + 3]
        expected.setdefault((known.kind, known.tally, load), []).append(seconds)
    wanted = {
        key: (
            len(durations),
            [
                sum(low < one <= high for one in durations)
                for low, high in zip((-1.0, *BOUNDS), (*BOUNDS, float("inf")), strict=True)
            ],
            pytest.approx(sum(durations)),
            max(durations),
        )
        for key, durations in expected.items()
    }
    assert seen(_together(entries)) == wanted
    assert seen(_one_by_one(entries + [None] * (FULL - len(entries)), len(entries))) == wanted


def test_what_was_taken_is_not_taken_again() -> None:
    ledger = Ledger()
    assert not ledger.take()
    known = running(NAMED, object())
    for number in (2, 1):
        for _ in range(number):
            end = ledger.end
            ledger.entries[end : end + 3] = (0.5, known, None)
            ledger.end = end + 3
        assert [one.number for one in ledger.take()] == [number]
        assert not ledger.take()
        assert len(ledger.entries) == FULL


def test_counts_by_kind() -> None:
    counts = Counts()
    load = Timings()
    tally = counts.book.tally("select 1", "single")
    of = {kind: running(kind, tally) for kind in (QUERY, NAMED, PARSED)}
    for number, kind in enumerate((QUERY, NAMED, PARSED), 1):
        for _ in range(number):
            end = counts.ledger.end
            counts.ledger.entries[end : end + 3] = (0.25, of[kind], load)
            counts.ledger.end = end + 3
    counts.settle()
    counts.settle()
    assert (counts.fast, counts.lent, counts.alone, counts.alone_seconds) == (6, 6, 6, 1.5)
    assert (counts.binds, counts.client_parses, counts.server_parses) == (5, 3, 3)
    assert list(counts.book) == [tally]
    assert (tally.count, tally.rows, tally.histogram.seconds) == (6, 6, 1.5)
    assert (load.count, load.histogram.total, counts.book.tiers["single"].total) == (6, 6, 6)
