"""A client that does not read makes the shards wait, whatever it is that it does not read: memory stays bounded."""

from __future__ import annotations

import socket
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from proxy.wire.frontend import CopyData, CopyDone, Query
from waiting import eventually
from wire_client import SYNC, WireClient, bind, execute, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Town

    Connect = Callable[..., WireClient]

MEBIBYTE = 1 << 20
NOTICES, NOTICE_BYTES = 40_000, 900  # 36 MB in all
MOST_BYTES = 12 * MEBIBYTE
TURNS = 20  # of another client, in which the proxy could have read all of it
LOUD = f"begin for i in 1..{NOTICES} loop raise notice '%', repeat('n', {NOTICE_BYTES}); end loop;"
WAITS = """
    select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()
    and state = 'active' and wait_event = 'ClientWrite'
"""


def loud(name: str, returns: str, value: str) -> str:
    return f"create or replace function {name} returns {returns} language plpgsql as $${LOUD} return {value}; end$$"


@pytest.fixture
def slow(any_town: Town, connect: Connect) -> WireClient:
    client = connect(any_town.dsn)
    client.query(loud("loud(k bigint)", "bigint", "k"))
    client.query("insert into notes (k, v) values " + ", ".join(f"({key}, 'x')" for key in range(1, 13)))
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    return client


def resident_bytes(town: Town) -> int:
    return int(Path(f"/proc/{town.process.pid}/statm").read_text().split()[1]) * 4096


def stands_still(town: Town, other: WireClient) -> None:
    """Wait until a shard waits for the client, and goes on waiting while the proxy works."""

    def waits() -> bool:
        assert other.query("select 1")[-1] == ("ready", "I")
        return any(town.everywhere(WAITS))

    eventually(lambda: all(waits() for _ in range(TURNS)), "no shard waits for the client")


STATEMENTS = [
    f"do $${LOUD} end$$",
    "select k, loud(k) from notes order by k limit 2",
    "select loud(k) from notes where k = 3",
    "select max(loud(k)) from notes where k in (1, 2, 3, 4, 5)",
    "select count(*) from notes a join notes b on a.v = b.v where loud(a.k) < 3 and a.k < 5",
    "copy (select loud(k) from notes where k < 7) to stdout",
    "update notes set n = loud(k) where k < 7",
]


@pytest.mark.parametrize("statement", STATEMENTS)
@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
def test_notices_wait_for_their_client(
    any_town: Town, connect: Connect, slow: WireClient, statement: str, *, extended: bool
) -> None:
    other = connect(any_town.dsn)
    before = resident_bytes(any_town)
    slow.send(*((parse(statement), bind(), execute(), SYNC) if extended else (Query(statement.encode()),)))
    stands_still(any_town, other)
    assert resident_bytes(any_town) - before < MOST_BYTES
    slow.vanish()


@pytest.fixture
def _loud_rows(any_town: Town, slow: WireClient) -> Iterator[None]:
    """Rows of a table make notices when they are written."""
    slow.query(loud("loudly()", "trigger", "new"))
    slow.query("create trigger loudly before insert on notes for each row execute function loudly()")
    yield
    with closing(WireClient(any_town.dsn)) as other:
        other.query("drop trigger loudly on notes")


@pytest.mark.usefixtures("_loud_rows")
def test_notices_of_a_copy_wait_for_their_client(any_town: Town, connect: Connect, slow: WireClient) -> None:
    other = connect(any_town.dsn)
    before = resident_bytes(any_town)
    rows = b"".join(b"%d\tx\n" % key for key in range(21, 33))
    slow.send(Query(b"copy notes (k, v) from stdin"), CopyData(rows), CopyDone())
    stands_still(any_town, other)
    assert resident_bytes(any_town) - before < MOST_BYTES
    slow.vanish()


def test_notices_of_a_cursor_wait_for_their_client(any_town: Town, connect: Connect, slow: WireClient) -> None:
    other = connect(any_town.dsn)
    slow.query("begin")
    slow.query("declare c cursor for select loud(k) from notes")
    before = resident_bytes(any_town)
    slow.send(Query(b"fetch all from c"))
    stands_still(any_town, other)
    assert resident_bytes(any_town) - before < MOST_BYTES
    slow.vanish()


SPOKEN = 6_000
SPEAK = f"select count(pg_notify('news', repeat('x', 7900) || i)) from generate_series(1, {SPOKEN}) i"
LISTENS = WAITS.replace("active", "idle")


def test_notifications_wait_for_their_client(any_town: Town, connect: Connect) -> None:
    """As in Postgres, where they stay in the server's own queue."""
    listener = connect(any_town.dsn)
    listener.query("listen news")
    wait_and_are_heard(any_town, connect(any_town.dsn), listener, [])


def test_notifications_wait_for_the_end_of_a_block_on_other_shards(town: Town, connect: Connect) -> None:
    listener = connect(town.dsn)
    listener.query("listen news")
    listener.query("begin")
    listener.query(f"select v from notes where k = {town.spread[1]}")
    wait_and_are_heard(town, connect(town.dsn), listener, [Query(b"commit")])


def wait_and_are_heard(town: Town, other: WireClient, listener: WireClient, end: list[Query]) -> None:
    before = resident_bytes(town)
    town.on_shard(0, SPEAK)

    def waits() -> bool:
        assert other.query("select 1")[-1] == ("ready", "I")
        return bool(town.on_shard(0, LISTENS))

    eventually(lambda: all(waits() for _ in range(TURNS)), "the shard does not wait for the client")
    assert resident_bytes(town) - before < MOST_BYTES
    listener.send(*end)
    heard = []
    while len(heard) < SPOKEN:
        heard += [entry for entry in listener.read("A") if entry[0] == "notification"]
    assert [entry[1].rstrip(b"\0").rpartition(b"x")[2] for entry in heard] == [b"%d" % i for i in range(1, SPOKEN + 1)]


@pytest.mark.usefixtures("slow")  # which makes the function
def test_a_client_that_reads_late_gets_all_of_it(any_town: Town, connect: Connect) -> None:
    """Rows and notices in turn: each of them makes links wait, and both go on."""
    other, late = connect(any_town.dsn), connect(any_town.dsn)
    late.send(Query(b"select k, loud(k), repeat('r', 300000) from notes where k < 3"))
    stands_still(any_town, other)
    trace = late.read()
    assert sum(entry[0] == "notice" for entry in trace) == 2 * NOTICES
    assert sorted(int(entry[1][0]) for entry in trace if entry[0] == "row") == [1, 2]
    assert trace[-2:] == [("tag", "SELECT 2"), ("ready", "I")]
