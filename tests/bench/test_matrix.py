"""Runs against a real server: what is measured, and that the checks bite when rows are tampered with behind pgbench."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from bench.contenders import child, initialise, psql, wait_for_line
from bench.matrix import Matrix, Options, Programs, WrongSums
from bench.model import SCENARIOS, BenchError, Contender, Target

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from proxy.demo.embedded import EmbeddedServer

OPTIONS = Options(("tpcb",), ("simple",), (2,), seconds=1, warmup=0, rounds=1, threads=1, scale=1, links=4)


@pytest.fixture
def contender(servers: list[EmbeddedServer], make_databases: Callable[..., list[str]]) -> Contender:
    (dsn,) = make_databases(1, "bench")
    target = Target(servers[0].port, dsn.rpartition("/")[2])
    initialise(servers[0], target, 1)
    return Contender("direct", "direct", {"simple": target}, (target,), (servers[0].pid or 0,))


def matrix(server: EmbeddedServer, contender: Contender, pgbench: str = "") -> Matrix:
    return Matrix(OPTIONS, [contender], Programs(pgbench or server.program("pgbench"), server.program("psql")))


def wrapper(path: Path, *commands: str) -> str:
    path.write_text("\n".join(["#!/bin/sh", *commands]) + "\n")
    path.chmod(0o755)
    return str(path)


def test_a_run_is_measured_and_checked(servers: list[EmbeddedServer], contender: Contender) -> None:
    run = matrix(servers[0], contender)
    run.run()
    (sample,) = run.samples
    assert sample.complaint == ""
    assert sample.transactions == sample.logged > 0
    assert 0 < sample.p50_ms <= sample.p95_ms <= sample.p99_ms <= sample.worst_ms
    assert sample.server_cpu_s > 0
    assert sample.proxy_user_s == 0
    assert run.checks == 1


@pytest.mark.parametrize(
    ("tamper", "found"),
    [
        ("UPDATE pgbench_branches SET bbalance = bbalance + 1", "different amounts"),
        ("DELETE FROM pgbench_history WHERE ctid = (SELECT max(ctid) FROM pgbench_history)", "history grew by"),
    ],
)
def test_tampered_rows_end_the_run(
    servers: list[EmbeddedServer], contender: Contender, tmp_path: Path, tamper: str, found: str
) -> None:
    target = contender.backing[0]
    connection = " ".join([*target.arguments(), "-d", target.database])
    psql_line = f'{servers[0].program("psql")} -Xq {connection} -c "{tamper}" >&2'
    pgbench = wrapper(tmp_path / "pgbench", f'{servers[0].program("pgbench")} "$@" || exit', psql_line)
    run = matrix(servers[0], contender, pgbench)
    with pytest.raises(WrongSums, match=found):
        run.run()
    assert run.checks == 0


def test_left_over_prepared_transactions_end_the_run(
    servers: list[EmbeddedServer], contender: Contender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.matrix.SETTLE_SECONDS", 0.0)
    program, target = servers[0].program("psql"), contender.backing[0]
    gid = f"pgchorus:bench:left-over-{os.getpid()}"
    psql(program, target, f"BEGIN; CREATE TABLE left_over (); PREPARE TRANSACTION '{gid}'")
    try:
        with pytest.raises(WrongSums, match="left over"):
            matrix(servers[0], contender).run()
    finally:
        psql(program, target, f"ROLLBACK PREPARED '{gid}'")


def test_a_run_that_pgbench_breaks_off_is_kept_with_its_reason(
    servers: list[EmbeddedServer], contender: Contender, tmp_path: Path
) -> None:
    run = matrix(
        servers[0], contender, wrapper(tmp_path / "pgbench", "echo 'pgbench: error: client 0 aborted'", "exit 2")
    )
    run.run()
    assert run.samples[0].complaint == "pgbench ended with status 2: pgbench: error: client 0 aborted"
    assert run.checks == 0


def test_every_script_runs(servers: list[EmbeddedServer], contender: Contender) -> None:
    run = matrix(servers[0], contender)
    for scenario in (SCENARIOS["transfer"], SCENARIOS["scatter"]):
        assert run.one(contender, scenario, "simple", 2, 1).complaint == ""
    assert run.checks == 1


def test_a_child_that_ends_too_soon_is_an_error_with_its_words(tmp_path: Path) -> None:
    log = tmp_path / "log"
    program = wrapper(tmp_path / "proxy", "echo no such port", "exit 3")
    with (
        child([program], tmp_path, log) as process,
        pytest.raises(BenchError, match=r"proxy ended with 3:\n  no such port"),
    ):
        wait_for_line(process, log, "ready")


def test_a_child_is_stopped_at_the_end(tmp_path: Path) -> None:
    with child(["sleep", "600"], tmp_path, tmp_path / "log") as process:
        assert process.poll() is None
    assert process.returncode is not None
