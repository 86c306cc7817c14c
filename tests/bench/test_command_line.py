"""Options of ``python -m bench``, and pictures of made-up rows. Needs matplotlib, which ``make bench`` installs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench.model import Contender, Sample, Target
from bench.report import rows_of

pytest.importorskip("matplotlib")

from bench.__main__ import arguments, options_of
from bench.plots import draw_all, looks

if TYPE_CHECKING:
    from pathlib import Path

WAYS = [
    Contender("direct", "direct", {}, (Target(1, "one"),), (1,)),
    Contender("pgchorus-3", "pgchorus, 3 shards", {}, (Target(1, "one"),), (1,), 9),
]


def sample(contender: str, scenario: str, **changes: float) -> Sample:
    figures = dict.fromkeys(("tps", "p50_ms", "p95_ms", "p99_ms", "worst_ms"), 5.0)
    rest = dict.fromkeys(
        ("seconds", "proxy_user_s", "proxy_system_s", "proxy_rss_mib", "server_cpu_s", "pgbench_cpu_s", "other_cpu"),
        1.0,
    )
    numbers = {"clients": 8, "round": 1, "transactions": 10, "failed": 0, "logged": 10, "sampling": 1.0}
    return Sample(contender=contender, scenario=scenario, mode="simple", **(figures | rest | numbers | changes))  # type: ignore[arg-type]


def test_quick_changes_defaults_and_nothing_that_was_given() -> None:
    quick = options_of(arguments(["--quick", "--scale", "7"]))
    assert (quick.rounds, quick.seconds, quick.warmup, quick.scale) == (1, 2, 0, 7)
    full = options_of(arguments([]))
    assert (full.rounds, full.seconds, full.warmup, full.scale) == (3, 10, 1, 10)


def test_every_cell_runs_once_per_round() -> None:
    options = options_of(arguments(["--clients", "1,8", "--modes", "simple,prepared", "--scenarios", "tpcb"]))
    cells = [(s.name, mode, clients) for s, mode, clients in options.cells()]
    assert cells == [("tpcb", m, c) for m in ("simple", "prepared") for c in (1, 8)]
    assert options.expected_seconds(3) == 3 * 4 * 3 * 12
    assert options.links > 8


@pytest.mark.parametrize(
    "wrong",
    [["--clients", "0"], ["--modes", "fast"], ["--name", "../up"], ["--scenarios", "tpcb,x"], ["--seconds", "-1"]],
)
def test_mistakes_end_with_status_2(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        arguments(wrong)
    assert caught.value.code == 2
    assert wrong[0] in capsys.readouterr().err


def test_pictures_are_written_and_contenders_have_one_colour(tmp_path: Path) -> None:
    rows = rows_of([sample(way.name, name) for name in ("tpcb", "select") for way in WAYS], WAYS)
    assert draw_all(rows, tmp_path, "made up") == ["throughput.png", "latency.png", "cpu.png"]
    for name in ("throughput.png", "latency.png", "cpu.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    styles = looks(rows)
    assert len({look.colour for look in styles.values()}) == len({look.marker for look in styles.values()}) == 2


def test_without_a_proxy_there_is_no_picture_of_its_cpu(tmp_path: Path) -> None:
    rows = rows_of([sample("direct", "tpcb")], WAYS)
    assert draw_all(rows, tmp_path, "made up") == ["throughput.png", "latency.png"]
