"""The commands as they are typed: output and exit status."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import psycopg
import pytest

from proxy.demo.embedded import free_port
from proxy_process import write_config

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.conftest import MakeDatabases, StartProxy

TABLES = {"items": {"key": "id"}, "kinds": "reference"}


def pgchorus(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "proxy", "--log-level", "warning", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def execute(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def config_of(directory: Path, dsns: Sequence[str], **more: object) -> Path:
    return write_config(directory / "pgchorus.yaml", {"d": dsns}, TABLES, **more)


def test_check_says_what_is_there(tmp_path: Path) -> None:
    file = config_of(tmp_path, ["postgres://p@nowhere.invalid/a", "postgres://p@nowhere.invalid/b"])
    done = pgchorus("check", "-c", file)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"d: 2 shards, 2 tables placed\n{file}: no mistakes\n"


@pytest.mark.parametrize("command", ["check", "serve", "init", "doctor", "recover"])
def test_a_mistake_in_the_configuration_is_status_2(tmp_path: Path, command: str) -> None:
    file = tmp_path / "pgchorus.yaml"
    file.write_text("cluster: x\nworkers: 0\nauth: {method: trust}\ndatabases: {}\n")
    done = pgchorus(command, "-c", file)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        f"{file}:2: workers: 0 is too small; give a whole number of at least 1",
        f"{file}:4: databases: is empty; name at least 1",
    ]


@pytest.mark.parametrize("arguments", [(), ("serve",), ("fly",), ("check", "--conf", "x")])
def test_a_mistake_on_the_command_line_is_status_2(arguments: tuple[str, ...]) -> None:
    done = pgchorus(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: pgchorus")


def test_version() -> None:
    assert pgchorus("--version").stdout.startswith("pgchorus 0.")


def test_a_shard_that_is_not_there_is_status_1(tmp_path: Path) -> None:
    file = config_of(tmp_path, [f"postgres://p@127.0.0.1:{free_port()}/a", "postgres://p@127.0.0.1:1/b"])
    for command in ("serve", "init"):
        done = pgchorus(command, "-c", file)
        assert (done.returncode, done.stdout) == (1, "")
        assert re.search(r'^pgchorus: could not connect to shard "s[01]"$', done.stderr, re.MULTILINE)
        assert "Connection refused" in done.stderr
        assert "Traceback" not in done.stderr, done.stderr
    done = pgchorus("doctor", "-c", file)
    assert done.returncode == 1
    assert [line[:25] for line in sorted(done.stdout.splitlines())] == [
        "d: error: shard s0: canno",
        "d: error: shard s1: canno",
    ]


def test_a_taken_port_is_status_1(tmp_path: Path, make_databases: MakeDatabases) -> None:
    dsns = make_databases(1)
    port = int(dsns[0].rpartition(":")[2].partition("/")[0])
    file = config_of(tmp_path, dsns, listen={"host": "127.0.0.1", "port": port})
    done = pgchorus("serve", "-c", file)
    assert done.returncode == 1
    assert str(port) in done.stderr
    assert "address already in use" in done.stderr
    assert "Traceback" not in done.stderr, done.stderr


def test_init_then_explain(tmp_path: Path, make_databases: MakeDatabases) -> None:
    dsns = make_databases(2)
    file = config_of(tmp_path, dsns)
    done = pgchorus("init", "-c", file)
    assert (done.returncode, done.stdout) == (0, "d: 2 shards, 2 tables placed, epoch 1\n"), done.stderr
    assert pgchorus("init", "-c", file).stdout == done.stdout, "a second time changes nothing"
    for dsn in dsns:
        execute(dsn, "CREATE TABLE items (id bigint PRIMARY KEY)", "CREATE TABLE kinds (k text PRIMARY KEY)")
    done = pgchorus("explain", "-c", file, "SELECT * FROM items WHERE id = 5")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["node"] == "Single"
    assert plan["target"]["type"] == "int8"
    refused = pgchorus("explain", "-c", file, "ALTER TABLE items DROP COLUMN id")
    assert refused.returncode == 1
    assert refused.stderr.startswith("pgchorus: ")
    broken = pgchorus("explain", "-c", file, "SELEC 1")
    assert broken.returncode == 1
    assert 'syntax error at or near "SELEC"' in broken.stderr
    assert pgchorus("explain", "-c", file, "--database", "x", "SELECT 1").returncode == 2


def test_explain_asks_which_database(tmp_path: Path) -> None:
    dsns = ["postgres://p@h:1/a"]
    file = write_config(tmp_path / "pgchorus.yaml", {"d": dsns, "e": dsns})
    done = pgchorus("explain", "-c", file, "SELECT 1")
    assert done.returncode == 2
    assert "use --database with one of d, e" in done.stderr


def test_recover_finishes_what_is_decided_and_names_the_rest(tmp_path: Path, make_databases: MakeDatabases) -> None:
    dsns = make_databases(2)
    file = config_of(tmp_path, dsns)
    assert pgchorus("init", "-c", file).returncode == 0
    assert pgchorus("recover", "-c", file).stdout == "d: nothing was left behind\n"
    orphan = "pgchorus:test:s0:01900000-0000-7000-8000-000000000000:s1"  # of 2024: nobody may abort it any more
    execute(dsns[1], f"BEGIN; CREATE TABLE t (); PREPARE TRANSACTION '{orphan}'")
    with psycopg.connect(dsns[1], autocommit=True) as connection:
        connection.execute("SELECT pg_sleep(1.1)")  # the orphan's age, by the shard's clock
    done = pgchorus("recover", "-c", file)
    assert done.returncode == 1
    assert f"d: for a person: {orphan.rpartition(':')[0]}: it is undecided and older" in done.stdout


class TestDoctor:
    @pytest.fixture
    def shards(self, make_databases: MakeDatabases) -> list[str]:
        dsns = make_databases(2)
        for dsn in dsns:
            execute(dsn, "CREATE TABLE items (id bigint PRIMARY KEY)", "CREATE TABLE kinds (k text PRIMARY KEY)")
        return dsns

    @pytest.fixture
    def file(self, tmp_path: Path, shards: list[str]) -> Path:
        file = config_of(tmp_path, shards)
        assert pgchorus("init", "-c", file).returncode == 0
        return file

    def test_all_is_well(self, file: Path) -> None:
        done = pgchorus("doctor", "-c", file)
        assert (done.returncode, done.stdout, done.stderr) == (0, "d: 2 shards, all is well\n", "")

    def test_before_init(self, tmp_path: Path, shards: list[str]) -> None:
        done = pgchorus("doctor", "-c", config_of(tmp_path, shards))
        assert done.returncode == 1
        assert done.stdout.splitlines() == [
            "d: error: shard s0 has no pgchorus schema",
            "d: error: shard s1 has no pgchorus schema",
        ]

    def test_rows_on_the_wrong_shard(self, file: Path, shards: list[str]) -> None:
        drop = "ALTER TABLE items DROP CONSTRAINT pgchorus_slot"
        for dsn in shards:
            execute(dsn, drop, "INSERT INTO items SELECT generate_series(1, 100)")
        done = pgchorus("doctor", "-c", file)
        assert done.returncode == 1
        counts = [int(line.split()[4]) for line in done.stdout.splitlines() if "belong to other shards" in line]
        assert len(counts) == 2
        assert sum(counts) == 100, "each row is on its own shard once, and once on the other"

    def test_drift(self, file: Path, shards: list[str]) -> None:
        execute(shards[0], "ALTER TABLE kinds ADD COLUMN more int")
        done = pgchorus("doctor", "-c", file)
        assert done.returncode == 1
        assert (
            "table public.kinds is not the same everywhere: s0 (k text not null default, more integer)" in done.stdout
        )

    def test_a_table_that_is_missing_on_one_shard(self, file: Path, shards: list[str]) -> None:
        execute(shards[1], "DROP TABLE kinds")
        done = pgchorus("doctor", "-c", file)
        assert done.returncode == 1
        assert "reference table public.kinds is missing on shard s1" in done.stdout

    def test_transactions_that_were_left_behind(self, file: Path, shards: list[str]) -> None:
        execute(shards[0], "BEGIN; CREATE TABLE t (); PREPARE TRANSACTION 'of somebody'")
        execute(
            shards[1],
            "BEGIN; CREATE TABLE t ();"
            " PREPARE TRANSACTION 'pgchorus:test:gone:01900000-0000-7000-8000-000000000000:s1'",
        )
        done = pgchorus("doctor", "-c", file)
        assert done.returncode == 1
        assert re.search(
            r"warning: shard s0: a transaction that is not ours, prepared \d+ s ago, holds locks", done.stdout
        )
        assert "its commit point is not a shard of this database" in done.stdout

    def test_users_that_are_no_roles(self, tmp_path: Path, shards: list[str]) -> None:
        users = {"postgres": "any", "nobody_at_all": "any"}
        file = config_of(tmp_path, shards, auth={"method": "scram-sha-256", "users": users})
        assert pgchorus("init", "-c", file).returncode == 0
        done = pgchorus("doctor", "-c", file)
        assert done.returncode == 1
        assert "error: shard s1: the configured user nobody_at_all is not a role" in done.stdout
        assert "nobody_at_all cannot log in" in done.stdout
        assert "user postgres" not in done.stdout

    def test_a_role_with_too_few_rights(self, tmp_path: Path, shards: list[str]) -> None:
        role = f"few_rights_{tmp_path.name}"[:60]
        for dsn in shards:
            execute(dsn, f'CREATE ROLE "{role}" LOGIN')
        try:
            weak = [dsn.replace("postgres@", f"{role}@") for dsn in shards]
            file = config_of(tmp_path, weak, auth={"method": "trust", "users": {"postgres": "any"}})
            done = pgchorus("doctor", "-c", file)
            assert done.returncode == 1
            assert f"shard s0: role {role} may not create the schema pgchorus" in done.stdout
            assert f"shard s0: role {role} needs the role pg_read_all_stats" in done.stdout
            assert f"role {role} could not finish commits of postgres" in done.stdout
        finally:
            for dsn in shards:
                execute(dsn, f'DROP ROLE "{role}"')


def test_serve_is_ready_when_it_says_so_and_ends_politely(
    make_databases: MakeDatabases, start_proxy: StartProxy
) -> None:
    proxy = start_proxy(make_databases(2), TABLES)
    database = proxy.config.read_text().split('"databases"')[1].split('"')[1]
    with psycopg.connect(proxy.dsn(database)) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    proxy.restart()
    with psycopg.connect(proxy.dsn(database)) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert proxy.stop() == 0
