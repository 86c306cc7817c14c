"""DDL through one proxy is known to the others when its client hears of its end.

Each change would make the other proxy's next answer wrong if that went by the catalog from before: not an error, rows
that are missing.
"""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy_process import ProxyProcess
    from tests.conftest import MakeDatabases, StartProxy

KEYS = range(1, 13)  # on all shards
TABLES = {"spread": {"key": "k"}}
Client = psycopg.Connection[Any]


class Pair:
    """A client of each of two proxies."""

    def __init__(self, one: Client, other: Client, other_proxy: ProxyProcess) -> None:
        self.one = one
        self.other = other
        self.other_proxy = other_proxy


@pytest.fixture
def pair(make_databases: MakeDatabases, start_proxy: StartProxy) -> Iterator[Pair]:
    shards = make_databases(3)
    name = shards[0].rpartition("/")[2]
    with ExitStack() as stack:
        clients = []
        for _ in range(2):
            proxy = start_proxy(shards, TABLES)
            client = stack.enter_context(closing(psycopg.connect(proxy.dsn(name), autocommit=True)))
            client.prepare_threshold = None
            clients.append(client)
        values = ", ".join(f"({key})" for key in KEYS)
        clients[0].execute("CREATE TABLE spread (k int PRIMARY KEY)")
        clients[0].execute(f"INSERT INTO spread VALUES {values}".encode())
        clients[0].execute("CREATE TABLE at_home (k int PRIMARY KEY)")
        clients[0].execute("CREATE VIEW seen AS SELECT k FROM at_home")
        yield Pair(*clients, proxy)


def test_a_view_that_is_written_shows_the_key_under_another_name_now(pair: Pair) -> None:
    pair.one.execute("ALTER TABLE spread ADD COLUMN n int, ADD COLUMN v int")
    pair.one.execute(f"UPDATE spread SET n = {len(KEYS) + 1} - k".encode())
    pair.one.execute("CREATE VIEW written AS SELECT k AS a, n AS b, v FROM spread")
    for turn in range(4):
        for key in KEYS:
            changed = pair.other.execute(f"UPDATE written SET v = {turn} WHERE a = {key}".encode())
            assert changed.rowcount == 1, (turn, key)
        assert pair.one.execute("SELECT min(v), max(v) FROM spread").fetchone() == (turn, turn)
        names = "k AS a, n AS b" if turn % 2 else "n AS a, k AS b"
        pair.one.execute(f"DROP VIEW written; CREATE VIEW written AS SELECT {names}, v FROM spread".encode())


def test_a_view_that_is_another_one_now(pair: Pair) -> None:
    assert pair.other.execute("SELECT count(*) FROM seen").fetchone() == (0,)
    for _ in range(3):
        pair.one.execute("CREATE OR REPLACE VIEW seen AS SELECT k FROM spread")
        assert pair.other.execute("SELECT count(*) FROM seen").fetchone() == (len(KEYS),)
        with pair.one.transaction():
            pair.one.execute("CREATE OR REPLACE VIEW seen AS SELECT k FROM at_home")
        assert pair.other.execute("SELECT count(*) FROM seen").fetchone() == (0,)
    pair.one.execute("CREATE MATERIALIZED VIEW stored AS SELECT k FROM spread WITH NO DATA")
    pair.other.execute("REFRESH MATERIALIZED VIEW stored")
    assert pair.one.execute("SELECT count(*) FROM stored").fetchone() == (len(KEYS),)


def test_a_table_that_is_new(pair: Pair) -> None:
    for number in range(3):
        pair.one.execute(f"CREATE TABLE part_{number} () INHERITS (spread)".encode())
        pair.other.execute(f"INSERT INTO part_{number} VALUES {', '.join(f'({key})' for key in KEYS)}".encode())
        assert pair.one.execute(f"SELECT count(*) FROM part_{number}".encode()).fetchone() == (len(KEYS),)


def test_a_proxy_that_does_not_answer_is_not_waited_for_for_ever(pair: Pair) -> None:
    os.kill(pair.other_proxy.pid, signal.SIGSTOP)
    try:
        pair.one.execute("CREATE OR REPLACE VIEW seen AS SELECT k FROM spread")
    finally:
        os.kill(pair.other_proxy.pid, signal.SIGCONT)
    pair.one.execute("CREATE OR REPLACE VIEW seen AS SELECT k FROM at_home")
    pair.one.execute("CREATE OR REPLACE VIEW seen AS SELECT k FROM spread")
    assert pair.other.execute("SELECT count(*) FROM seen").fetchone() == (len(KEYS),)
