"""Configurations of the proxies, and the command line."""

from __future__ import annotations

import configparser

import pytest
import yaml

from bench.contenders import others_notice, parse_pgbouncer_version, pgbouncer_configuration, pgchorus_configuration
from bench.model import SCENARIOS, BenchError, Target


def test_pgbouncer_has_a_database_for_each_pooling() -> None:
    ini = configparser.ConfigParser()
    ini.read_string(pgbouncer_configuration(Target(7000, "transaction"), Target(6000, "one"), 12, (1, 18)))
    assert "pool_mode=transaction" in ini["databases"]["transaction"]
    assert "pool_mode=session" in ini["databases"]["session"]
    assert "port=6000 dbname=one" in ini["databases"]["transaction"]
    assert ini["pgbouncer"]["default_pool_size"] == "12"
    assert "max_prepared_statements" not in ini["pgbouncer"]  # 1.18 does not start with it


def test_a_newer_pgbouncer_follows_prepared_statements() -> None:
    text = pgbouncer_configuration(Target(7000, "transaction"), Target(6000, "one"), 12, (1, 21))
    assert "max_prepared_statements = 100" in text


def test_pgbouncer_versions() -> None:
    assert parse_pgbouncer_version("PgBouncer 1.18.0") == (1, 18)
    assert parse_pgbouncer_version("PgBouncer 1.9.0") < (1, 21)
    with pytest.raises(BenchError):
        parse_pgbouncer_version("no such thing")


def test_the_proxys_configuration_places_all_four_tables() -> None:
    shards = [Target(6000 + i, "part") for i in range(3)]
    read = yaml.safe_load(pgchorus_configuration(Target(7000, "bench"), shards, workers=2, links=12))
    database = read["databases"]["bench"]
    assert database["shards"]["s2"] == "postgres://postgres@127.0.0.1:6002/part"
    assert len(database["shards"]) == 3
    assert {name: table["key"] for name, table in database["tables"].items()} == {
        "pgbench_accounts": "aid",
        "pgbench_branches": "bid",
        "pgbench_tellers": "tid",
        "pgbench_history": "aid",
    }
    assert read["workers"] == 2
    assert read["limits"]["pool"]["size"] == 12


def test_every_script_of_our_own_is_there() -> None:
    for scenario in SCENARIOS.values():
        if not scenario.builtin:
            with open(scenario.script[1], encoding="utf-8") as script:  # noqa: PTH123
                assert script.read().strip().endswith(";")


def test_other_proxies_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name, **_: "/usr/sbin/pgpool" if name == "pgpool" else None)
    assert others_notice() == (
        "Not compared: not installed here: PgDog, PgCat, SPQR; "
        "installed, but without a configuration in this benchmark: Pgpool-II."
    )
