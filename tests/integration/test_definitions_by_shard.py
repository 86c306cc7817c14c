"""Definitions that some shards have and others have not: each shard is told what it knows, and nothing is left over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from wire_client import Twins

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Town

    from wire_client import WireClient

INDEXES = "select count(*) from pg_class where relname = 'made_later'"


@pytest.fixture
def client(town: Town, connect: Callable[..., WireClient]) -> Iterator[WireClient]:
    found = connect(town.dsn)
    found.rows("create table at_home (id int primary key, up int constraint up_home references at_home deferrable)")
    found.rows("create table made (k int8 primary key, v text)")
    yield found
    found.query("rollback")
    found.rows("drop table at_home")
    found.rows("drop table made")


def test_an_index_that_was_made_concurrently_is_dropped_everywhere(client: WireClient, town: Town) -> None:
    client.rows("create index concurrently made_later on made (v)")
    assert town.everywhere(INDEXES) == [[(1,)]] * 3
    client.rows("drop index concurrently made_later")
    assert town.everywhere(INDEXES) == [[(0,)]] * 3


def test_constraints_of_home_tables_are_set_at_home(client: WireClient, town: Town) -> None:
    first, second, third = town.spread
    client.rows("begin")
    client.rows(f"insert into notes values ({second}, 'x')")  # another shard has joined before home
    client.rows("set constraints up_home deferred")
    client.rows("insert into at_home values (1, 2)")
    client.rows("insert into at_home values (2, 1)")
    client.rows("set constraints up_home, children_parent immediate")
    client.rows("set constraints children_parent, up_home deferred")
    client.rows(f"insert into children values ({third}, 1)")
    client.rows(f"insert into parents values ({third}, 'p'), ({first}, 'p')")
    client.rows("commit")
    assert client.rows("select count(*) from at_home") == [("2",)]
    client.rows("begin")
    client.rows("set constraints up_home deferred")
    client.rows("insert into at_home values (3, 9)")
    assert client.query("set constraints up_home immediate")[0][1]["C"] == "23503"
    client.rows("rollback")


# --- CREATE TABLE AS, SELECT INTO ------------------------------------------------------------------------------------

COLUMNS = """select a.attname, format_type(a.atttypid, a.atttypmod), c.collname, r.relpersistence, r.reloptions
    from pg_attribute a join pg_class r on r.oid = a.attrelid left join pg_collation c on c.oid = a.attcollation
    where r.relname = '{}' and a.attnum > 0 order by a.attnum"""
GUARDED = "select count(*) from pg_constraint where conname = 'pgchorus_slot' and conrelid = 'made'::regclass"


@pytest.fixture
def filled(town: Town, connect: Callable[..., WireClient]) -> Iterator[Twins]:
    twins = Twins(connect(town.one), connect(town.dsn))
    twins.query("insert into notes select g, 'v' || g, g % 5 from generate_series(1, 30) g")
    twins.query("insert into words select 'w' || g, g from generate_series(1, 30) g")
    twins.query("insert into plain values (1, 'one'), (2, 'two'), (3, 'three')")
    twins.query("insert into kinds values (1, 'kind')")
    yield twins
    twins.query("rollback")
    for name in ("made", "codes", "at_home"):
        twins.query(f"drop table if exists {name}")


MADE = (
    "create table made as select k, v::varchar(20) collate \"C\" as v, n::numeric(8, 2), 'x' as lit from notes",
    "create table made (k, w) as select n.k, p.v from notes n join plain p on p.id = n.n where n.k < 20 with data",
    "create unlogged table made with (fillfactor = 70) as select n as k, count(*), max(v) from notes group by n",
    "create table made as select n::int8 as k, word from words order by word",
    "create table made (k, v) using heap as values (1, 'a'), (2, 'b'), (3, null)",
    "select k, v into made from notes where k > 7",
    "create table made (k) as with few as (select * from plain) select id::int8, v, now() = now() from few",
    "create table made as table notes with no data",
)


def test_a_sharded_table_is_made_from_a_query(filled: Twins, town: Town) -> None:
    for text in MADE:
        filled.query(text)
        everything = "select made::text from made order by 1"
        assert filled.one.rows(everything) == filled.proxy.rows(everything)
        filled.query(COLUMNS.format("made"))
        assert town.everywhere(COLUMNS.format("made")) == [town.on_shard(0, COLUMNS.format("made"))] * 3
        assert town.everywhere(GUARDED) == [[(1,)]] * 3
        filled.query("create table if not exists made as select 1 as k")
        filled.query("create table made as select k from notes")
        filled.query("drop table made")


def test_reference_home_and_temporary_tables_are_made_from_sharded_ones(filled: Twins, town: Town) -> None:
    filled.query("create table codes as select k as id, v from notes where n = 2")
    assert town.everywhere("select count(*) from codes") == [[(6,)]] * 3
    filled.query("create table at_home as select n, count(*), now() > '2020-01-01' as late from notes group by n")
    filled.query("select * from at_home order by 1")
    filled.query("begin")
    filled.query("create temp table mine on commit drop as select now() as t, k from notes where k < 9")
    filled.query("select count(*), bool_and(t = now()) from mine")
    filled.query("insert into notes values (100, 'own', 1)")
    filled.query("savepoint one")
    filled.query("select count(*) as c into made_in_block from notes")
    filled.query("select * from made_in_block")
    filled.query("rollback to one")
    filled.query("select * from made_in_block")
    filled.query("rollback")
    filled.query("create temp table mine as select * from words where n < 4")
    filled.query("select count(*) from mine")
    filled.query("drop table mine")


def test_what_is_wrong_with_the_query_is_said_with_its_place(filled: Twins) -> None:
    filled.query("select 1; create table made as select nosuch from notes")
    filled.query("create table made as select k, k from notes")
    filled.query("create table made as select k, 1 / (k - 5) as z from notes")
    filled.query("create table notes as select k, nosuch from notes")
    filled.query("create table notes as select k from notes")
    filled.query("select count(*) from made")


def test_a_sharded_table_needs_its_key(client: WireClient, town: Town) -> None:
    client.rows("drop table made")
    for text, message in (
        ("create table made as select v from notes", "public.made has no column k, its sharding key"),
        ("create table made as select n::numeric as k from notes", 'table public.made cannot be sharded by "k"'),
    ):
        trace = client.query(text)
        assert (trace[0][1]["C"], trace[0][1]["M"]) == ("0A000", message)
        assert town.everywhere("select to_regclass('made')") == [[(None,)]] * 3
    client.rows("create table made (k int8 primary key)")
