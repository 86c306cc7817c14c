"""Tables that only home has, in transactions that have used another shard first: home says what statements give."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from wire_client import SYNC, Twins, bind, describe, execute, parse

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Town

    from wire_client import WireClient

STATEMENTS = (
    "select v from plain where id = $1",
    "select notes.k, plain.v from notes join plain on plain.id = notes.n where notes.k > $1 - 10 order by 1",
    "insert into plain (id, v) select k + 100 + $1, v from notes returning v",
    "update plain set v = 'changed' where id = $1 returning id, v",
)


@pytest.mark.parametrize("text", STATEMENTS)
def test_what_only_home_has_is_described_by_home(town: Town, twins: Twins, text: str) -> None:
    twins.query("insert into plain values (1, 'one'), (2, 'two')")
    for key in town.spread:
        twins.query(f"insert into notes values ({key}, 'note', 1)")
    for key in town.spread:
        twins.query("begin")
        twins.query(f"select v from notes where k = {key}")
        twins.same(parse(f"{text} -- {key}"), bind(b"1"), describe("P"), execute(), SYNC)
        twins.query("rollback")


def test_a_refusal_is_not_taken_for_a_missing_table(town: Town, connect: Callable[[str], WireClient]) -> None:
    proxy = connect(town.dsn)
    for key in town.spread:
        proxy.query("begin")
        proxy.query(f"select v from notes where k = {key}")
        trace = proxy.query("update notes set k = (select max(p.id) from plain p)")
        assert [entry[1]["C"] for entry in trace if entry[0] == "error"] == ["0A000"], trace
        proxy.query("rollback")


HIDING = (
    "create temp table plain (id int4, v text)",
    "create table pg_temp.plain (id int4, v text)",
    "create temp table plain as select 1 as id",
    "select k as id into temp plain from notes",
    "create temp view plain as select 1 as id",
    "alter table mine rename to plain",
    "do $$ begin create temp table plain (id int4, v text); end $$",
)


def test_nothing_temporary_has_the_name_of_a_table_of_home(town: Town, connect: Callable[[str], WireClient]) -> None:
    """Statements over several shards would read and delete by the lasting table."""
    proxy = connect(town.dsn)
    proxy.rows("insert into plain values (1, 'one')")
    proxy.rows(f"insert into notes (k, n) values {', '.join(f'({key}, 2)' for key in town.spread)}")
    proxy.rows("create temp table mine (id int4, v text)")
    for text in HIDING:
        for begin, end in (("", ""), ("begin", "rollback")):
            proxy.query(begin)
            trace = proxy.query(text)
            assert [entry[1]["C"] for entry in trace if entry[0] == "error"] == ["0A000"], text
            proxy.query(end)
    assert proxy.rows("select count(*) from mine") == [("0",)]
    proxy.rows("delete from notes where exists (select from plain p where p.id = n)")
    assert proxy.rows("select count(*) from notes") == [("3",)]


MEANS_IT = (
    "select v from mine",
    "select * from mine cross join notes",
    "delete from notes where exists (select from mine m where m.id = n)",
    "update notes set v = (select max(v) from mine)",
    "insert into notes (k, n) select id, 3 from mine",
    "drop table mine",
    "alter table mine add column more int4",
    "copy mine to stdout",
    "select 'mine'::regclass",
    "select fetched()",
)


def test_a_lasting_table_that_takes_the_name_of_a_temporary_one_is_not_meant(
    town: Town, connect: Callable[[str], WireClient]
) -> None:
    """The session with the temporary one is refused what it means by that name, until it drops its own."""
    proxy, other = connect(town.dsn), connect(town.dsn)
    for key in town.spread:
        other.rows(f"insert into notes (k, n) values ({key}, 2)")
    proxy.rows("create temp table mine (id int4, v text)")
    proxy.rows("insert into mine values (1, 'temporary')")
    proxy.ask(parse("select v from mine", "named"), SYNC)
    try:
        other.rows("create table mine (id int4, v text)")
        other.rows("insert into mine values (2, 'lasting')")
        other.rows("create function fetched() returns text language sql as 'select v from mine'")
        for text in MEANS_IT:
            for begin, end in (("", ""), ("begin", "rollback")):
                proxy.query(begin)
                trace = proxy.query(text)
                assert [entry[1]["C"] for entry in trace if entry[0] == "error"] == ["0A000"], (text, trace)
                proxy.query(end)
                trace = proxy.ask(parse(text), bind(), execute(), SYNC)
                assert [entry[1]["C"] for entry in trace if entry[0] == "error"] == ["0A000"], (text, trace)
        trace = proxy.ask(bind(statement="named"), execute(), SYNC)
        assert [entry[1]["C"] for entry in trace if entry[0] == "error"] == ["0A000"], trace
        assert proxy.rows("select v from public.mine") == [("lasting",)]
        assert proxy.rows("select count(*) from notes where n = 2") == [("3",)]
        assert other.rows("select v from mine") == [("lasting",)]
        proxy.rows("drop table pg_temp.mine")
        assert proxy.rows("select v, (select count(*) from notes) from mine") == [("lasting", "3")]
    finally:
        other.query("drop function fetched(); drop table mine")


UNSEEN = (
    "set search_path = missing, pg_temp; create table unseen as select 1 as id",
    "set search_path = missing, pg_temp; create table unseen (id int4)",
    "set search_path = missing, pg_temp; create view unseen as select 1 as id",
    "set search_path = missing, pg_temp; create sequence unseen",
    "set search_path = missing, pg_temp; select 1 as id into unseen",
    "select 1 as id into temp unseen",
    "create table pg_temp.unseen (id int4)",
    "create temp table seen (id int4); create view unseen as select * from seen",
)


@pytest.mark.parametrize("text", UNSEEN)
def test_what_is_temporary_by_the_search_path_stays_with_its_session(
    any_town: Town, connect: Callable[..., WireClient], text: str
) -> None:
    """Or is an error; in no case does another client meet it on a link."""
    for begin, end in (("", ""), ("begin", "commit")):
        proxy = connect(any_town.dsn)
        proxy.query(begin)
        traces = [proxy.query(part) for part in text.split("; ")]
        traces.append(proxy.query(end))
        failed = any(entry[0] == "error" for trace in traces for entry in trace)
        others = [connect(any_town.dsn) for _ in range(3)]
        for other in others:  # each has a link of its own, the one that is used last first
            other.query("begin")
            assert other.rows("select count(*) from pg_class where relnamespace = pg_my_temp_schema()") == [("0",)], (
                text
            )
        if not failed:
            assert not [entry for entry in proxy.query("select * from unseen") if entry[0] == "error"]
        for other in others:
            other.query("rollback")
        proxy.close()


DEPENDENT = (
    # what needs the row type of a home table, its columns, or a function that is there alone
    "create function whole() returns setof plain language plpgsql as $$begin return query select * from plain; end$$",
    "create function shown(p plain) returns text language sql as $$select (p).v || '!'$$",
    (
        "create function declared() returns text language plpgsql as $$declare r plain%rowtype; q plain.v%type;"
        " begin select * into r from plain order by id limit 1; return r.v; end$$"
    ),
    "create function alike(x plain.id%type default 3) returns plain.v%type language sql as $$select $1::text$$",
    "create function hp() returns int language sql stable as $$select max(id) from plain$$",
    "create function hq() returns int language sql stable as $$select hp() + 1$$",
    "create or replace function hq() returns int language sql stable as $$select hp() + 2$$",
    "create procedure filled() language sql set search_path = hidden as $$insert into ht values (5)$$",
    "create function inner_most() returns int language sql set search_path = hidden as $$select max(k) from ht$$",
    "create type pair as (p plain, n int)",
    "create domain not_hp as int check (value <> hp())",
    "create function of_pair(p pair) returns int language sql as $$select p.n$$",
    "create aggregate last_shown(plain) (sfunc = kept, stype = text)",
    "create view seen as select id, hq() as q from kinds",
    "create trigger stamped before insert on plain for each row execute function stamp()",
    "comment on function hq() is 'needs home'",
    "alter function hq() cost 7",
    "grant execute on function hq() to public",
    "comment on type pair is 'needs home'",
    "alter type pair add attribute m int",
    "comment on view seen is 'needs home'",
    "grant select on seen to public",
)
ASKED = (
    "select * from whole() order by 1",
    "select shown(p), p.shown from plain p order by 1",
    "select declared(), alike(), alike(7), hq(), inner_most()",
    "select of_pair(row(null, 5, 6)::pair)",
    "select (row(null, 5, 6)::pair).n",
    "select 3::not_hp",
    "select 2::not_hp",
    "select last_shown(p order by id) from plain p",
    "select * from seen order by 1",
    "insert into plain values (9, 'nine') returning v",
    "call filled()",
    "select max(k) from hidden.ht",
    "select alike(k::int) from notes order by k",
)
ONE_BY_ONE = (
    "select k from notes where n < hq() order by k",
    "select n, declared() from notes order by k",
    "select k, shown(null) from notes order by k",
    "select k, null::pair from notes order by k",
    "update notes set n = of_pair(null)",
)
REFUSED_THERE = (
    "create policy no on notes using (hp() > 0)",
    "alter table notes add column p plain",
    "alter table notes add column p pair",
    "alter table notes add check (n <> hp())",
    "create table made (k int8 primary key, p plain)",
    "create trigger stamped before insert on notes for each row execute function stamp()",
    "create view mixed_up as select k, hq() from notes",
    "alter type everyones add attribute q plain",
    "alter domain anybodys add check (value <> hp())",
)


@pytest.fixture
def both(town: Town, connect: Callable[..., WireClient]) -> Twins:
    return Twins(connect(town.one), connect(town.dsn))


def test_what_needs_a_table_of_home_is_made_at_home(town: Town, both: Twins) -> None:
    stamp = "declare r plain%rowtype; begin r := new; r.v := 'stamped'; return r; end"
    kept = "create function kept(text, plain) returns text language sql as $$select $2.v$$"
    both.query("insert into plain values (1, 'one'), (2, 'two'); insert into kinds values (1, 'a'), (2, 'b')")
    both.query(f"insert into notes (k, n) values {', '.join(f'({key}, 2)' for key in town.spread)}")
    both.query("create type everyones as (n int); create domain anybodys as int")
    both.query("create schema hidden; create table hidden.ht (k int); insert into hidden.ht values (4)")
    both.query(f"create function stamp() returns trigger language plpgsql as $${stamp}$$; {kept}")
    try:
        for text in DEPENDENT:
            both.query(text)
        for text in ASKED:
            both.query(text)
        for text in (*ONE_BY_ONE, *REFUSED_THERE):
            trace = both.proxy.query(text)
            assert [entry[1]["C"] for entry in trace if entry[0] == "error"] == ["0A000"], (text, trace)
        made = town.everywhere("select count(*) from pg_proc where proname in ('hq', 'whole')")
        assert made == [[(2,)], [(0,)], [(0,)]]
        assert town.everywhere("select count(*) from pg_proc where proname = 'alike'") == [[(1,)]] * 3
        both.query("drop function hq() cascade")
        both.query("drop type pair cascade")
    finally:
        names = "whole, shown, declared, alike, hp, hq, inner_most, filled, of_pair, kept, stamp"
        for client in (both.one, both.proxy):
            client.query(f"drop routine if exists {names} cascade")
            client.query("drop schema hidden cascade; drop type everyones, anybodys cascade")


def test_what_needs_a_table_of_the_same_block_is_made_with_it(both: Twins) -> None:
    for end in ("rollback", "commit"):
        both.query("begin")
        both.query("create table fresh (id int, v text)")
        both.query("create function of_fresh() returns setof fresh language sql as $$select * from fresh$$")
        both.query("create function in_fresh(f fresh) returns text language plpgsql as $$begin return f.v; end$$")
        both.query("insert into fresh values (1, 'a')")
        both.query("select in_fresh(f) from of_fresh() f")
        both.query(end)
    both.query("select in_fresh(f) from of_fresh() f")
    both.query("drop function of_fresh(); drop function in_fresh(fresh); drop table fresh")


def test_nothing_of_a_replaced_function_is_left_on_other_shards(town: Town, both: Twins) -> None:
    both.query("create function told(n int default 1) returns int language plpgsql as 'begin return 1; end'")
    try:
        changed = "declare r plain%rowtype; begin return 2; end"
        both.query(f"create or replace function told(n int default 1) returns int language plpgsql as '{changed}'")
        assert [len(rows) for rows in town.everywhere("select from pg_proc where proname = 'told'")] == [1, 0, 0]
        both.query(f"insert into notes (k, n) values {', '.join(f'({key}, 2)' for key in town.spread)}")
        assert both.proxy.query("select k from notes where n = told()")[0][1]["C"] == "0A000"
        both.query("select told()")
    finally:
        both.query("drop function told(int)")
