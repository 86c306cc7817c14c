"""What comes over the wire before and besides the protocol: wrong, half, lying; and who may enter."""

from __future__ import annotations

import random
import socket
from contextlib import closing
from struct import pack
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from proxy.wire.frames import frame
from proxy.wire.frontend import Query
from proxy.wire.startup import GSSENCRequest, SSLRequest, StartupMessage
from waiting import eventually
from wire_client import SYNC, ServerClosedError, WireClient, bind, connected, execute, parse, send_cancel

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import MakeDatabases, StartProxy, Town

    Connect = Callable[..., WireClient]

SEED = 20261122


def refusal(dsn: str, **startup: str) -> tuple[str, str]:
    """Log in, which must fail; return severity and SQLSTATE."""
    with pytest.raises(ServerClosedError) as closed:
        WireClient(dsn, **startup)
    error: dict[str, str] = closed.value.trace[-1][1]
    return error["S"], error["C"]


def alive(town: Town) -> bool:
    with connected(town.dsn) as client:
        return client.rows("select 1") == [("1",)]


# ---- the untyped beginning ----


def test_encryption_requests_are_answered_no_and_plain_goes_on(town: Town) -> None:
    client = WireClient(town.dsn, log_in=False)
    with closing(client):
        for request in (GSSENCRequest(), SSLRequest()):
            client.send(request)
            assert client.socket.recv(1) == b"N"
        assert client.log_in()[-1] == ("ready", "I")


def test_bytes_behind_an_ssl_request_are_not_taken_for_plain(town: Town) -> None:
    """What was sent before the answer could be somebody else's injection (CVE-2021-23214); Postgres refuses it."""
    answers = []
    for dsn in (town.one, town.dsn):
        with closing(WireClient(dsn, log_in=False)) as client:
            client.send(SSLRequest(), StartupMessage(3, 0, client.startup))
            answers.append(client.socket.recv(1))
    assert answers[1] in (answers[0], b"")


def test_start_up_byte_by_byte(town: Town) -> None:
    client = WireClient(town.dsn, log_in=False)
    with closing(client):
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in StartupMessage(3, 0, client.startup).encode() + Query(b"select 5").encode():
            client.send(bytes([byte]))
        assert client.read()[-1] == ("ready", "I")
        assert ("row", [b"5"]) in client.read()


@pytest.mark.parametrize(
    "data",
    [
        pack(">II", 8, 0x00020000),
        pack(">II", 7, 0x00030000),
        pack(">II", 0x7FFFFFFF, 0x00030000),
        pack(">II", 9, 0x00030000) + b"x",
        pack(">II", 13, 0x00030000) + b"user\0",
        pack(">II", 16, 80877102) + b"\0" * 8,
        pack(">II", 8, 80877102),
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 100,
        b"",
        b"\0",
    ],
)
def test_bad_beginnings_end_the_connection(town: Town, data: bytes) -> None:
    client = WireClient(town.dsn, log_in=False)
    with closing(client):
        client.send(data)
        client.socket.shutdown(socket.SHUT_WR)
        client.read_to_end()
    assert alive(town)


def test_unknown_minor_versions_are_negotiated(town: Town) -> None:
    for dsn in (town.one, town.dsn):
        client = WireClient(dsn, log_in=False)
        with closing(client):
            client.send(StartupMessage(3, 9, {**client.startup, "_pq_.nothing": "1"}))
            trace = client.read()
            assert trace[0][0] == "v"
            assert b"_pq_.nothing" in trace[0][1]
            assert trace[-1] == ("ready", "I")


def test_the_newest_protocol_has_long_cancel_keys(town: Town) -> None:
    client = WireClient(town.dsn, log_in=False)
    with closing(client):
        client.send(StartupMessage(3, 2, client.startup))
        client.read()
        assert len(client.key[1]) == 32


def test_random_bytes(town: Town) -> None:
    chance = random.Random(SEED)
    for _ in range(40):
        client = WireClient(town.dsn, log_in=False)
        with closing(client):
            client.send(chance.randbytes(chance.randrange(1, 200)))
            client.socket.shutdown(socket.SHUT_WR)
            client.read_to_end()
    assert alive(town)


# ---- messages ----


@pytest.mark.parametrize(
    "data",
    [
        b"z\0\0\0\4",
        b"\0\0\0\0\4",
        b"Q\0\0\0\3",
        b"Q\0\0\0\0",
        b"Q\xff\xff\xff\xff",
        b"p\0\0\0\4",
        b"Q\x7f\xff\xff\xff",
    ],
)
def test_what_is_no_message_ends_the_connection(town: Town, connect: Connect, data: bytes) -> None:
    traces = []
    for dsn in (town.one, town.dsn):
        client = connect(dsn)
        client.send(data)
        traces.append([(entry[0], entry[1]["S"], entry[1]["C"]) for entry in client.read_to_end()])
    # About a wrong length Postgres tells its log only.
    assert traces[1] in (traces[0], [("error", "FATAL", "08P01")])
    assert alive(town)


@pytest.mark.parametrize(
    "message",
    [
        frame(b"Q", b"select 1"),
        frame(b"Q", b"select 1\0select 2\0"),
        frame(b"Q", b""),
        frame(b"P", b"\0select 1\0"),
        frame(b"P", b"\0select 1\0\0\5\0\0\0\0"),
        frame(b"P", b"s"),
        frame(b"B", b"\0p\0\0\1"),
        frame(b"B", b"\0p\0" + pack(">HHI", 0, 1, 100) + b"x"),
        frame(b"B", b"\0p\0" + pack(">HHi", 0, 1, -5) + b"\0\0"),
        frame(b"D", b"X\0"),
        frame(b"D", b""),
        frame(b"E", b"\0\0"),
        frame(b"C", b"Q\0"),
        frame(b"S", b"more"),
        frame(b"H", b"more"),
        frame(b"Q", b"select '\xff\xfe'\0"),
        frame(b"P", b"\0select '\xff\xfe'\0\0\0"),
        frame(b"Q", b"select 'a\xc3'\0"),
    ],
)
def test_messages_that_lie_about_themselves(town: Town, connect: Connect, message: bytes) -> None:
    """Held against Postgres: an error and the session goes on, or the end of the connection."""
    outcomes = []
    for dsn in (town.one, town.dsn):
        client = connect(dsn)
        client.query("prepare p as select $1::text")
        client.send(message, SYNC, Query(b"select 5"))
        trace: list[Any] = []
        try:
            while ("row", [b"5"]) not in trace:
                trace += client.read()
        except ServerClosedError as closed:
            trace += closed.trace
        errors = [(entry[1]["S"], entry[1]["C"], entry[1]["M"]) for entry in trace if entry[0] == "error"]
        outcomes.append((errors, ("row", [b"5"]) in trace))
    assert outcomes[1] == outcomes[0]


def test_half_a_message_and_gone(town: Town, connect: Connect) -> None:
    client = connect(town.dsn)
    client.query("begin; insert into notes values (1, 'x')")
    client.send(Query(b"commit").encode()[:-2])
    client.vanish()
    eventually(lambda: not town.busy())
    assert town.stored() == []


def test_a_message_beyond_the_limit(make_databases: MakeDatabases, start_proxy: StartProxy) -> None:
    shards = make_databases(2, "small")
    proxy = start_proxy(shards, {}, limits={"message": {"max_bytes": 10_000}})
    with closing(WireClient(proxy.dsn(shards[0].rpartition("/")[2]))) as client:
        assert client.rows("select length('" + "x" * 9000 + "')") == [("9000",)]
        client.send(Query(b"select length('" + b"x" * 20_000 + b"')"))
        errors = [entry[1] for entry in client.read_to_end() if entry[0] == "error"]
        assert [error["S"] for error in errors] == ["FATAL"]


def test_a_long_query(town: Town, connect: Connect) -> None:
    client = connect(town.dsn)
    assert client.rows("select length('" + "x" * 3_000_000 + "')") == [("3000000",)]
    values = ", ".join(f"({key}, 'note')" for key in range(1, 5001))
    assert client.query("insert into notes values " + values)[0] == ("tag", "INSERT 0 5000")


# ---- cancel ----


def test_a_cancel_with_the_wrong_key_does_nothing(town: Town, connect: Connect) -> None:
    client = connect(town.dsn)
    pid, secret = client.key
    sleeping = "SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
    client.send(Query(b"select pg_sleep(30)"))
    eventually(lambda: any(town.everywhere(sleeping)))
    for wrong in ((pid, bytes(4)), (pid + 1, secret), (0, secret), (pid, secret + b"more"), (pid, b"")):
        if len(wrong[1]):
            send_cancel(client.address, *wrong)
    assert any(town.everywhere(sleeping))
    client.cancel()
    trace = client.read()
    assert [entry[1]["C"] for entry in trace if entry[0] == "error"] == ["57014"]


def test_a_cancel_that_comes_late_hits_nobody(town: Town, connect: Connect) -> None:
    client = connect(town.dsn)
    values = ", ".join(f"({key}, 'x')" for key in town.spread)
    client.query("insert into notes values " + values)
    for _ in range(20):
        client.cancel()
        assert client.rows("select count(*) from notes") == [("3",)]
        client.send(Query(b"select count(*) from notes"))
        client.cancel()
        assert client.read()[-1] == ("ready", "I")
        assert client.query("select 1")[1] == ("row", [b"1"])


def test_a_cancel_does_not_touch_a_commit(town: Town, connect: Connect) -> None:
    """Whatever a cancel that races with COMMIT does, the transaction is there entirely or not at all."""
    client = connect(town.dsn)
    a, b, c = town.spread
    for number in range(15):
        client.query(f"begin; insert into notes values ({a}, 'x'), ({b}, 'x'), ({c}, 'x')")
        client.send(Query(b"commit"))
        client.cancel()
        trace = client.read()
        there = len(town.stored())
        assert there == (3 if ("tag", "COMMIT") in trace else 0), (number, trace)
        client.query("rollback")
        client.query("delete from notes")


# ---- who may enter ----


def test_unknown_databases_and_odd_logins(town: Town) -> None:
    assert refusal(town.dsn + "_not") == ("FATAL", "3D000")
    assert refusal(town.dsn, user="nobody_of_that_name") == ("FATAL", "28000")
    assert refusal(town.dsn, user="") == ("FATAL", "28000")
    assert refusal(town.dsn, replication="database")[0] == "FATAL"
    assert refusal(town.dsn, client_encoding="MULE_INTERNAL")[0] == "FATAL"
    assert refusal(town.dsn, client_encoding="SJIS") == ("FATAL", "0A000")
    assert refusal(town.dsn, options="-c work_mem=much") == ("FATAL", "22023")
    assert refusal(town.dsn, options="--nonsense")[0] == "FATAL"
    assert refusal(town.dsn, timezone="Nowhere/At_All") == ("FATAL", "22023")
    assert alive(town)


def test_too_many_clients(make_databases: MakeDatabases, start_proxy: StartProxy) -> None:
    shards = make_databases(1, "full")
    dsn = start_proxy(shards, {}, limits={"clients": {"max": 3}}).dsn(shards[0].rpartition("/")[2])
    held = [WireClient(dsn) for _ in range(3)]
    assert refusal(dsn) == ("FATAL", "53300")
    held.pop().close()

    def enters() -> bool:
        try:
            WireClient(dsn).close()
        except ServerClosedError:
            return False
        return True

    eventually(enters)
    for client in held:
        client.close()


def scram_config(dsns: list[str], users: dict[str, str]) -> dict[str, Any]:
    assert dsns
    return {"auth": {"method": "scram-sha-256", "users": users}}


def test_scram(make_databases: MakeDatabases, start_proxy: StartProxy) -> None:
    shards = make_databases(2, "scram")
    proxy = start_proxy(shards, {}, **scram_config(shards, {"postgres": "right 'one'"}))
    database = shards[0].rpartition("/")[2]
    where = {"host": "127.0.0.1", "port": proxy.port, "dbname": database}
    with psycopg.connect(user="postgres", password="right 'one'", **where) as connection:
        assert connection.execute("select current_user").fetchone() == ("postgres",)
    messages = set()
    for user, password in (("postgres", "wrong"), ("nobody", "right 'one'"), ("postgres", "")):
        with pytest.raises(psycopg.OperationalError) as caught:
            psycopg.connect(user=user, password=password or "x", **where)
        messages.add(str(caught.value).replace(user, "USER").splitlines()[0])
    assert len(messages) == 1, "who is known must not be told from who is not"
    assert "password authentication failed" in messages.pop()
    with closing(WireClient(proxy.dsn(database), log_in=False)) as client:
        client.send(StartupMessage(3, 0, client.startup), Query(b"select 1"))
        trace = client.read_to_end()
        assert [entry[1]["S"] for entry in trace if entry[0] == "error"] == ["FATAL"]
        assert not [entry for entry in trace if entry[0] == "row"]


def test_another_encoding_comes_in_sight_alone(town: Town, connect: Connect) -> None:
    """What the client has sent meanwhile was read wrong: a key on the wrong shard, a literal ended by half a letter."""
    body = "select set_config('client_encoding', 'LATIN1', false)"
    town.direct(f"create function recode() returns text language sql as $$ {body} $$")
    client = connect(town.dsn)
    assert client.rows("select set_config('client_encoding', 'LATIN1', false)") == [("LATIN1",)]
    client.send(parse("select set_config('client_encoding', $1, false)"), bind(b"UTF8"), execute(), SYNC)
    assert not [entry for entry in client.read() if entry[0] == "error"]
    assert client.rows("select 'é'") == [("é",)]
    client.send(Query(b"select recode()"))
    errors = [entry[1] for entry in client.read_to_end() if entry[0] == "error"]
    assert [(error["S"], error["C"]) for error in errors[-1:]] in ([("FATAL", "0A000")], [("ERROR", "0A000")])
    with connected(town.dsn) as other:
        assert other.rows("select 'é'") == [("é",)]
    town.direct("drop function recode()")
