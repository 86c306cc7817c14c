"""AND CHAIN: what has ended is told as it ended, whatever befalls the block that begins behind it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

import psycopg
import pytest

from fault_wire import Fault, Wires
from waiting import eventually
from wire_client import WireClient

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import MakeDatabases, StartProxy

Connect = Callable[[], WireClient]

COMMIT = "(?s)^Q....COMMIT\\x00$"
ROLLBACK = "(?s)^Q....ROLLBACK\\x00$"
NOTHING = "(?s)^Q....\\x00$"  # an empty statement, which a late cancel may hit
BEGIN = "(?s)^Q....BEGIN\\x00$"
IN_A_BLOCK = ("ready", "T")
LOCKED = "SELECT FROM pg_locks WHERE NOT granted AND relation = 'pg_settings'::regclass"


@pytest.fixture(scope="module")
def module_wire(make_module_databases: MakeDatabases) -> Iterator[Wires]:
    """A wire before one shard."""
    with Wires(make_module_databases(1, "chains")) as made:
        yield made


@pytest.fixture(scope="module")
def proxy(module_wire: Wires, start_module_proxy: StartProxy) -> str:
    """A proxy with a single link to a shard, for which nobody waits for long."""
    limits = {"pool": {"size": 1, "wait_timeout_s": 1}}
    process = start_module_proxy(module_wire.dsns, {"t": {"key": "k"}}, limits=limits)
    dsn = process.dsn(module_wire.dsns[0].rpartition("/")[2])
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (k int8 PRIMARY KEY, v int8)")
    return dsn


@pytest.fixture
def wire(module_wire: Wires) -> Iterator[Wires]:
    yield module_wire
    module_wire.calm()


@pytest.fixture
def connect(proxy: str, wire: Wires) -> Iterator[Connect]:
    assert wire
    with ExitStack() as stack:
        yield lambda: stack.enter_context(closing(WireClient(proxy)))


def written(wire: Wires) -> list[tuple[int]]:
    with psycopg.connect(wire.direct[0]) as direct:
        return direct.execute("DELETE FROM t RETURNING v").fetchall()


@pytest.mark.parametrize(
    ("text", "ends", "rows"), [("commit and chain", COMMIT, [(1,)]), ("rollback and chain", ROLLBACK, [])]
)
def test_a_cancel_that_comes_behind_it(wire: Wires, connect: Connect, text: str, ends: str, rows: object) -> None:
    """As in Postgres it is too late; nor does it hit what the block runs."""
    client = connect()
    client.query("begin; insert into t values (1, 1)")
    ended = wire.rule(ends, Fault.HOLD_ANSWER)
    client.send(b"Q" + (5 + len(text)).to_bytes(4, "big") + text.encode() + b"\0")
    ended.wait()
    client.cancel()
    washed = wire.rule(NOTHING, Fault.HOLD_MESSAGE)
    ended.release()
    washed.wait()
    client.cancel()
    washed.release()
    assert client.read() == [("tag", text.split(maxsplit=1)[0].upper()), IN_A_BLOCK]
    assert client.rows("select 1") == [("1",)]
    assert client.query("rollback")[-1] == ("ready", "I")
    assert written(wire) == rows


def test_no_link_for_the_next_block(wire: Wires, connect: Connect) -> None:
    """It begins with its first statement then."""
    client = connect()
    client.query("begin; insert into t values (1, 1)")
    ended = wire.rule(ROLLBACK, Fault.HOLD_ANSWER)
    client.send(b"Q\0\0\0\x17rollback and chain\0")
    ended.wait()
    client.cancel()
    washed = wire.rule(NOTHING, Fault.HOLD_MESSAGE)
    ended.release()
    washed.wait()
    assert client.read() == [("tag", "ROLLBACK"), IN_A_BLOCK]
    washed.release()
    client.query("insert into t values (2, 2)")
    assert written(wire) == []
    assert client.query("commit") == [("tag", "COMMIT"), ("ready", "I")]
    assert written(wire) == [(2,)]


@pytest.mark.parametrize("fault", [Fault.CUT_MESSAGE, Fault.CUT_ANSWER])
def test_a_link_that_is_lost_where_the_next_block_begins(wire: Wires, connect: Connect, fault: Fault) -> None:
    client = connect()
    client.query("begin; insert into t values (1, 1)")
    rule = wire.rule(BEGIN, fault)
    assert client.query("commit and chain") == [("tag", "COMMIT"), IN_A_BLOCK]
    rule.wait()
    client.query("insert into t values (2, 2)")
    assert client.query("rollback") == [("tag", "ROLLBACK"), ("ready", "I")]
    assert written(wire) == [(1,)]


@pytest.mark.parametrize("fault", [Fault.CUT_MESSAGE, Fault.CUT_ANSWER])
def test_a_begin_whose_link_is_lost(wire: Wires, connect: Connect, fault: Fault) -> None:
    """The block begins with its first statement: who does not look at each answer must not commit one by one."""
    client = connect()
    rule = wire.rule(BEGIN, fault)
    assert client.query("begin") == [("tag", "BEGIN"), IN_A_BLOCK]
    rule.wait()
    client.query("insert into t values (1, 1)")
    assert written(wire) == []
    assert client.query("rollback") == [("tag", "ROLLBACK"), ("ready", "I")]
    assert written(wire) == []


def test_a_begin_that_finds_no_link(wire: Wires, connect: Connect) -> None:
    other, client = connect(), connect()
    other.query("begin; select 1")
    assert client.query("begin isolation level serializable") == [("tag", "BEGIN"), IN_A_BLOCK]
    failed = client.query("insert into t values (1, 1)")
    assert failed[0][1]["C"] == "53300"
    assert failed[-1] == ("ready", "E")
    other.query("rollback")
    assert client.query("insert into t values (2, 2)")[-1] == ("ready", "E")
    assert client.query("rollback") == [("tag", "ROLLBACK"), ("ready", "I")]
    assert written(wire) == []
    assert client.query("begin isolation level serializable")[-1] == IN_A_BLOCK
    assert client.rows("show transaction_isolation") == [("serializable",)]
    client.query("rollback")


def test_a_begin_that_is_cancelled_leaves_no_block(wire: Wires, connect: Connect) -> None:
    """As in Postgres: here it waits for a link."""
    other, client = connect(), connect()
    other.query("begin; select 1")
    client.send(b"Q\0\0\0\x0abegin\0")
    client.cancel()
    trace = client.read()
    assert trace[0][1]["C"] == "57014"
    assert trace[-1] == ("ready", "I")
    other.query("rollback")
    client.query("insert into t values (2, 2)")
    assert written(wire) == [(2,)]


def test_a_cancel_while_it_is_asked_what_a_commit_has_set(
    make_module_databases: MakeDatabases, start_module_proxy: StartProxy
) -> None:
    """Over several shards, where functions have set something: what is committed is not told as cancelled."""
    with Wires(make_module_databases(2, "asked")) as wires:
        process = start_module_proxy(wires.dsns, {"t": {"key": "k"}})
        with closing(WireClient(process.dsn(wires.dsns[0].rpartition("/")[2]))) as client:
            client.query("create table plain (v int8)")
            client.query(
                "create function sets() returns int language plpgsql as"
                " $$ begin perform set_config('work_mem', '7MB', false); return 1; end $$"
            )
            for _ in range(2):
                assert client.query("begin; insert into plain values (1); select sets()")[-1] == IN_A_BLOCK
                ended = wires.rule("COMMIT", Fault.HOLD_ANSWER)
                client.send(b"Q\0\0\0\x0bcommit\0")
                ended.wait()
                with psycopg.connect(wires.direct[0]) as direct, psycopg.connect(wires.direct[0]) as looks:
                    looks.autocommit = True
                    direct.execute("LOCK TABLE pg_settings")
                    ended.release()
                    eventually(lambda looks=looks: looks.execute(LOCKED).fetchall())  # type: ignore[misc]
                    client.cancel()
                    direct.rollback()
                assert client.read()[-2:] == [("tag", "COMMIT"), ("ready", "I")]
                assert client.rows("show work_mem") == [("7MB",)]
                client.query("reset work_mem")
            assert client.rows("select count(*) from plain") == [("2",)]
