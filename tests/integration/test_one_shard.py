"""Over one shard the proxy cannot be told from Postgres: all that Postgres can passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from wire_client import FLUSH, SYNC, Twins, bind, describe, execute, parse, sqlstates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Town

    from wire_client import WireClient


@pytest.fixture
def alone(town_of_1: Town, connect: Callable[..., WireClient]) -> Twins:
    return Twins(connect(town_of_1.one), connect(town_of_1.dsn))


PROGRAM = """
create type mood as enum ('sad', 'ok')
create domain small as int check (value < 10)
create table things (id serial primary key, k int not null, m mood default 'ok', s small, at timestamptz default now())
create view seen as select k, m from things where s is not null
create function twice(x int) returns int language sql immutable as $$ select x * 2 $$
create function tell(x int) returns int language plpgsql as $$ begin raise notice 'told %', x; return x; end $$
create function log_it() returns trigger language plpgsql as $$ begin new.k := new.k + 100; return new; end $$
create trigger things_log before insert on things for each row execute function log_it()
insert into things (k, s) select g, g from generate_series(1, 5) g
insert into things (k, s) values (6, 100)
select k, m, s from things order by k
select * from seen order by k
update things t set k = o.k from things o where o.id = t.id + 1 returning t.k
with gone as (delete from things where k > 104 returning k) select count(*) from gone
select tell(5), twice(21)
select row_number() over (order by k), sum(k) over () from things order by 1
select k, count(*) from things group by rollup (k) order by 1 nulls last
select distinct on (m) m, k from things order by m, k
select array_agg(k order by k), string_agg(k::text, ',' order by k), json_agg(m order by k) from things
select * from things t1 join things t2 using (k) left join notes n on n.k = t1.k where false
merge into things t using (values (101, 1)) v(k, s) on t.k = v.k when matched then update set s = 2
create materialized view stored as select k from things
refresh materialized view stored
create index concurrently things_k on things (k)
create rule no_notes as on delete to notes do instead nothing
delete from notes
drop rule no_notes on notes
create schema other
create table other.things (a int)
select nextval('things_id_seq') > 0, currval('things_id_seq') > 0, lastval() > 0
do $$ begin perform 1; raise warning 'careful'; end $$
create procedure work() language plpgsql as $$ begin insert into other.things values (1); commit; end $$
call work()
select count(*) from other.things
explain (costs off) select * from notes where k = 1
lock table notes
begin; lock table notes in exclusive mode; select 1; commit
vacuum notes
analyze notes
reindex table notes
cluster notes using notes_pkey
comment on table notes is 'nothing'
grant select on notes to public
alter table notes alter column k set not null
create table pieces (k int, v text) partition by range (k)
create table pieces_1 partition of pieces for values from (0) to (10)
insert into pieces values (1, 'x'), (20, 'y')
insert into pieces values (1, 'x'), (2, 'y')
select tableoid::regclass, * from pieces order by k
begin; declare c scroll cursor for select generate_series(1, 9); fetch 3 from c; fetch backward 2 from c; close c; end
begin isolation level serializable; select count(*) from notes; commit
select to_regclass('notes'), 'notes'::regclass
select pg_typeof(1.5), 1/0
select * from json_table('[1,2]', '$[*]' columns (x int path '$'))
create temporary table mine as select 1 as x
select * from mine
discard temp
select lo_unlink(lo_create(0)) = 1
truncate notes, plain restart identity cascade
drop materialized view stored; drop view seen; drop table things, pieces, other.things; drop schema other
drop function twice, tell, log_it; drop procedure work; drop domain small; drop type mood
"""


def test_everything_passes(alone: Twins) -> None:
    for text in filter(None, PROGRAM.split("\n")):
        alone.query(text)


def test_the_same_by_the_extended_protocol(alone: Twins) -> None:
    for text in filter(None, PROGRAM.split("\n")):
        for statement in text.split("; ") if text.startswith(("begin", "drop")) else [text]:
            alone.same(parse(statement), describe("S"), bind(), describe("P"), execute(), SYNC)


def test_backends_are_the_shards_own(alone: Twins) -> None:
    client = alone.proxy
    assert client.rows("select count(*) from pg_stat_activity where pid = pg_backend_pid()") == [("1",)]
    client.query("begin")
    first = client.rows("select pg_backend_pid()")
    assert client.rows("select pg_backend_pid()") == first
    client.query("commit")
    assert client.rows("select inet_server_port() is not null, version() like 'PostgreSQL 18%'") == [("t", "t")]


def test_now_is_when_the_transaction_began(alone: Twins) -> None:
    client = alone.proxy
    client.query("begin")
    before = client.rows("select clock_timestamp()")
    assert client.rows(f"select now() <= '{before[0][0]}', now() = statement_timestamp()") == [("t", "f")]
    client.query("rollback")


def test_isolation_levels(alone: Twins, town_of_1: Town, connect: Callable[..., WireClient]) -> None:
    other = connect(town_of_1.dsn)
    client = alone.proxy
    client.query("begin isolation level repeatable read; select count(*) from notes")
    other.query("insert into notes values (1, 'x')")
    assert client.rows("select count(*) from notes") == [("0",)]
    client.query("update notes set v = 'y'")
    client.query("commit")
    client.query("begin isolation level serializable; select count(*) from notes")
    other.query("begin isolation level serializable; select count(*) from notes; insert into notes values (2, 'x')")
    client.query("insert into notes values (3, 'x')")
    other.query("commit")
    trace = client.query("commit")
    assert [entry[1]["C"] for entry in trace if entry[0] == "error"] == ["40001"]


def test_statements_like_the_last_go_as_they_come(alone: Twins) -> None:
    """Pipelines that are recognised by their shape, with whatever parameters, columns without a key among them."""
    alone.query("create table plain_rows (a int, b int8, c text)")
    alone.query("insert into plain_rows select g, g * 1000000000, g from generate_series(0, 12) g")
    alone.same(parse("select * from plain_rows where b > $1 and a = 1", "by_b"), SYNC)
    alone.same(parse("select $1::text || c from plain_rows where a = 1", "texts"), SYNC)
    alone.same(parse("update plain_rows set a = a where a = $1 returning c", "writes"), SYNC)
    values = [b"1", b"2", b"3", b"0", b"-4", b"12", b"", b"07", b"+1", b"1234567890123", b"1e1", b"x", None, b"5"]
    tail = (describe("P"), execute(), SYNC)
    for value in values * 3:
        for name in ("by_b", "texts", "writes"):
            alone.same(bind(value, statement=name), *tail)
        alone.same(parse("select c from plain_rows where a = $1", oids=[23]), bind(value), *tail)


def test_nulls_in_arrays_that_were_parsed(alone: Twins) -> None:
    """Over several shards the setting is refused."""
    text = "select '{1,null}'::text[] = array['1', null]"
    alone.query(f"prepare p as {text}")
    alone.same(parse(text, "s"), SYNC)
    alone.query("set array_nulls = off")
    for _ in range(2):
        alone.query("execute p")
        alone.same(bind(statement="s"), execute(), SYNC)
    alone.query(text)


@pytest.mark.parametrize("ddl", ["create table lv (a int)", "select 1; drop view v", "call no()"])
@pytest.mark.parametrize("given", ["select 1", "select nextval('numbers')", "insert into numbered (k) values (1)"])
@pytest.mark.parametrize("block", ["", "begin"])
def test_lastval_is_the_sessions_own_behind_definitions(alone: Twins, given: str, ddl: str, block: str) -> None:
    """An event trigger writes down in the client's session that they have changed."""
    alone.query(
        "create sequence numbers start 7; create table numbered (k int, id serial); create view v as select 1 as a; "
        "create procedure no() language plpgsql as 'begin execute ''create table made (a int)''; end'"
    )
    try:
        for text in (block, given, ddl, "select lastval()", "commit"):
            alone.query(text)
    finally:
        alone.query("rollback")
        alone.query("drop table if exists numbered, lv, made; drop view if exists v")
        alone.query("drop sequence numbers; drop procedure no")


@pytest.mark.parametrize(
    "texts",
    [
        ["do $$ begin perform set_config('my.x', '9', false); end $$"],
        ["do $$ begin perform set_config('My.X', '9', true); end $$"],
        ["do $$ begin set my.x = '9'; end $$", "do $$ begin perform set_config('my.y', '8', false); end $$"],
        ["begin", "do $$ begin perform set_config('my.x', '9', false); end $$", "select 1", "commit"],
        ["begin", "do $$ begin perform set_config('my.x', '9', true); end $$", "select current_setting('my.x', true)",
         "commit"],
        ["do $$ begin perform set_config('my.x', '9', false); end $$", "do $$ begin perform 1; end $$", "reset my.x"],
        ["do $$ begin execute 'set my.x = 9'; end $$", "discard all"],
    ],
)  # fmt: skip
def test_custom_settings_that_do_makes(alone: Twins, texts: list[str]) -> None:
    for text in texts:
        alone.query(text)
        if "begin" not in texts:
            alone.query("select current_setting('my.x', true), current_setting('my.y', true)")
    alone.query("select current_setting('my.x', true) as x")


@pytest.fixture
def commits(alone: Twins) -> Iterator[Twins]:
    """Procedures that commit, or roll back, what they have written so far."""
    alone.query(
        "create procedure commits(n int) language plpgsql as"
        " $$ begin insert into plain values (n, 'x'); commit; insert into plain values (n + 1, 'y'); end $$"
    )
    alone.query(
        "create procedure takes_back(n int) language plpgsql as"
        " $$ begin insert into plain values (n, 'x'); rollback; insert into plain values (n + 1, 'y'); end $$"
    )
    yield alone
    alone.query("drop procedure commits, takes_back")


def run(text: str, *values: bytes) -> list[object]:
    return [parse(text), bind(*values), execute()]


CALLS = ["call commits(1)", "call takes_back(1)", "do $$ begin insert into plain values (1, 'z'); commit; end $$"]
BEHIND = {
    "a query": run("select id, v from plain order by id"),
    "one never seen": run("select v as never_seen, id from plain order by id desc"),
    "described": [parse("select id + 1 as one_more from plain", "d"), describe("S", "d"), bind(statement="d"),
                  describe("P"), execute()],
    "writes": [*run("insert into plain values (10, 'a')"), *run("update plain set v = 'b' returning id")],
    "an error": [*run("insert into plain values (10, 'a')"), *run("select 1 / (id - 10) from plain")],
    "another call": run("call commits(20)"),
    "an error at Parse": run("select nonsense from plain"),
    "a limit": [parse("select id from plain order by id"), bind(), execute(limit=1), execute(limit=1)],
    "COPY": run("copy plain to stdout"),
    "a setting": run("select set_config('work_mem', '7MB', true), set_config('my.x', 'a', false)"),
    "SET": run("set local work_mem = '7MB'"),
}  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("behind", [behind for behind in BEHIND if behind not in {"SET", "an error at Parse"}])
def test_a_call_that_ends_transactions_in_front_of_a_pipeline(commits: Twins, call: str, behind: str) -> None:
    for _ in range(2):  # what was described once is known
        commits.same(*run(call), *BEHIND[behind], SYNC)
        commits.query("select id, v from plain order by id")
        commits.query("select current_setting('work_mem'), current_setting('my.x', true)")
        commits.query("truncate plain")
        commits.query("deallocate all")


def test_a_call_that_ends_transactions_is_executed_twice(commits: Twins) -> None:
    commits.same(*run("call commits(1)"), execute(), SYNC)
    commits.same(parse("call commits($1)"), bind(b"5"), execute(limit=1), execute(limit=1), SYNC)
    commits.same(parse("call commits($1)", "c"), bind(b"8", statement="c"), execute(), bind(b"9", statement="c"),
                 execute(), SYNC)  # fmt: skip
    commits.query("select id, v from plain order by id")


def test_a_call_that_ends_transactions_behind_something_else(commits: Twins) -> None:
    for before in (run("select 1"), run("set local work_mem = '7MB'")):
        commits.same(*before, *run("call commits(1)"), *run("select 2"), SYNC, ignoring="W")
        commits.query("select id, v from plain order by id")


@pytest.mark.parametrize(
    "behind", [[FLUSH, *BEHIND["a query"]], BEHIND["SET"], BEHIND["an error at Parse"]], ids=["Flush", "SET", "error"]
)
def test_a_call_that_commits_has_done_nothing_where_its_pipeline_comes_in_parts(
    commits: Twins, behind: list[object]
) -> None:
    """Where one Postgres lets it, it is refused (docs/limits.md)."""
    for call in CALLS:
        assert sqlstates(commits.proxy.ask(*run(call), *behind, SYNC)) == ["2D000"]
        assert commits.proxy.rows("select count(*) from plain") == [("0",)]
