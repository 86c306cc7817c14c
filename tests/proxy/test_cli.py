"""The commands as they are typed: output and exit status."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

import psycopg
import pytest

from proxy.demo.embedded import free_port
from proxy_process import ProxyProcess, write_config

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.conftest import MakeDatabases, StartProxy

TABLES = {"items": {"key": "id"}, "kinds": "reference"}


def pgchorus(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, in a fork of a process that has imported it: most of a second less for each."""
    program = ("-m", "proxy", "--log-level", "warning", *map(str, arguments))
    assert ProxyProcess.start_from is not None
    with TemporaryFile("w+") as errors:
        running = ProxyProcess.start_from.start(program, errors)
        with running.stdout:
            said = running.stdout.read()
        status = running.wait(60)
        errors.seek(0)
        return subprocess.CompletedProcess(program, status, said, errors.read())


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
    """As it is typed: a process of its own."""
    done = subprocess.run([sys.executable, "-m", "proxy", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == pgchorus("--version").stdout
    assert done.stdout.startswith("pgchorus 0.")


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
    assert done.stdout.startswith("error: shard-unreachable: a shard cannot be asked; ")
    assert "d s0: could not connect to shard" in done.stdout
    assert "d: 2 shards: 2 errors (0 rows" in done.stdout.splitlines()[-1]


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
    """What it finds is in tests/proxy/doctor; here: how it is said."""

    @pytest.fixture
    def file(self, tmp_path: Path, make_databases: MakeDatabases) -> Path:
        dsns = make_databases(2)
        for dsn in dsns:
            execute(dsn, "CREATE TABLE items (id bigint PRIMARY KEY)", "CREATE TABLE kinds (k text PRIMARY KEY)")
        return config_of(tmp_path, dsns)

    def test_people_are_told_the_worst_first_and_a_summary_at_the_end(self, file: Path) -> None:
        done = pgchorus("doctor", "-c", file)
        assert done.returncode == 1, done.stderr
        lines = done.stdout.splitlines()
        assert lines[0].startswith("error: not-installed: a shard has no schema pgchorus; nothing can be committed")
        assert lines[1:5] == [
            "  d s0: no schema pgchorus",
            f"    $ pgchorus init -c {file}",
            "  d s1: no schema pgchorus",
            lines[4],
        ]
        severities = [line.partition(":")[0] for line in lines[:-1] if not line.startswith(" ")]
        assert severities == sorted(severities, key=["error", "warning", "note"].index)
        assert re.fullmatch(r"d: 2 shards: 2 errors, 2 warnings \(0 rows read in \d+\.\d s\)", lines[-1])

    def test_programs_are_told_everything_in_json(self, file: Path) -> None:
        assert pgchorus("init", "-c", file).returncode == 0
        done = pgchorus("doctor", "-c", file, "--json", "--fail-on", "warning")
        found = json.loads(done.stdout)
        assert all(line.startswith("pgchorus doctor: d: ") for line in done.stderr.splitlines()), "progress, if slow"
        assert done.returncode == 1
        assert found["status"] == 1
        assert found["summary"] == {"errors": 0, "warnings": 2, "notes": 0}
        first = found["findings"][0]
        assert (first["id"], first["severity"], first["shards"]) == ("fsync-off", "warning", ["s0"])
        assert first["mend"][0] == {"on": "s0", "run": "ALTER SYSTEM SET fsync = on"}
        assert pgchorus("doctor", "-c", file, "--no-rows").returncode == 0
        assert pgchorus("doctor", "-c", file, "--database", "x").returncode == 2


def test_check_in_json(tmp_path: Path) -> None:
    file = tmp_path / "pgchorus.yaml"
    file.write_text("cluster: x\nworkers: 0\nauth: {method: trust}\ndatabases: {}\n")
    done = pgchorus("check", "-c", file, "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["status"], done.stderr) == (2, 2, "")
    assert [one["object"] for one in found["findings"]] == [f"{file}:2: workers", f"{file}:4: databases"]


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
