"""DETACH PARTITION of sharded tables: what the configuration places becomes a table by itself, all else is refused."""

from __future__ import annotations

from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import yaml

from wire_client import Twins, WireClient, sqlstates

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy_process import ProxyProcess
    from tests.conftest import MakeDatabases, StartProxy

TABLES = {
    "events": {"key": "k"},
    "events_1": {"key": "k"},
    "events_2": {"key": "k"},
    "owners": {"key": "k"},
    "rates": "reference",
    "rates_1": "reference",
}
MAKE = (
    "create table owners (k int8 primary key)",
    """create table events (k int8 references owners, at int4, n serial, v text not null default 'x',
       id int8 generated always as identity, primary key (k, at)) partition by range (at)""",
    "create table events_1 partition of events for values from (0) to (10)",
    """create table events_2 partition of events for values from (10) to (30) partition by range (at)""",
    "create table events_2a partition of events_2 for values from (10) to (20)",
    "create table events_3 partition of events for values from (30) to (40)",
    "create index on events (v)",
    "create table rates (id int4, at int4, primary key (id, at)) partition by range (at)",
    "create table rates_1 partition of rates for values from (0) to (10)",
    "create table rates_2 partition of rates for values from (10) to (20)",
    "create table alone (at int4) partition by range (at)",
    "create table alone_1 partition of alone for values from (0) to (10)",
    "insert into owners select generate_series(1, 30)",
    "insert into events (k, at) select k, a from generate_series(1, 30) k, (values (1), (15), (35)) v(a) order by 1, 2",
    "insert into rates values (1, 5), (1, 15), (2, 5)",
)
LOOK = (
    "select k, at, v from events order by 1, 2",
    "select k, at, v from events_1 order by 1, 2",
    "select count(*), sum(k) from events_2",
    "select count(*), min(k) from events_2a where k < 20",
    "select * from rates order by 1, 2",
    "select * from rates_1 order by 1, 2",
    "select e.k, o.k from events_1 e join owners o using (k) where e.at < 5 order by 1",
    "select conname from pg_constraint where conrelid = 'events_1'::regclass and conname <> 'pgchorus_slot' order by 1",
    "select indexrelid::regclass::text from pg_index where indrelid = 'events_1'::regclass order by 1",
)
DETACH = "alter table events detach partition events_1"
PARTITION = "create table events_1 partition of events"
AGAIN = "alter table events attach partition events_1 for values from (0) to (10)"
DETACHES = (
    DETACH,
    "alter table public.events detach partition public.events_2",
    "alter table rates detach partition rates_1",
)
BLOCKS = (
    f"begin; {DETACH}; insert into events_1 (k, at, n, id) values (5, 7, 1, 1); commit",
    f"begin; {DETACH}; drop table events_1; rollback",
    f"begin; {DETACH}; drop table events_1; {PARTITION} for values from (0) to (10); commit",
    f"begin; {DETACH}; {AGAIN}; commit",
)
REFUSED = {
    "alter table events detach partition events_3": "public.events_3: {key: k}",
    "alter table rates detach partition rates_2": "public.rates_2: reference",
    "alter table events_2 detach partition events_2a": "public.events_2a: {key: k}",
    "alter table events detach partition events_1 concurrently": "without CONCURRENTLY",
    "alter table events detach partition events_1 finalize": "without CONCURRENTLY",
}
WRONG = (
    "alter table events detach partition nope",
    "alter table events detach partition events_2a",
    "alter table owners detach partition events_1",
    "alter table alone detach partition events_1",
)


class Place:
    """A proxy over three shards, and one Postgres."""

    def __init__(self, process: ProxyProcess, one: str, shards: list[str]) -> None:
        self.process, self.one, self.shards = process, one, shards
        self.dsn = process.dsn(shards[0].rpartition("/")[2])
        self.twins = Twins(WireClient(one), WireClient(self.dsn))

    def everywhere(self, query: str) -> list[list[tuple[Any, ...]]]:
        found = []
        for dsn in self.shards:
            with psycopg.connect(dsn, autocommit=True) as shard:
                found.append(shard.execute(query.encode()).fetchall())
        return found

    def look(self) -> None:
        for query in LOOK:
            self.twins.query(query)

    def reload(self, **tables: Any) -> str:
        """Place tables otherwise (None: not at all); return what is said against it."""
        content = yaml.safe_load(self.process.config.read_text())
        placed = content["databases"][self.dsn.rpartition("/")[2]]["tables"]
        placed.update(tables)
        for name in [name for name, how in placed.items() if how is None]:
            del placed[name]
        self.process.config.write_text(yaml.safe_dump(content))
        with psycopg.connect(self.process.dsn("pgchorus"), autocommit=True) as console:
            try:
                console.execute("RELOAD", prepare=False)
            except psycopg.Error as error:
                return error.diag.message_primary or "?"
        return ""


@contextmanager
def made(shards: list[str], one: str, start: StartProxy) -> Iterator[Place]:
    process = start(shards, TABLES, console={"admins": "postgres"})
    found = Place(process, one, shards)
    with closing(found.twins):
        for statement in MAKE:
            assert not sqlstates(found.twins.query(statement)), statement
        yield found


@pytest.fixture
def place(make_databases: MakeDatabases, start_proxy: StartProxy) -> Iterator[Place]:
    with made(make_databases(3, "parts"), make_databases(1, "one")[0], start_proxy) as found:
        yield found


@pytest.fixture(scope="module")
def standing(make_module_databases: MakeDatabases, start_module_proxy: StartProxy) -> Iterator[Place]:
    """A place for tests that leave it as it was."""
    with made(make_module_databases(3, "parts"), make_module_databases(1, "one")[0], start_module_proxy) as found:
        yield found


def test_a_partition_that_is_placed_is_a_table_by_itself(place: Place) -> None:
    for text in DETACHES:
        assert not sqlstates(place.twins.query(text))
        place.look()
    for text in (
        "insert into events (k, at) values (1, 2)",  # no partition for it any more
        "insert into events_1 (k, at, id) values (31, 3, 1)",  # no owner
        "insert into events_1 (k, at, id) values (1, 1, 1)",  # there is one
        "insert into events_1 (k, at) values (1, 3)",  # identity is the parent's
        "insert into events_1 (k, at, id) select k, 99, 1 from owners",
        "update events_1 set v = 'changed' where at = 99",
        "delete from events_1 where k between 5 and 9",
        "insert into rates_1 values (9, 9)",
    ):
        place.twins.query(text)
        place.look()
    found = place.everywhere("select k from events_1")
    assert all(found)
    (owners,) = {tuple(sorted(k for rows in place.everywhere("select k from owners") for (k,) in rows))}
    assert owners == tuple(range(1, 31))
    assert place.everywhere("select * from rates_1 order by 1") == [[(1, 5), (2, 5), (9, 9)]] * 3
    kept = place.everywhere("select convalidated from pg_constraint where conname = 'pgchorus_slot' and conislocal"
                            " and conrelid = 'events_1'::regclass")  # fmt: skip
    assert kept == [[(True,)]] * 3
    assert "public.events_1 is sharded by k and would be on the home shard" in place.reload(events_1=None)


def test_it_can_be_attached_again(place: Place) -> None:
    for text in (DETACH, "insert into events_1 (k, at, n, id) values (5, 7, 1, 1)", AGAIN):
        assert not sqlstates(place.twins.query(text))
        place.look()
    place.twins.query(DETACH)
    place.twins.query("insert into events_1 (k, at, n, id) values (6, 70, 1, 1)")
    assert sqlstates(place.twins.query(AGAIN)) == ["23514"]
    place.look()
    place.twins.query("drop table events_1")
    place.twins.query("create table events_1 partition of events for values from (0) to (10)")
    place.twins.query("insert into events (k, at) values (7, 7)")
    place.look()


@pytest.mark.parametrize("text", BLOCKS)
def test_in_a_block(place: Place, text: str) -> None:
    assert not sqlstates(place.twins.query(text))
    place.look()


def test_what_is_not_placed_is_refused_with_what_to_write(standing: Place) -> None:
    before = standing.everywhere("select count(*) from pg_inherits")
    for text, hint in REFUSED.items():
        errors = [entry[1] for entry in standing.twins.proxy.query(text) if entry[0] == "error"]
        assert [error["C"] for error in errors] == ["0A000"], text
        assert hint in errors[0]["H"], errors
    assert standing.everywhere("select count(*) from pg_inherits") == before
    standing.look()


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_partition(standing: Place, text: str) -> None:
    standing.twins.proxy.query("select 1")
    found = [
        [entry for entry in client.query(text) if entry[0] == "error"]
        for client in (standing.twins.one, standing.twins.proxy)
    ]
    assert found[0]
    assert found[1] == found[0] or found[1][0][1]["C"] == "0A000"
    standing.look()


def test_home_tables_are_postgres_business(standing: Place) -> None:
    standing.twins.query("alter table alone detach partition alone_1 concurrently")
    standing.twins.query("select * from alone_1")
    standing.twins.query("alter table alone attach partition alone_1 for values from (0) to (10)")
    standing.look()


def test_a_partition_is_named_while_it_has_rows(place: Place) -> None:
    """As the hint says: it is placed as it was, so nothing moves. Its name may go while it is attached."""
    assert "public.events_3 is on the home shard and would be sharded by at" in place.reload(events_3={"key": "at"})
    assert "public.events_3 is on the home shard and would be a reference" in place.reload(events_3="reference")
    assert place.reload(events_3={"key": "k"}) == ""
    for text in (
        "alter table events detach partition events_3",
        "select count(*), min(k), max(k) from events_3",
        "insert into events_3 (k, at, id) values (3, 99, 1) returning n",
        "select count(*) from events",
        "delete from events_3 where at = 99",
        "alter table events attach partition events_3 for values from (30) to (40)",
    ):
        assert not sqlstates(place.twins.query(text)), text
    assert place.reload(events_3=None) == ""
    assert sqlstates(place.twins.proxy.query("alter table events detach partition events_3")) == ["0A000"]
    place.look()


def test_a_start_takes_it_too(place: Place, start_proxy: StartProxy) -> None:
    """Whether it is named there for the first time or has been before."""
    place.twins.close()
    place.process.stop()
    tables = {**TABLES, "events_3": {"key": "k"}}
    for detach in ("alter table events detach partition events_3", ""):
        named = start_proxy(place.shards, tables)
        with psycopg.connect(named.dsn(place.shards[0].rpartition("/")[2]), autocommit=True) as client:
            assert client.execute("select count(*) from events_3").fetchone() == (30,)
            client.execute(detach.encode())
            assert client.execute("select count(*) from events_3").fetchone() == (30,)
        named.stop()
