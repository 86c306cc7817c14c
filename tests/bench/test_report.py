"""Samples to rows, rows to the table, and what the notes admit."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

from bench.matrix import Options
from bench.model import Contender, Sample, Target
from bench.report import Figure, Run, markdown, multi_writer_share, number, raw, rows_of, shown, table

ONE = (Target(1, "one"),)
DIRECT = Contender("direct", "direct", {"simple": ONE[0]}, ONE, (100,))
BOUNCER = Contender(
    "pgbouncer",
    "PgBouncer",
    {"simple": ONE[0]},
    ONE,
    (100,),
    7,
    ("A notice.",),
    "PgBouncer 1.18.0",
    {"prepared": "session"},
)
CHORUS = Contender("pgchorus-3", "pgchorus, 3 shards", {"simple": ONE[0]}, ONE * 3, (100, 101, 102), 8)
ALL = (DIRECT, BOUNCER, CHORUS)
SAMPLE = Sample(
    contender="direct",
    scenario="tpcb",
    mode="simple",
    clients=8,
    round=1,
    transactions=1000,
    failed=0,
    seconds=10,
    tps=100.0,
    p50_ms=1.0,
    p95_ms=2.0,
    p99_ms=3.0,
    worst_ms=9.0,
    logged=1000,
    sampling=1.0,
    proxy_user_s=0.0,
    proxy_system_s=0.0,
    proxy_rss_mib=0.0,
    server_cpu_s=0.5,
    pgbench_cpu_s=0.1,
    other_cpu=0.01,
)


def through(contender: str, **changes: object) -> Sample:
    return replace(SAMPLE, contender=contender, **changes)  # type: ignore[arg-type]


def run_of(samples: list[Sample], **changes: object) -> Run:
    options = Options(("tpcb",), ("simple",), (8,), 10, 1, 3, 2, 10, 12)
    run = Run(
        "try",
        "now",
        "python -m bench",
        options,
        {"processor": "one"},
        durable=True,
        contenders=ALL,
        samples=samples,
        checks=3,
        verdict="All well.",
        notices=(),
    )
    return replace(run, **changes)  # type: ignore[arg-type]


def test_a_row_is_the_median_with_the_extremes() -> None:
    (row,) = rows_of([through("direct", tps=t, round=i) for i, t in enumerate([300.0, 100.0, 110.0])], ALL)
    assert row.tps == Figure(110.0, 100.0, 300.0)
    assert row.rounds == 3


def test_cpu_is_per_transaction_and_only_where_there_is_a_proxy() -> None:
    samples = [through("direct"), through("pgbouncer", proxy_user_s=0.02, proxy_system_s=0.1)]
    direct, bouncer = rows_of(samples, ALL)
    assert direct.proxy_us is None
    assert bouncer.proxy_us is not None
    assert math.isclose(bouncer.proxy_us.median, 120.0)
    assert bouncer.servers_us is not None
    assert math.isclose(bouncer.servers_us.median, 500.0)


def test_contenders_keep_their_order_whoever_ran_first() -> None:
    rows = rows_of([through("pgchorus-3"), through("direct"), through("pgbouncer")], ALL)
    assert [row.contender for row in rows] == ["direct", "pgbouncer", "pgchorus-3"]


def test_a_run_that_was_broken_off_gives_no_figures_and_is_shown() -> None:
    samples = [
        through("direct"),
        through("direct", round=2, tps=1.0, failed=4, complaint="pgbench ended with status 2"),
    ]
    (row,) = rows_of(samples, ALL)
    assert row.tps == Figure(100.0, 100.0, 100.0)
    assert (row.broken, row.failed) == (1, 4)
    assert "4; 1 of 2 runs broken off" in table([row])
    assert "pgbench ended with status 2" in markdown(run_of(samples), [])


def test_nothing_but_broken_runs_leaves_dashes() -> None:
    (row,) = rows_of([through("direct", tps=math.nan, transactions=0, complaint="lost")], ALL)
    assert row.tps is None
    assert "| direct | – | – |" in table([row])  # noqa: RUF001


def test_ratios_are_to_direct_and_to_pgbouncer() -> None:
    samples = [
        through("direct"),
        through("pgbouncer", tps=80.0, proxy_user_s=0.01),
        through("pgchorus-3", tps=50.0, proxy_user_s=0.02),
    ]
    line = next(line for line in table(rows_of(samples, ALL)).splitlines() if "pgchorus" in line)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[4] == "0.50"
    assert cells[9] == "2.00"


def test_the_pooling_of_a_mode_stands_beside_the_name() -> None:
    (row,) = rows_of([through("pgbouncer", mode="prepared")], ALL)
    assert row.title == "PgBouncer (session)"


def test_figures_have_about_three_digits() -> None:
    assert [number(v) for v in (0.123, 1.234, 12.34, 123.4, 12345.6)] == ["0.12", "1.23", "12.3", "123", "12,346"]
    assert shown(Figure(5, 5, 5), spread=True) == "5.00"
    assert shown(Figure(5, 4, 6), spread=True) == "5.00 (4.00–6.00)"  # noqa: RUF001


def test_the_notes_admit_what_makes_the_comparison_unequal() -> None:
    text = markdown(run_of([through(c.name) for c in ALL]), ["throughput.png"])
    assert "share this one machine" in text
    assert "(here 3)" in text
    assert "two-phase commit" in text
    assert "about 89% of TPC-B transactions write more than one shard" in text
    assert "A notice." in text
    assert "fsync on" in text
    assert "![throughput](throughput.png)" in text
    assert "Disturbed" not in text
    assert "One round only" not in text


def test_the_notes_admit_disturbance_and_volatile_servers() -> None:
    text = markdown(run_of([through("direct", other_cpu=0.4)], durable=False), [])
    assert "Disturbed: in 1 of 1 cells" in text
    assert "fsync OFF" in text


def test_raw_figures_are_json_without_nan() -> None:
    data = json.loads(raw(run_of([through("direct", p50_ms=math.nan)])))
    assert data["samples"][0]["p50_ms"] is None
    assert data["rows"][0]["tps"]["median"] == 100.0
    assert str(Path.home()) not in json.dumps(data)


def test_three_keys_over_three_shards_fall_together_once_in_nine() -> None:
    assert math.isclose(multi_writer_share(3), 8 / 9)
    assert multi_writer_share(1) == 0
