"""Tables that only home has, in transactions that have used another shard first: home says what statements give."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from wire_client import SYNC, bind, describe, execute, parse

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Town

    from wire_client import Twins, WireClient

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
