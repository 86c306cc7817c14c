"""currval and lastval over one shard: of the session's own nextval, whichever link it ran on, or an error."""

from __future__ import annotations

from contextlib import closing
from itertools import count
from typing import TYPE_CHECKING

import psycopg
import pytest

from wire_client import SYNC, WireClient, bind, execute, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Town

    from wire_client import Trace

    Join = Callable[[], WireClient]

MADE = (
    "create table logs (id serial, v text)",
    "create table marks (id int generated always as identity, v text)",
    "create sequence own start 1000",
    """create function note() returns trigger language plpgsql as
    $$ begin insert into marks (v) values ('by trigger'); return new; end $$""",
    "create table noted (v text)",
    "create trigger note after insert on noted for each row execute function note()",
    "create function newest() returns bigint language plpgsql as $$ begin return lastval(); end $$",
    """create function hidden(what text) returns bigint language plpgsql as
    $$ declare r bigint; begin execute what into r; return r; end $$""",
    "create view last_of_all as select lastval() as v",
)
NUMBERS = count()


@pytest.fixture(scope="module")
def made(_pair_town: Town) -> Town:
    with psycopg.connect(_pair_town.dsn, autocommit=True) as connection:
        for statement in MADE:
            connection.execute(statement.encode())
    return _pair_town


@pytest.fixture
def join(made: Town, pair_town: Town) -> Iterator[Join]:
    """Open clients of one role, which the proxy has never seen: two links, and nothing is known of what it asks."""
    role = f"asks_{next(NUMBERS)}_{pair_town.dsn.rpartition('/')[2]}"
    clients: list[WireClient] = []

    def connect() -> WireClient:
        clients.append(WireClient(pair_town.dsn, user=role))
        return clients[-1]

    with psycopg.connect(made.shards[0], autocommit=True) as admin:
        admin.execute(f"create role {role} superuser login".encode())
        with psycopg.connect(made.dsn, autocommit=True) as another:  # after DDL the proxy has seen who may log in
            another.execute("create table seen (a int); drop table seen")
        yield connect
        for client in clients:
            client.close()
        admin.execute("select pg_terminate_backend(pid, 10000) from pg_stat_activity where usename = %s", (role,))
        admin.execute(f"drop role {role}".encode())


def states(trace: Trace) -> list[str]:
    return [entry[1]["C"] for entry in trace if entry[0] == "error"]


ADVANCING = [
    "insert into logs (v) values ('x')",
    "insert into marks (v) select 'x' from generate_series(1, 3)",
    "insert into noted values ('x')",
    "with i as (insert into logs (v) values ('y') returning id) select 1 from i",
    "select nextval('own')",
    "update logs set id = default",
    "create table more as select nextval('own') as v; drop table more",
    "prepare p as insert into logs (v) values ('z'); execute p",
]
ASKING = [
    "select currval('logs_id_seq')",
    "select newest()",
    "select v from last_of_all",
    "select hidden('select lastval()')",
    "select 1; select lastval()",
    "prepare p as select lastval(); execute p",
]


@pytest.mark.parametrize(
    ("advance", "ask"),
    [*((text, "select lastval()") for text in ADVANCING), *((ADVANCING[0], text) for text in ASKING)],
)
def test_nobody_is_told_of_values_of_others(join: Join, advance: str, ask: str) -> None:
    """The second gets the link of the first, and must not see what it has left there."""
    first, second = join(), join()
    first.query("insert into logs (v) values ('there is a row')")
    pid = first.rows("select pg_backend_pid()")
    assert not states(first.query(advance))
    assert second.rows("select pg_backend_pid()") == pid
    assert states(second.query(ask)) == ["55000"]


def test_nobody_is_told_of_values_of_others_in_the_extended_protocol(join: Join) -> None:
    first, second = join(), join()
    first.ask(parse("insert into logs (v) values ($1)"), bind(b"x"), execute(), SYNC)
    assert states(second.ask(parse("select lastval()"), bind(), execute(), SYNC)) == ["55000"]


def test_values_of_a_transaction(join: Join) -> None:
    client = join()
    client.query("begin")
    ((inserted,),) = client.rows("insert into logs (v) values ('x') returning id")
    assert client.rows("select lastval(), currval('logs_id_seq')") == [(inserted, inserted)]
    client.query("rollback")
    assert client.rows("select lastval()") == [(inserted,)]


def test_values_between_transactions(join: Join) -> None:
    """Two sessions that take turns: while there is a link for each, each has its own values."""
    one, other = join(), join()
    with closing(join()) as third:
        third.query("begin; select 1")
        one.query("begin; select 1")
        third.query("rollback")
        one.query("rollback")
    for _ in range(3):
        for client in (one, other):
            ((inserted,),) = client.rows("insert into logs (v) values ('x') returning id")
            assert client.rows("select lastval()") == [(inserted,)]
            assert client.rows("select currval('logs_id_seq')") == [(inserted,)]


def test_values_that_were_lost_are_an_error_once_and_then_kept(join: Join) -> None:
    one, other = join(), join()
    one.query("insert into logs (v) values ('x')")
    other.query("insert into logs (v) values ('x')")  # on the same link
    lost = one.query("select lastval()")
    assert states(lost) == ["0A000"]
    assert "RETURNING" in lost[0][1]["H"]
    ((mine,),) = one.rows("insert into logs (v) values ('x') returning id")
    ((others,),) = other.rows("insert into logs (v) values ('x') returning id")
    for _ in range(2):
        assert one.rows("select lastval()") == [(mine,)]
        assert other.rows("select lastval()") == [(others,)]
    assert mine != others


def test_who_never_asks_shares_links(join: Join) -> None:
    clients = [join() for _ in range(5)]
    for _ in range(3):
        for client in clients:
            assert not states(client.query("insert into logs (v) values ('x')"))
    clients[0].query("begin; insert into logs (v) values ('x')")
    clients[1].query("begin; insert into logs (v) values ('x')")
    for client in clients[:2]:
        client.query("commit")
    assert not states(clients[4].query("insert into logs (v) values ('x')"))


@pytest.mark.parametrize("discard", ["discard sequences", "discard all"])
def test_discarded_values_are_gone(join: Join, discard: str) -> None:
    client = join()
    client.query("insert into logs (v) values ('x')")
    client.query(discard)
    assert states(client.query("select lastval()")) == ["55000"]
    ((inserted,),) = client.rows("insert into logs (v) values ('x') returning id")
    assert client.rows("select lastval()") == [(inserted,)]
    client.query(discard)
    assert states(client.query("select lastval()")) == ["55000"]


@pytest.mark.parametrize("seed", ["set seed = 0.25", "select setseed(0.25)"])
def test_a_random_seed_is_the_sessions_own(join: Join, seed: str) -> None:
    """What Postgres draws after it, statement by statement, while others use links in between."""
    one, other = join(), join()
    drawn = []
    for _ in range(2):
        assert not states(one.query(seed))
        numbers = []
        for _ in range(3):
            other.query("select random()")
            numbers += one.rows("select random()")
        drawn.append(numbers)
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 3
