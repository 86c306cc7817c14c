"""pgbench's command line, summary and log, as PostgreSQL 18's pgbench takes and writes them."""

from __future__ import annotations

import math
import random

import pytest

from bench.model import SCENARIOS, BenchError, Target
from bench.pgbench import Latencies, Load, command, parse_log, parse_summary, percentile, sampling_for

WHOLE = """\
pgbench (18.6)
transaction type: <builtin: TPC-B (sort of)>
scaling factor: 10
query mode: simple
number of clients: 8
number of threads: 2
maximum number of tries: 1
duration: 10 s
number of transactions actually processed: 15273
number of failed transactions: 3 (0.020%)
latency average = 5.235 ms
initial connection time = 12.345 ms
tps = 1527.123456 (without initial connection time)
"""
BROKEN_OFF = """\
pgbench: error: client 3 script 0 aborted in command 5 query 0: ERROR:  cannot do that
number of transactions actually processed: 7
number of failed transactions: 0 (0.000%)
tps = 70.000000 (without initial connection time)
pgbench: error: Run was aborted; the above results are incomplete.
Run was aborted; the above results are incomplete.
"""


def test_a_summary_is_read() -> None:
    summary = parse_summary(WHOLE)
    assert (summary.transactions, summary.failed, summary.tps) == (15273, 3, 1527.123456)
    assert not summary.aborted


def test_a_run_that_was_broken_off_says_so() -> None:
    summary = parse_summary(BROKEN_OFF)
    assert summary.aborted
    assert summary.transactions == 7


@pytest.mark.parametrize("text", ["", "pgbench: error: connection to server failed", WHOLE.replace("tps =", "tps:")])
def test_what_is_no_summary_is_an_error(text: str) -> None:
    with pytest.raises(BenchError, match="not a summary"):
        parse_summary(text)


def test_a_log_is_read_sorted_and_without_what_has_no_latency() -> None:
    lines = [
        "0 199 2241 0 1175850568 995598",
        "0 200 2465 0 1175850568 998079",
        "3 0 failed 0 1499414498 84905",
        "1 12 skipped 0 1499414498 84906",
        "0 201 513 0 1175850569 608 0 2",
    ]
    latencies = parse_log(lines)
    assert latencies.sorted_us == (513, 2241, 2465)
    assert latencies.without == 2
    assert latencies.percentile_ms(50) == 2.241


@pytest.mark.parametrize("line", ["", "0 1 2", "0 199 quick 0 1175850568 995598"])
def test_a_line_that_is_not_of_a_log_is_an_error(line: str) -> None:
    with pytest.raises((BenchError, ValueError)):
        parse_log([line])


def test_percentiles_are_the_nearest_rank() -> None:
    ordered = [15, 20, 35, 40, 50]  # the example that textbooks use
    assert [percentile(ordered, p) for p in (5, 30, 40, 50, 100)] == [15, 20, 20, 35, 50]
    assert percentile([7], 99) == 7
    assert math.isnan(percentile([], 50))


def test_a_percentile_is_the_least_value_that_so_many_do_not_exceed() -> None:
    seed = 20261122
    print("seed", seed)  # noqa: T201 - shown when it fails
    chance = random.Random(seed)
    for _ in range(200):
        ordered = sorted(chance.randrange(1000) for _ in range(chance.randrange(1, 60)))
        percent = chance.randrange(1, 101)
        value = percentile(ordered, percent)
        least = min(v for v in ordered if sum(1 for o in ordered if o <= v) * 100 >= percent * len(ordered))
        assert value == least


def test_no_latency_is_not_a_number() -> None:
    assert math.isnan(Latencies((), 3).percentile_ms(99))


def test_a_long_fast_run_is_sampled_and_a_short_one_is_not() -> None:
    assert sampling_for(1_000, 10) == 1.0
    assert sampling_for(100_000, 10, wanted=1_000_000) == 1.0
    assert sampling_for(200_000, 20, wanted=1_000_000) == 0.25


def test_the_scale_goes_with_scripts_of_our_own_alone() -> None:
    target = Target(6432, "bench")
    load = Load("prepared", clients=8, threads=2, seconds=30, scale=10)
    own = command("pgbench", SCENARIOS["transfer"], load, target)
    builtin = command("pgbench", SCENARIOS["tpcb"], load, target)
    assert own[own.index("-s") + 1] == "10"
    assert "-s" not in builtin
    assert builtin[-1] == own[-1] == "bench"
    assert builtin[builtin.index("-M") + 1] == "prepared"
    assert not any(part.startswith("--sampling-rate") for part in builtin)


def test_never_more_threads_than_clients() -> None:
    line = command("pgbench", SCENARIOS["select"], Load("simple", 1, 4, 2, 1, 0.5), Target(1, "b"))
    assert line[line.index("-j") + 1] == "1"
    assert "--sampling-rate=0.500000" in line
