"""Configurations of the proxies, and the command line."""

from __future__ import annotations

import configparser
import tomllib
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.contenders import parse_pgbouncer_version, pgbouncer_configuration, pgchorus_configuration
from bench.model import SCENARIOS, BenchError, Target
from bench.others import Place, pgcat_files, pgdog_files, pgpool_files, spqr_files, start_others


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
    assert read["log"]["connections"] is False, "as PgBouncer, which has log_connections = 0"


def test_every_script_of_our_own_is_there() -> None:
    for scenario in SCENARIOS.values():
        if not scenario.builtin:
            with open(scenario.script[1], encoding="utf-8") as script:  # noqa: PTH123
                assert script.read().strip().endswith(";")


PLACE = Place(Target(7000, "one"), Target(6000, "one"), 12, Path("/there"), (7001, 7002))


def test_pgpool_has_one_backend_and_a_process_for_each_client() -> None:
    files = pgpool_files(PLACE)
    settings = dict(line.split(" = ") for line in files["pgpool.conf"].splitlines())
    assert settings["backend_clustering_mode"] == "'raw'"
    assert (settings["backend_port0"], settings["port"], settings["pcp_port"]) == ("6000", "7000", "7001")
    assert settings["num_init_children"] == "12"
    assert settings["socket_dir"] == "'/there'"  # not where a server may have its own


def test_pgcat_pools_one_database_by_transactions() -> None:
    read = tomllib.loads(pgcat_files(PLACE)["pgcat.toml"])
    pool = read["pools"]["one"]
    assert (read["general"]["port"], pool["pool_mode"]) == (7000, "transaction")
    assert pool["shards"]["0"] == {"servers": [["127.0.0.1", 6000, "primary"]], "database": "one"}
    assert pool["users"]["0"]["pool_size"] == 12


def test_pgdog_pools_one_database_by_transactions() -> None:
    files = pgdog_files(PLACE)
    read = tomllib.loads(files["pgdog.toml"])
    assert read["general"]["pooler_mode"] == "transaction"
    assert read["databases"] == [{"name": "one", "host": "127.0.0.1", "port": 6000, "database_name": "one"}]
    assert tomllib.loads(files["users.toml"])["users"][0]["database"] == "one"


def test_spqr_knows_the_keys_of_all_four_tables() -> None:
    files = spqr_files(PLACE)
    read = yaml.safe_load(files["router.yaml"])
    assert read["shards"]["sh1"]["hosts"] == ["127.0.0.1:6000"]
    assert (read["router_port"], read["admin_console_port"], read["grpc_api_port"]) == ("7000", "7001", "7002")
    assert read["init_sql"] == "init.sql"
    assert files["init.sql"].count("ATTACH RELATION") == 4


def test_other_proxies_that_are_missing_or_do_not_start_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.others.find", lambda program: "/x/pgdog" if program == "pgdog" else None)

    def fails(*_: object) -> ExitStack:
        raise BenchError("no such thing")

    monkeypatch.setattr("bench.others.standing_before", fails)
    server: Any = None
    with ExitStack() as stack:
        found, notices = start_others(server, 12, stack)
    assert not found
    assert notices == [
        "PgDog is installed, but did not start as it is configured here: no such thing",
        "Not compared, because not installed here: Pgpool-II, PgCat, SPQR.",
    ]
