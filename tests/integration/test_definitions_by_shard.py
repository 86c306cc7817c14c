"""Definitions that some shards have and others have not: each shard is told what it knows, and nothing is left over."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from proxy.wire.frontend import Query
from waiting import eventually
from wire_client import FLUSH, SYNC, Twins, bind, describe, execute, parse

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


def test_an_index_that_is_on_some_shards_only_is_dropped_where_it_is(client: WireClient, town: Town) -> None:
    client.rows("insert into made select k, 'same' from generate_series(1, 40) k")
    client.rows("create unique index made_later on made (k)")
    with psycopg.connect(town.shards[-1], autocommit=True) as shard:
        shard.execute("drop index made_later")  # as CREATE INDEX CONCURRENTLY leaves it that fails there
    client.rows("drop index made_later")
    assert town.everywhere(INDEXES) == [[(0,)]] * 3
    assert client.query("drop index made_later")[0][1]["C"] == "42704"


def test_an_index_that_a_shard_would_not_make_is_dropped_concurrently(client: WireClient, town: Town) -> None:
    client.rows(f"insert into made values ({town.keys(0)[0]}, 'x'), ({town.keys(1)[0]}, '')")
    for if_exists in ("", "if exists "):
        made = client.query("create index concurrently made_later on made ((1 / length(v)))")
        assert made[0][1]["C"] == "22012"
        assert town.on_shard(2, INDEXES) == [(0,)]
        assert client.query(f"drop index concurrently {if_exists}made_later")[0] == ("tag", "DROP INDEX")
        assert town.everywhere(INDEXES) == [[(0,)]] * 3
    assert client.query("drop index concurrently made_later")[0][1]["C"] == "42704"


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


# --- what no shard is asked as it came --------------------------------------------------------------------------------

UNBOUND = (
    "select $1 from notes",
    "select 'é'; update kinds set name = $1",
    "update notes set v = $2",
    "select v from notes where k = $1",
    "select k from notes limit $1",
    "select k from notes where k = 1; select $1, k from notes where k = 2",
    "select $1 from nowhere",
)


@pytest.mark.parametrize("text", UNBOUND)
def test_a_simple_query_has_no_parameters(filled: Twins, text: str) -> None:
    filled.query(text)


def test_views_that_show_names_which_postgres_has_changed_are_refused(filled: Twins) -> None:
    whole = "select row_to_json(j) r from (notes a join kinds b on a.k = b.id join kinds c on b.id = c.id) j"
    filled.query(f"create view shown as {whole}")
    try:
        assert filled.proxy.query("select min(r::text) from shown")[0][1]["C"] == "0A000"
        assert filled.proxy.query(f"create materialized view stored as {whole}")[0][1]["C"] == "0A000"
        filled.query("create view alike as select row_to_json(a) r from (notes a join kinds b on a.k = b.id)")
        filled.query("select min(r::text) from alike")
    finally:
        filled.query("drop view if exists alike; drop view shown")


def test_what_was_prepared_by_definitions_of_a_block_goes_by_those_that_there_are(filled: Twins) -> None:
    """By those of the block the statement would be home's alone; and so are the rows that it would find there."""
    filled.query("create view seen as select k from notes")
    try:
        filled.query("begin")
        filled.query("create or replace view seen as select k from notes where false")
        filled.query("drop view seen; create view seen as select 1::int4 as k")
        filled.query("prepare by_sql as select count(*) from seen")
        filled.same(parse("select count(*) from seen", "by_name"), SYNC)
        filled.same(bind(statement="by_name"), execute(), SYNC)
        filled.query("rollback")
        filled.query("execute by_sql")
        filled.same(bind(statement="by_name"), execute(), SYNC)
    finally:
        filled.query("rollback; drop view seen")


def test_a_temporary_table_is_described_to_its_own_session_alone(
    town: Town, connect: Callable[..., WireClient]
) -> None:
    one, other, none = (connect(town.dsn) for _ in range(3))
    one.rows("create temp table own (a int4)")
    other.rows("create temp table own (a text, b int8)")
    ask = (parse("select * from own"), describe("S"), SYNC)
    for _ in range(2):
        assert [name for name, *_ in one.ask(*ask)[-2][1:]] == ["a"]
        assert [name for name, *_ in other.ask(*ask)[-2][1:]] == ["a", "b"]
        assert none.ask(*ask)[0][1]["C"] == "42P01"
    ran = (parse("select * from own"), describe("S"), bind(), execute(), SYNC)
    for begin in ("begin", "begin isolation level serializable"):
        one.rows(begin)
        assert one.ask(*ran)[-2] == ("tag", "SELECT 0")
        one.rows("rollback")
    one.rows("begin")
    one.rows(f"select v from notes where k = {town.spread[2]}")  # another shard is known before home is
    assert one.ask(*ran)[-2] == ("tag", "SELECT 0")
    one.rows("rollback")
    other.rows("drop table own")
    assert other.ask(*ask)[0][1]["C"] == "42P01"


# --- home tables and placed ones in one statement ---------------------------------------------------------------------

TOGETHER = """
begin; lock table notes, only plain, kinds in share mode nowait; truncate plain, notes, kinds; rollback
select count(*) from notes; select count(*) from plain; select count(*) from kinds
begin; truncate only notes, plain restart identity
select count(*) from notes; select count(*) from plain; commit
grant select, update (v) on table plain, notes to public
select relname, relacl::text like '%=r/%' from pg_class where relname in ('notes', 'plain') order by 1
revoke all on notes, plain from public
vacuum (analyze) plain (id), notes (k)
vacuum full notes, plain
analyze notes, plain (v)
create table made (k int8 primary key); create table at_home (id int primary key); create temporary table short (k int)
create index made_later on made (k); create index home_later on at_home (id)
drop index if exists home_later, nothing_at_all, made_later
drop table made, nothing_at_all, at_home
select count(*) from made; select count(*) from at_home
drop table if exists made, nothing_at_all, short, at_home cascade
drop table made
"""


def test_home_tables_and_placed_ones_in_one_statement(filled: Twins, town: Town) -> None:
    for text in TOGETHER.strip().splitlines():
        filled.query(text)
        if text.startswith("grant"):
            granted = "select count(*) from pg_class where relname = 'notes' and relacl::text like '%=r/%'"
            assert town.everywhere(granted) == [[(1,)]] * 3
    assert town.everywhere("select count(*) from pg_class where relname in ('made', 'at_home')") == [[(0,)]] * 3
    assert town.everywhere("select count(*) from notes") == [[(0,)]] * 3


# --- CREATE SCHEMA with elements --------------------------------------------------------------------------------------

WHOLE = """
create schema whole
    grant select on seen to public
    create index later on made (v)
    create trigger noted before update on made for each row execute function suppress_redundant_updates_trigger()
    create view seen as select made.v, k.name from made join kinds k on k.id = made.m where v <> ')'
    create table made (k int8 primary key, v text, m int default nextval('numbers'), like public.words)
    create table whole.other (k int references made)
    create sequence numbers start 5
"""
WHOLE_SHOWN = (
    "select relname, relacl::text like '%=r/%' from pg_class where relnamespace = 'whole'::regnamespace order by 1",
    "select attname, atttypid, atttypmod from pg_attribute where attrelid = 'whole.made'::regclass and attnum > 0",
    "select pg_get_viewdef('whole.seen'::regclass), pg_get_indexdef('whole.later'::regclass)",
)
WRONG = """
create schema whole create table notes.made (k int)
create schema whole create table made (k int) create table made (k int)
create schema whole create table made (k int) create index on words (word)
create schema whole create temporary table made (k int)
create schema whole create view seen as select nothing from notes
create schema whole create index concurrently on made (k) create table made (k int)
create schema public create table made (k int)
create schema if not exists whole create table made (k int)
"""


def test_a_schema_with_elements(filled: Twins, town: Town) -> None:
    for text in WRONG.strip().splitlines():
        filled.query(text)
    assert town.everywhere("select count(*) from pg_namespace where nspname = 'whole'") == [[(0,)]] * 3
    assert filled.query(WHOLE)[0] == ("tag", "CREATE SCHEMA")
    try:
        for text in (*WHOLE_SHOWN, "insert into whole.made (k, v, word) values (1, 'v', 'w')", "table whole.made"):
            filled.query(text)
        filled.query("select current_setting('search_path')")
        tables = (
            "select count(*) from pg_class where relnamespace = 'whole'::regnamespace and relname in ('made', 'seen')"
        )
        assert town.on_shard(0, tables) == [(2,)]
        filled.query("drop schema whole cascade")
        filled.proxy.rows("create role whole_owner")
        filled.query("create schema authorization whole_owner create table made (k int) grant select on made to public")
        filled.query("set role whole_owner")
        create = b"create schema whole create table made (k int)"
        filled.same(Query(create), ignoring="M")  # no right to do so in the database, of which there are two
        filled.query("reset role")
        filled.query("create schema whole authorization whole_owner create view seen as select * from notes")
        filled.query("select tableowner, schemaname, tablename from pg_tables where tablename = 'made'")
        filled.query("select current_user = session_user")
    finally:
        filled.query("drop schema if exists whole_owner, whole cascade")
        filled.proxy.query("drop role whole_owner")


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


def test_tables_are_made_from_views_of_sharded_ones(filled: Twins) -> None:
    filled.query("create view seen as select k, v, n from notes where k < 25")
    filled.query("create view counted as select n, count(*) from seen group by n")
    try:
        for name in ("made", "codes", "at_home"):
            for query in (
                "select k, k as id, n from seen",
                "select s.k, s.k as id, w.word from seen s join words w on w.n = s.k",
                "select c.n as k, c.n as id, c.count from counted c join kinds on kinds.id = 1",
                "with x as (select * from seen) select k, k as id, v from x where n > 1",
            ):
                filled.query(f"create table {name} as {query}")
                filled.query(f"select count(*), sum(k), min(id), max({name}::text) from {name}")
                filled.query(f"drop table {name}")
        filled.query("create temp table mine as select k from seen union select n from counted")
        filled.query("select count(*), sum(k) from mine")
        filled.query("create view further as select seen.k, words.word from seen join words on words.n = seen.k")
        filled.query("select count(*), max(word) from further")
        filled.query("drop view further")
    finally:
        filled.query("drop view counted, seen")


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


# --- every shard has what it shall have ------------------------------------------------------------------------------

CATALOGS = {
    "pg_class": ("relacl", "relowner"), "pg_proc": ("proacl", "proowner"), "pg_type": ("typacl", "typowner"),
    "pg_operator": ("", "oprowner"), "pg_opclass": ("", "opcowner"), "pg_opfamily": ("", "opfowner"),
    "pg_cast": ("", ""), "pg_collation": ("", "collowner"), "pg_conversion": ("", "conowner"),
    "pg_namespace": ("nspacl", "nspowner"), "pg_foreign_data_wrapper": ("fdwacl", "fdwowner"),
    "pg_foreign_server": ("srvacl", "srvowner"), "pg_user_mapping": ("", ""), "pg_language": ("lanacl", "lanowner"),
    "pg_policy": ("", ""), "pg_rewrite": ("", ""), "pg_statistic_ext": ("", "stxowner"), "pg_trigger": ("", ""),
    "pg_ts_config": ("", "cfgowner"), "pg_ts_dict": ("", "dictowner"), "pg_constraint": ("", ""), "pg_am": ("", ""),
    "pg_attrdef": ("", ""), "pg_default_acl": ("defaclacl", ""), "pg_transform": ("", ""),
}  # fmt: skip
FACTS = (
    " UNION ALL ".join(
        f"""SELECT '{name}', (pg_identify_object('{name}'::regclass, oid, 0)).identity, obj_description(oid, '{name}'),
        {f"{rights}::text" if rights else "''"}, {f"{owner}::regrole::text" if owner else "''"}
    FROM {name} WHERE oid >= 16384"""
        for name, (rights, owner) in CATALOGS.items()
    )
    + """ UNION ALL SELECT 'column', c.relname || '.' || a.attname, col_description(c.oid, a.attnum), a.attacl::text,
    format_type(a.atttypid, a.atttypmod) || a.attnotnull || coalesce(array_to_string(c.reloptions, ','), '')
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname IN ('public', 'moved') AND a.attnum > 0 AND NOT a.attisdropped"""
)
DEFINED = """
    create function of_home() returns bigint language sql as 'select count(*) from plain'
    create function of_home(int) returns int language sql as 'select $1'
    create procedure anywhere() language plpgsql as 'begin perform 1; end'
    comment on function of_home() is 'at home'; comment on function of_home(int) is 'anywhere'
    comment on procedure anywhere() is 'a procedure'; grant execute on function of_home() to ddl_one
    revoke all on function of_home(int) from public; alter function of_home() stable
    grant all on all functions in schema public to ddl_two; alter function of_home() owner to ddl_one
    create schema moved; alter function of_home() set schema moved; alter procedure anywhere() owner to ddl_one
    alter function moved.of_home() rename to of_home_2; comment on function nosuch() is 'x'
    create index on_made on made (v); create table moved.other (a int); create index on_made on moved.other (a)
    comment on index on_made is 'of all shards'; alter table on_made rename to on_made_2
    alter index moved.on_made rename to on_made_2; alter index on_made_2 set (fillfactor = 60)
    create statistics of_made on k, v from made; create statistics of_plain on id, v from plain
    comment on statistics of_made is 'all'; comment on statistics of_plain is 'home'
    alter statistics of_plain set statistics 10; alter statistics of_plain owner to ddl_one
    alter statistics of_plain rename to of_plain_2; alter statistics of_made set schema moved
    alter statistics of_plain_2 owner to nobody_at_all
    create type pair as (a int, b text); comment on column pair.a is 'first'; alter type pair rename attribute b to c
    create temp table brief (a int); comment on column brief.a is 'x'; drop table brief
    create table like_made (like made including all); create temp table brief (like made including constraints)
    insert into like_made select g from generate_series(1, 20) g; insert into brief select * from like_made
    create foreign data wrapper wrapper; create server far foreign data wrapper wrapper
    comment on foreign data wrapper wrapper is 'w'; grant usage on foreign data wrapper wrapper to ddl_one
    comment on server far is 's'; grant usage on foreign server far to ddl_one; alter server far owner to ddl_one
    alter server far rename to farther; create user mapping for ddl_two server farther options (u 'x')
    create foreign table abroad (a int) server farther; comment on column abroad.a is 'x'
    alter foreign table abroad rename to abroad_2; grant select on abroad_2 to ddl_two
    select lo_create(424242); comment on large object 424242 is 'x'; alter large object 424242 owner to ddl_one
    grant select on large object 424242 to ddl_two; select lo_unlink(424242); comment on large object 424242 is 'x'
    create aggregate total(int) (sfunc = int4pl, stype = int, initcond = '0')
    alter aggregate total(int) owner to ddl_one
    create function same_text(int, text) returns bool language sql immutable as 'select $1::text = $2'
    create operator ==== (leftarg = int, rightarg = text, function = same_text)
    comment on operator ==== (int, text) is 'o'; alter operator ==== (int, text) owner to ddl_one
    create operator family some using hash; alter operator family some using hash rename to some_2
    create collation plain_c (locale = 'C'); alter collation plain_c owner to ddl_one
    create conversion latin for 'LATIN1' to 'UTF8' from iso8859_1_to_utf8; comment on conversion latin is 'c'
    create text search configuration words_c (copy = simple); create text search dictionary words_d (template = simple)
    alter text search configuration words_c alter mapping for asciiword with words_d
    create access method am_1 type index handler bthandler; comment on access method am_1 is 'a'
    alter default privileges in schema moved grant select on tables to ddl_one
    grant select (k), update (v) on made to ddl_one; grant select on plain to ddl_one
    create policy mine on made using (k > 0); alter policy mine on made to ddl_one
    create rule quiet as on delete to plain do instead nothing; comment on rule quiet on plain is 'r'
    drop rule quiet on plain; create sequence free; alter sequence free maxvalue 100; alter sequence free as smallint
    alter sequence free maxvalue 50 cycle; create sequence taken owned by plain.id; alter sequence taken owned by none
    alter sequence taken maxvalue 900 restart 7; select nextval('taken')
    alter table made add column i int; alter table made alter i set not null
    alter sequence taken owned by plain.id; alter sequence taken owned by made.i; alter sequence taken maxvalue 800
    comment on sequence taken is 's'"""
AT_HOME = ("plain", "of_home_2", "other", "moved.on_made_2", "on_made_2.a", "like_made", "farther", "wrapper",
           "abroad_2", "brief")  # fmt: skip
UNDONE = """
    drop function moved.of_home_2(), of_home(int); drop routine anywhere; drop index on_made_2, nosuch
    drop index on_made_2; drop index moved.on_made_2; drop statistics moved.of_made, of_plain_2; drop table moved.other
    drop type pair; drop table like_made; drop table brief; drop foreign table abroad_2
    drop user mapping for ddl_two server farther; drop server farther; drop foreign data wrapper wrapper
    drop sequence free; alter table made drop column i
    drop aggregate total(int); drop operator ==== (int, text); drop function same_text; drop collation plain_c
    drop operator family some_2 using hash; drop conversion latin; drop text search configuration words_c
    drop text search dictionary words_d; drop access method am_1; drop policy mine on made
    drop owned by ddl_one, ddl_two; drop schema moved"""


def _statements(texts: str) -> list[str]:
    return [part.strip() for line in texts.splitlines() for part in line.split("; ") if part.strip()]


def _facts(rows: list[tuple[object, ...]]) -> set[tuple[object, ...]]:
    hidden = ("pgchorus", "pg_t", "RI_ConstraintTrigger")  # of the proxy, temporary, and called by numbers
    return {row for row in rows if not any(name in str(row[1]) for name in hidden)}


def test_every_kind_of_object_is_where_it_belongs(
    client: WireClient, town: Town, connect: Callable[..., WireClient]
) -> None:
    one = connect(town.one)
    one.rows("create table at_home (id int primary key, up int constraint up_home references at_home deferrable)")
    one.rows("create table made (k int8 primary key, v text)")
    twins = Twins(one, client)
    client.rows("create role ddl_one")  # the single Postgres is a database of home's server
    client.rows("create role ddl_two")
    before = [_facts(rows) for rows in town.everywhere(FACTS)]
    for text in _statements(DEFINED):
        twins.same(Query(text.encode()), ignoring="D")
    home, *others = (_facts(rows) for rows in town.everywhere(FACTS))
    with psycopg.connect(town.one) as connection:
        expected = _facts(connection.execute(FACTS.encode()).fetchall())
    assert home ^ expected == set()
    for found in others:
        extra = {row for row in home - found if row not in before[0]}
        assert [row for row in found if row not in home] == []
        assert [row for row in extra if not any(name in str(row[1]) for name in AT_HOME)] == []
    for text in _statements(UNDONE):
        twins.same(Query(text.encode()), ignoring="D")
    after = [{row[:2] for row in _facts(rows)} for rows in town.everywhere(FACTS)]
    assert after == [{row[:2] for row in rows} for rows in before]
    client.rows("drop role ddl_one, ddl_two")
    one.rows("drop table made, at_home")


def test_what_was_made_behind_the_proxy_a_moment_ago_is_found(client: WireClient, town: Town) -> None:
    found = "select count(*) from pg_class where relname = '{}'"
    try:
        for block in (False, True):
            client.rows("begin" if block else "select 1")
            client.rows("create table at_home_2 (a int)")
            town.direct("create index behind on kinds (name)")
            client.rows("alter index behind rename to behind_2")
            client.rows("drop table at_home_2")
            client.rows("commit" if block else "select 1")
            assert town.everywhere(found.format("behind_2")) == [[(1,)]] * 3
            town.direct("drop index if exists behind, behind_2")
    finally:
        client.query("rollback")
        town.direct("drop index if exists behind, behind_2")


def test_a_view_that_was_everywhere_and_is_at_home_now_goes_everywhere(client: WireClient, town: Town) -> None:
    for _ in range(2):
        client.rows("create view seen as select k from made")
        client.rows("create or replace view seen as select id::int8 as k from plain")
        client.rows("drop view seen")
        assert town.everywhere("select to_regclass('seen')") == [[(None,)]] * 3


# --- statements that wait for DDL ------------------------------------------------------------------------------------

WAITS = """SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE NOT l.granted AND a.datname = current_database()"""
ROWS = 12
SERIALIZATION_FAILURE = "40001"


class Changed:
    """A view of a table at home, which somebody makes one of a sharded table while others wait for it."""

    def __init__(self, town: Town, connect: Callable[..., WireClient], threads: ThreadPoolExecutor) -> None:
        self.town = town
        self.threads = threads
        self.ddl, self.reader = connect(town.dsn), connect(town.dsn)
        self.ddl.rows(f"insert into notes select n, 'v', 0 from generate_series(1, {ROWS}) n")
        self.ddl.rows("create view seen as select id::bigint as k from plain")

    def change(self) -> None:
        self.ddl.rows("begin")
        self.ddl.rows("create or replace view seen as select k from notes")
        self.ddl.rows("select 1")

    def until_waiting(self) -> None:
        eventually(lambda: any(found[0][0] for found in self.town.everywhere(WAITS)), "nobody waits")

    def while_waiting(self, work: Callable[[], Any], then: str = "commit") -> Any:
        """Begin to change the view, start some work that needs it, and end the change; return what the work does."""
        self.change()
        working = self.threads.submit(work)
        self.until_waiting()
        self.ddl.rows(then)
        return working.result(20)


@pytest.fixture
def changed(town: Town, connect: Callable[..., WireClient]) -> Iterator[Changed]:
    with ThreadPoolExecutor(2) as threads:
        made = Changed(town, connect, threads)
        yield made
        for client in (made.reader, made.ddl):
            client.query("rollback")
        made.ddl.rows("drop view if exists seen")


COUNT = "select count(*) from seen"


def first_error(trace: list[tuple[Any, ...]]) -> str:
    return next((entry[1]["C"] for entry in trace if entry[0] == "error"), "")


@pytest.mark.parametrize("known", [False, True], ids=["new", "known"])
@pytest.mark.parametrize("before", ["", "begin"])
def test_what_waits_for_ddl_does_not_run_by_the_plan_from_before(changed: Changed, before: str, *, known: bool) -> None:
    """It would count what home has of the rows, since it has been sent there."""
    for _ in range(4 if known else 0):
        changed.reader.rows(COUNT)
    changed.reader.query(before)
    assert changed.while_waiting(lambda: changed.reader.rows(COUNT)) == [(str(ROWS),)]
    changed.reader.query("rollback")
    assert changed.reader.rows(COUNT) == [(str(ROWS),)]


def test_a_write_that_waits_for_ddl_does_not_write_a_part(changed: Changed) -> None:
    trace = changed.while_waiting(lambda: changed.reader.query("delete from seen"))
    assert trace == [("tag", f"DELETE {ROWS}"), ("ready", "I")]
    assert not changed.town.stored()


def test_prepared_statements_that_wait_for_ddl(changed: Changed) -> None:
    with psycopg.connect(changed.town.dsn, autocommit=True) as client:
        client.prepare_threshold = 0
        for ends, rows in (("rollback", 0), ("commit", ROWS)):

            def count() -> Any:
                return client.execute(COUNT).fetchone()

            assert changed.while_waiting(count, ends) == (rows,)
            assert client.execute(COUNT).fetchone() == (rows,)


def test_a_statement_that_is_prepared_while_it_waits(changed: Changed) -> None:
    """Only described: nothing has run, and its plan is made anew when it is bound."""
    trace = changed.while_waiting(lambda: changed.reader.ask(parse(COUNT, "p"), SYNC))
    assert not first_error(trace)
    trace = changed.reader.ask(bind(statement="p"), execute(), SYNC)
    assert ("row", [str(ROWS).encode()]) in trace


def test_a_portal_that_was_bound_before_and_is_executed_after(changed: Changed) -> None:
    changed.ddl.rows("create or replace view seen as select k from notes")
    reader = changed.reader
    reader.send(parse(COUNT), bind(), FLUSH)
    reader.read("2")  # BindComplete: over several shards that is the proxy's own, and holds no lock
    changed.ddl.rows("create or replace view seen as select id::bigint as k from plain")
    assert ("row", [b"0"]) in reader.ask(execute(), SYNC)
    assert ("row", [b"0"]) in reader.ask(parse(COUNT), bind(), execute(), SYNC)


@pytest.mark.parametrize("ddl", ["alter table notes add column later int", "create index later on notes (v)"])
def test_what_means_the_same_goes_on(changed: Changed, ddl: str) -> None:
    changed.ddl.rows("begin")
    changed.ddl.rows("lock table notes in access exclusive mode")
    changed.ddl.rows(ddl)
    first = changed.town.spread[0]
    reading = [
        changed.threads.submit(client.rows, text)
        for client, text in ((changed.reader, f"select k, v from notes where k = {first}"),)
    ]
    changed.until_waiting()
    changed.ddl.rows("commit")
    assert [one.result(20) for one in reading] == [[(str(first), "v")]]
    changed.ddl.rows("alter table notes drop column if exists later")
    changed.ddl.rows("drop index if exists later")


def test_ddl_on_its_own_that_waited_itself(changed: Changed, connect: Callable[..., WireClient]) -> None:
    """The reader stands behind it in the shard's queue, and would run as soon as it is committed there."""
    user = connect(changed.town.dsn)
    user.rows("begin")
    user.rows(COUNT)
    changing = changed.threads.submit(changed.ddl.rows, "create or replace view seen as select k from notes")
    changed.until_waiting()
    reading = changed.threads.submit(changed.reader.query, COUNT)
    eventually(lambda: sum(found[0][0] for found in changed.town.everywhere(WAITS)) > 1, "the reader does not wait")
    user.rows("commit")
    changing.result(20)
    assert reading.result(20)[-3:] == [("row", [str(ROWS).encode()]), ("tag", "SELECT 1"), ("ready", "I")]
    assert changed.reader.rows(COUNT) == [(str(ROWS),)]


def test_definitions_of_two_blocks_do_not_wait_for_each_other(town: Town, connect: Callable[..., WireClient]) -> None:
    """The catalog is read anew, which waits for what the other has locked: nobody else may wait for that, nor it."""
    first, second, other = connect(town.dsn), connect(town.dsn), connect(town.dsn)
    first.query("create view seen as select k from notes")
    for client, text in (
        (first, "create table unrelated (a int)"),
        (second, "create or replace view seen as select n::int8 as k from notes"),
    ):
        client.query("begin")
        client.query(text)
    first.send(Query(b"commit"))
    assert other.rows("select count(*) from notes") == [("0",)]
    second.send(Query(b"commit"))
    assert [client.read()[-2:] for client in (second, first)] == [[("tag", "COMMIT"), ("ready", "I")]] * 2
    assert other.rows("select k from seen") == []
    for text in ("drop view seen", "drop table unrelated"):
        assert other.query(text)[-1] == ("ready", "I")


@pytest.mark.parametrize("text", ["select count(*) from seen", "select k, seen.k from notes join seen using (k)"])
def test_a_view_that_is_another_over_the_same_table(changed: Changed, text: str) -> None:
    changed.ddl.rows("create or replace view seen as select k from notes where k < 3")
    changed.ddl.rows("begin")
    changed.ddl.rows("create or replace view seen as select k from notes where k < 5")
    reading = changed.threads.submit(changed.reader.query, text)
    changed.until_waiting()
    changed.ddl.rows("commit")
    rows = [entry[1] for entry in reading.result(20) if entry[0] == "row"]
    assert len(rows) == 4 or rows == [[b"4"]]


def raced(town: Town, dsn: str, connect: Callable[..., WireClient], text: str, way: str) -> list[Any]:
    """What a client hears of a statement that waits for new columns; `way`: what it has said of it, who alters how."""
    described, alters = way.split(", ")

    def until_waiting(count: int) -> None:
        eventually(lambda: waiting(town, dsn, count), f"{count} do not wait")

    ddl, reader, holder = connect(dsn), connect(dsn), connect(dsn)
    ddl.rows("insert into notes select n, 'v', 0 from generate_series(1, 4) n")
    asked = [parse("select * from notes order by k" if text == "execute w" else text, "w"), describe("S", "w")]
    if described == "described":
        reader.ask(*asked, SYNC)
        asked.clear()
    alter = Query(b"alter table notes add column later int default 5")
    if alters == "in a block":
        ddl.query("begin")
        ddl.ask(alter)
    else:
        holder.query("begin")
        holder.query("select from notes")
        ddl.send(alter)
        until_waiting(1)
    messages = [Query(text.encode())] if text == "execute w" else [*asked, bind(statement="w"), execute(), SYNC]
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(reader.ask, *messages)
        until_waiting(1 if alters == "in a block" else 2)
        (ddl if alters == "in a block" else holder).query("commit")
        if alters == "alone":
            ddl.read()
        heard = [reading.result(20), reader.query("select 1")]
    ddl.rows("alter table notes drop column later; truncate notes")
    return heard


@pytest.mark.parametrize("alters", ["in a block", "alone"])
@pytest.mark.parametrize(
    ("text", "described"),
    [
        ("select * from notes where k < 3", "described"),
        ("select * from notes where k < 3", "new"),
        ("update notes set n = n where k < 3 returning *", "described"),
        ("update notes set n = n", "described"),
        ("select k, n from notes", "described"),
        ("execute w", "described"),
    ],
)
def test_over_one_shard_columns_change_as_in_postgres(
    town_of_1: Town, connect: Callable[..., WireClient], text: str, described: str, alters: str
) -> None:
    """A statement that waits for new columns: described already, or parsed while it waits."""
    expected, got = (
        raced(town_of_1, dsn, connect, text, f"{described}, {alters}") for dsn in (town_of_1.one, town_of_1.dsn)
    )
    assert got == expected


def waiting(town: Town, dsn: str, count: int) -> bool:
    with psycopg.connect(town.one if dsn == town.one else town.shards[0], autocommit=True) as direct:
        return direct.execute(WAITS).fetchone() == (count,)


@pytest.mark.parametrize(
    "text",
    [
        "select * from notes where k < 3",
        "table notes",
        "select * from notes where k = 1",
        "update notes set n = n where k < 3 returning *",
        "update kinds set name = name returning *",
    ],
)
def test_rows_are_of_the_columns_that_were_described(changed: Changed, text: str) -> None:
    reader, table = changed.reader, "kinds" if "kinds" in text else "notes"
    changed.ddl.rows("insert into kinds values (1, 'kind')")
    reader.ask(parse(text, "w"), describe("S", "w"), SYNC)
    changed.ddl.rows("begin")
    changed.ddl.rows(f"alter table {table} add column later int default 5")
    try:
        reading = changed.threads.submit(reader.ask, bind(statement="w"), describe("P"), execute(), SYNC)
        changed.until_waiting()
        changed.ddl.rows("commit")
        trace = reading.result(20)
        assert first_error(trace) in {SERIALIZATION_FAILURE, "0A000"}, trace
        assert not [entry for entry in trace if entry[0] == "row"]
    finally:
        changed.ddl.query("rollback")
        changed.ddl.rows(f"alter table {table} drop column if exists later")
