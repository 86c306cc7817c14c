"""Materialized views over sharded tables: as on one Postgres, which is asked the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proxy.wire.frontend import Query
from waiting import eventually
from wire_client import SYNC, Twins, bind, execute, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Town

    from wire_client import WireClient

SHOWN = (
    "select relkind, relispopulated, pg_get_viewdef(oid) from pg_class where relname = 'stored'",
    """select a.attname, format_type(a.atttypid, a.atttypmod), c.collname, a.attnotnull, a.attstattarget
        from pg_attribute a left join pg_collation c on c.oid = a.attcollation
        where a.attrelid = 'stored'::regclass and a.attnum > 0 order by a.attnum""",
    """select distinct c.relname from pg_class c join pg_depend d on d.refobjid = c.oid join pg_rewrite w
        on w.oid = d.objid where w.ev_class = 'stored'::regclass and d.refclassid = 'pg_class'::regclass order by 1""",
    "select * from stored order by 1",
)


@pytest.fixture
def twins(town: Town, connect: Callable[..., WireClient]) -> Iterator[Twins]:
    twins = Twins(connect(town.one), connect(town.dsn))
    twins.query("insert into notes select g, 'v' || g, g % 5 from generate_series(1, 30) g")
    twins.query("insert into words select 'w' || g, g from generate_series(1, 30) g")
    twins.query("insert into plain values (1, 'one'), (2, 'two'), (3, 'three')")
    twins.query("insert into kinds values (1, 'kind')")
    twins.query("create view seen as select k, n from notes where k < 20")
    yield twins
    twins.query("rollback")
    twins.query("drop materialized view if exists stored cascade")
    twins.query("drop view if exists seen")


MADE = (
    "create materialized view stored as select k, v::varchar(9) collate \"C\", n::numeric(8, 2), 'x' as x from notes",
    "create materialized view stored (k, w) as select n.k, p.v from notes n join plain p on p.id = n.n with data",
    "create materialized view stored with (fillfactor = 70) as select n as k, count(*), max(v) from notes group by n",
    "create materialized view stored as select n.k, w.word, w.n from notes n left join words w on w.n = n.k",
    "create materialized view stored as select k, row_number() over (order by k desc), sum(n) over () from notes",
    "create materialized view stored as select k, n from seen where n > 2 union select id, id from plain",
    """create materialized view stored as
        with few as (select * from plain where id = 1) select n.k, f.v, now() = now() from notes n, few f""",
    "create materialized view stored as select v, n from notes where k = 7",
    "create materialized view stored as select * from notes where false",
    "create materialized view stored as table notes",
    "create materialized view stored as select array_agg(k order by k) as ks, jsonb_object_agg(k, v) from notes",
    "create materialized view stored as select k.name, p.v from kinds k, plain p",
)


def test_made_shown_and_refreshed(twins: Twins) -> None:
    for number, text in enumerate(MADE):
        twins.query(text)
        for query in SHOWN:
            twins.query(query)
        twins.query(f"insert into notes select g, 'later', g % 7 from generate_series(1{number}1, 1{number}9) g")
        twins.query("refresh materialized view stored")
        twins.query(SHOWN[-1])
        twins.query("drop materialized view stored")


LIFE = """
set extra_float_digits = -10; set datestyle = 'German'; set intervalstyle = 'sql_standard'
create materialized view stored as select k, float8 '0.123456789012345' f, date '3.2.26' d, interval '-1 d' i from notes
select * from stored order by k
reset extra_float_digits; reset datestyle; reset intervalstyle
select f, d, i from stored where k = 1
drop materialized view stored
create materialized view stored as select k, v, n from notes where n > 1 with no data
select * from stored
refresh materialized view concurrently stored
refresh materialized view stored with no data
refresh materialized view stored with data
refresh materialized view concurrently stored
create unique index stored_k on stored (k)
create index concurrently stored_n on stored (n)
refresh materialized view concurrently stored
select count(*), sum(k) from stored
select n.k, s.n, w.n from stored s join notes n on n.k = s.k join words w on w.n = s.k order by 1
insert into notes select k + 5000, v, n from stored where k < 9
update notes set v = s.v || '!' from stored s where s.k + 5000 = notes.k
select * from notes where k > 5000 order by k
update notes set n = n + 1 where k < 20
delete from notes where k > 25
refresh materialized view concurrently stored
select * from stored order by k
refresh materialized view concurrently stored with no data
create materialized view if not exists stored as select k from notes
create materialized view stored as select k from notes
create materialized view stored as select nothing from notes
create materialized view stored (a, b, c, d, e) as select k from notes
refresh materialized view notes
refresh materialized view nowhere
insert into stored values (1, 'x', 2)
comment on materialized view stored is 'kept'
select obj_description('stored'::regclass)
analyze stored
alter materialized view stored rename column v to words
alter materialized view stored set (fillfactor = 60)
alter materialized view stored rename to renamed
refresh materialized view renamed
select words from renamed where k = 3
alter materialized view renamed rename to stored
alter table notes rename column n to m
refresh materialized view stored
select n from stored where k = 4
select pg_get_viewdef('stored'::regclass)
alter table notes rename column m to n
alter table notes alter column n type int8
drop table notes
drop materialized view stored
drop materialized view stored
"""


def test_its_life(twins: Twins) -> None:
    for text in LIFE.strip().splitlines():
        twins.query(text)


BLOCKS = """
begin
create materialized view stored as select n, count(*) as many from notes group by n
create unique index on stored (n)
insert into notes values (1001, 'in the block', 77)
refresh materialized view concurrently stored
select * from stored order by n
savepoint a
delete from notes where n < 3
refresh materialized view stored
select * from stored order by n
rollback to a
select * from stored order by n
refresh materialized view stored
commit
select * from stored order by n
begin
delete from notes
refresh materialized view stored
select * from stored
rollback
select * from stored order by n
begin isolation level repeatable read
select count(*) from notes
refresh materialized view stored
commit
begin read only
refresh materialized view stored
rollback
begin
refresh materialized view stored
select current_user = session_user, current_setting('search_path'), current_setting('role')
create view above as select sum(many) as all_of_them from stored
select * from above
commit
create materialized view higher as select max(all_of_them) from above
select * from higher
refresh materialized view higher
drop materialized view stored
drop materialized view stored cascade
"""


def test_in_transactions(twins: Twins) -> None:
    for text in BLOCKS.strip().splitlines():
        twins.query(text)


def test_it_is_refreshed_as_its_owner(twins: Twins, town: Town) -> None:
    proxy = twins.proxy
    proxy.rows("create role stored_owner")  # the single Postgres is a database of home's server
    proxy.rows("create role stored_keeper")
    try:
        twins.query("create materialized view stored as select k, n, current_user::text as who from notes where k < 4")
        twins.query("grant create on schema public to stored_owner")
        twins.query("alter materialized view stored owner to stored_owner")
        twins.query("refresh materialized view stored")  # permission denied for table notes
        twins.query("grant select on notes to stored_owner")
        twins.query("refresh materialized view stored")
        twins.query("select * from stored order by k")
        twins.query("grant select on stored to stored_keeper")
        twins.query("set role stored_keeper")
        twins.query("refresh materialized view stored")
        twins.query("create unique index on stored (k)")
        twins.query("refresh materialized view concurrently stored")
        twins.query("reset role")
        twins.query("grant maintain on stored to stored_keeper")
        twins.query("create unique index on stored (k)")
        proxy.rows("set role stored_keeper")
        for text in ("refresh materialized view stored", "refresh materialized view concurrently stored"):
            assert [entry[1]["C"] for entry in proxy.query(text) if entry[0] == "error"] == ["0A000"]
        proxy.rows("reset role")
        twins.query("set role stored_owner")
        twins.query("refresh materialized view concurrently stored")
        twins.query("reset role")
        twins.query("revoke all on schema public from stored_owner")
        for shard in range(3):
            assert town.on_shard(shard, "select count(*) from pg_class where relname like 'pgchorus_r%'") == [(0,)]
    finally:
        proxy.query("rollback")
        twins.query("reset role")
        twins.query("drop materialized view stored")
        twins.query("revoke all on notes from stored_owner")
        twins.query("revoke all on schema public from stored_owner")
        proxy.rows("drop role stored_owner, stored_keeper")


THEIRS = (
    "select k, taken() as e from notes",
    "select k, e from (select k, taken() as e from notes) x where k in (select n from notes)",
    "select k, set_config('role', 'postgres', true) as e from notes",
    "select k, n ~~~ k::int as e from notes",
    "select k, pg_input_is_valid('1', 'taking')::text as e from notes",
    "select n.k, t.a::text as e from notes n join taken_from t on t.a = n.n",
    "select n.k, b as e from notes n join taken_from t on t.a = n.n",
)


def test_nobodys_functions_run_with_the_clients_rights(
    twins: Twins, town: Town, connect: Callable[..., WireClient]
) -> None:
    """One Postgres runs them in a security-restricted operation, which links cannot: who is not the owner may not."""
    proxy = twins.proxy
    everywhere = (
        "create role stored_owner login",
        "grant create on schema public to stored_owner",
        "grant select on notes to stored_owner",
    )
    for text in everywhere:
        proxy.rows(text)
    owned = """
create function taken() returns text language sql volatile set role = 'postgres' as 'select current_user::text'
create function taken(int, int) returns text language sql volatile set role = 'postgres' as 'select current_user::text'
create operator ~~~ (function = taken, leftarg = int, rightarg = int)
create function told(int) returns text stable language sql as 'select session_user::text'
create domain taking as int check (taken() <> 'x')
create table taken_from (a int primary key, b text)
create policy taking on taken_from using (taken() <> '')
alter table taken_from enable row level security
alter table taken_from force row level security
"""
    try:
        proxy.rows("set role stored_owner")
        for text in filter(None, owned.splitlines()):
            proxy.rows(text)
        for query in THEIRS:
            proxy.rows("set role stored_owner")
            proxy.query("rollback")
            made = proxy.query(f"create materialized view stored as {query}")
            assert [entry[1]["C"] for entry in made if entry[0] == "error"] == ["0A000"], query
            made = proxy.query(f"create materialized view stored as {query} with no data")
            proxy.rows("reset role")
            if any(entry[0] == "error" for entry in made):
                assert made[0][1]["C"] == "0A000"
                continue
            answer = proxy.query("refresh materialized view stored")
            errors = [entry[1] for entry in answer if entry[0] == "error"]
            assert [error["C"] for error in errors] == ["0A000"], (query, answer)
            proxy.rows("drop materialized view stored")
        owner = connect(town.dsn, user="stored_owner")
        owner.rows("create materialized view stored as select k, told(n) as e from notes")
        assert set(owner.rows("select e from stored")) == {("stored_owner",)}
        owner.close()
    finally:
        proxy.query("rollback")
        proxy.query("reset role")
        proxy.query("drop materialized view if exists stored")
        proxy.query("drop table if exists taken_from")
        proxy.query("drop owned by stored_owner cascade")
        proxy.rows("drop role stored_owner")


def test_two_that_refresh_it_take_turns(twins: Twins, town: Town, connect: Callable[..., WireClient]) -> None:
    twins.query("create materialized view stored as select k, n from notes")
    twins.query("create unique index on stored (k)")
    first, second, other = twins.proxy, connect(town.dsn), connect(town.dsn)
    waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    for number, kind in enumerate(("concurrently ", "")):
        first.rows("begin")
        first.rows("refresh materialized view concurrently stored")
        second.send(Query(f"refresh materialized view {kind}stored".encode()))
        eventually(lambda: town.on_shard(0, waiting) == [(1,)], "the second does not wait")
        other.rows(f"insert into notes values ({2000 + number}, 'meanwhile', 1)")
        first.rows("commit")
        second.read("Z")
        assert first.rows("select count(*) from stored where k >= 2000") == [(str(number + 1),)]


def test_what_nobody_sees_through_refreshes_none(twins: Twins) -> None:
    proxy = twins.proxy
    twins.query("create materialized view stored as select k, n from notes")
    twins.query("insert into notes values (77, 'later', 1)")
    trace = proxy.query("do $$ begin execute 'refresh materialized view stored'; end $$")
    assert [entry[1]["C"] for entry in trace if entry[0] == "error"] == ["0A000"]
    assert proxy.rows("select count(*) from stored") == [("30",)]
    route = "\n".join(row[0] for row in proxy.rows("explain (route) create materialized view other as table notes"))
    assert "kept at home" in route


def test_by_the_extended_protocol(twins: Twins) -> None:
    for text in (
        "create materialized view stored as select k, n, v from notes where n > 2",
        "refresh materialized view stored",
        "select count(*), sum(k) from stored",
        "create materialized view stored as select k from notes",
    ):
        twins.same(parse(text), bind(), execute(), SYNC)
    twins.same(Query(b"begin; refresh materialized view stored; insert into notes values (500); commit"))
    twins.query("set client_encoding to latin1")
    twins.same(
        Query(
            'create materialized view "sch\u00f6n" as select k as "\u00fc", v from notes where v <> \'\u00e4\''.encode(
                "latin1"
            )
        )
    )
    twins.same(Query('refresh materialized view "sch\u00f6n"'.encode("latin1")))
    twins.same(
        Query('select "\u00fc" from "sch\u00f6n" order by 1; drop materialized view "sch\u00f6n"'.encode("latin1"))
    )
