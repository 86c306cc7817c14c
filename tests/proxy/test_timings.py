"""Histograms of durations, and the tallies of statements that are made of them."""

from __future__ import annotations

import gc
import random

import pytest

from proxy.admin.counts import PERIOD_S, Periods, Totals
from proxy.admin.statements import StatementBook
from proxy.timings import BOUNDS, KEPT, Histogram, Timings


@pytest.mark.parametrize("count", [0, 1, KEPT - 1, KEPT, KEPT + 1, 3 * KEPT, 1000])
def test_every_duration_is_in_its_bucket_whenever_it_is_folded(count: int) -> None:
    chance = random.Random(count)
    durations = [chance.choice([0.0, 0.0001, 0.0003, 0.02, 1.0, 100.0]) for _ in range(count)]
    whole = Histogram()
    timings = Timings(whole)
    for duration in durations:
        timings.add(duration)
        if chance.random() < 0.1:
            timings.fold()
    timings.fold()
    expected = [0] * (len(BOUNDS) + 1)
    for duration in durations:
        expected[next((place for place, bound in enumerate(BOUNDS) if duration <= bound), len(BOUNDS))] += 1
    assert timings.histogram.buckets == whole.buckets == expected
    assert timings.histogram.total == count
    assert timings.histogram.seconds == pytest.approx(sum(durations))
    assert timings.histogram.longest_s == max(durations, default=0.0)
    assert timings.histogram.cumulative()[-1] == ("+Inf", count)


def test_quantiles_lie_in_their_buckets() -> None:
    timings = Timings()
    for _ in range(99):
        timings.add(0.002)
    timings.add(7.0)
    timings.fold()
    assert 0.001 < timings.histogram.quantile(0.5) <= 0.0025
    assert 5.0 < timings.histogram.quantile(1.0) <= 7.0
    assert Histogram().quantile(0.99) == 0.0


def run(book: StatementBook, text: str, times: int = 1, seconds: float = 0.001) -> None:
    for _ in range(times):
        book.tally(text, "one shard").add(seconds)


def test_statements_that_differ_in_values_are_one() -> None:
    book = StatementBook(10)
    run(book, "select a from t where k = 1")
    run(book, "select a from t where k = 'x'")
    book.tally("select a from t where k = 3", "merge").add(0.1)
    assert sorted((tally.text, tally.tier, tally.count) for tally in book) == [
        ("select a from t where k = $1", "merge", 1),
        ("select a from t where k = $1", "one shard", 2),
    ]


def test_what_is_used_stays_and_the_sums_know_all() -> None:
    book = StatementBook(10)
    for number in range(100):
        run(book, f"select a{number} from t")
        run(book, "select always from t", 2)
    assert len(list(book)) <= 10
    (always,) = (tally for tally in book if tally.text == "select always from t")
    assert always.count == 200
    assert book.tiers["one shard"].total == 300


def test_what_has_gone_is_counted_on_and_comes_back() -> None:
    book = StatementBook(10)
    kept = book.tally("select kept from t", "one shard")  # as the lane keeps it
    kept.add(0.001)
    for number in range(20):
        run(book, f"select a{number} from t", 2)
    assert kept not in book
    kept.add(0.001)
    book.reset()
    kept.add(0.001)
    assert [tally.text for tally in book] == ["select kept from t"]
    assert book.tally("select kept from t", "one shard") is kept
    assert book.tiers["one shard"].total == 43


def test_the_last_of_what_has_gone_for_good_is_in_the_sums() -> None:
    book = StatementBook(10)
    kept = book.tally("select kept from t", "one shard")
    book.reset()
    kept.add(0.001)
    del kept
    gc.collect()
    assert book.tiers["one shard"].total == 1


def test_reset_begins_anew() -> None:
    book = StatementBook(10)
    run(book, "select a from t", 5)
    book.reset()
    assert list(book) == []
    run(book, "select a from t")
    assert [(tally.count, tally.histogram.total) for tally in book] == [(1, 1)]
    assert book.tiers["one shard"].total == 6


def test_averages_are_of_the_last_whole_period() -> None:
    periods = Periods(100.0)
    assert periods.averages("shop")["query_count"] == 0
    assert not periods.due(100.0 + PERIOD_S - 1)
    assert periods.due(100.0 + PERIOD_S)
    periods.turn(160.0, {"shop": Totals(xact_count=60, query_count=120, query_time=240_000, bytes_sent=6000)})
    periods.turn(220.0, {"shop": Totals(xact_count=120, query_count=360, query_time=264_000, bytes_sent=12_000)})
    averages = periods.averages("shop")
    assert (averages["xact_count"], averages["query_count"]) == (1, 4)  # by the second
    assert averages["query_time"] == 100  # by the query
    assert averages["bytes_sent"] == 100
