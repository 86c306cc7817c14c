"""Writes to reference tables: whatever the statement, all copies are equal, and equal to one Postgres."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from waiting import eventually
from wire_client import SYNC, bind, describe, execute, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Town

    from wire_client import Twins, WireClient

CODES = """create table codes (id serial primary key, v text, r float8 default random(), at timestamptz default now(),
    g int4 generated always as (id * 2) stored, x int4[])"""


@pytest.fixture
def codes(twins: Twins) -> Iterator[Twins]:
    twins.query(CODES)
    twins.query("insert into plain values (1, 'p'), (2, 'q'), (30, 'r')")
    twins.query("insert into codes (v) values ('a'), ('b'), ('c')")
    yield twins
    twins.query("rollback")
    twins.query("drop table codes")


def copies(town: Town) -> list[dict[str, Any]]:
    """Return what every shard has, once it is seen that all have the same."""
    found = town.everywhere("select to_jsonb(codes) from codes order by id, v")
    assert all(copy == found[0] for copy in found[1:]), found
    return [row for (row,) in found[0]]


@pytest.mark.parametrize(
    "text",
    [
        "insert into codes (v) values ('d'), ('e') returning id, v, g",
        "insert into codes default values",
        "insert into codes (v, r) select v, random() from plain order by id returning id",
        "insert into codes (id, v) values (2, 'x'), (9, 'y') on conflict (id) do update set v = excluded.v || codes.v",
        "insert into codes (id, v) values (2, 'x'), (9, 'y') on conflict do nothing returning id",
        "update codes set v = upper(v), r = random() where id > 1 returning id",
        "update codes set v = v || '!' where id in (select id from codes order by random() limit 2)",
        "update codes set id = id + 100 where id > 1 returning id, v, g",
        "update codes c set v = p.v, x[2] = 7 from plain p where p.id = c.id",
        "delete from codes where id = (select max(id) from codes) returning id, v",
        "delete from codes using plain where plain.id = codes.id and plain.v = 'p'",
        """merge into codes c using plain p on p.id = c.id when matched and p.v = 'p' then delete
        when matched then update set v = p.v when not matched then insert (id, v) values (p.id, 'new')""",
        "with p as (select * from plain) update codes set v = p.v from p where p.id = codes.id returning codes.v",
        "update codes set v = 'q' where id = 1 returning old.v, new.v, id",
        "update codes set v = 'r' where id = 1 returning with (old as o) o.v, new.v, id",
        "update codes set at = now() - interval '1 day', v = to_char(now() - now(), 'SS')",
        "insert into codes (v) values (nextval('codes_id_seq')::text) returning v",
    ],
)
def test_by_row(codes: Twins, any_town: Town, text: str) -> None:
    codes.query(text) if "random()" not in text.partition("where")[2] else codes.proxy.rows(text)
    if "random()" not in text.partition("where")[2]:
        codes.query("select id, v, g, x from codes order by id")
    assert copies(any_town)


def test_the_extended_protocol_and_blocks(codes: Twins, any_town: Town) -> None:
    update = parse("update codes set v = $1 where id > $2 returning id, v", "s")
    codes.same(update, describe("S", "s"), SYNC)
    codes.same(bind(b"z", b"1", statement="s", results=(1, 0)), describe("P"), execute(), SYNC)
    codes.same(parse("insert into codes (v, at) values ($1, $2) returning id"), bind(b"n", b"today"), execute(), SYNC)
    for text in (
        "begin",
        "update codes set v = 'in the block'",
        "savepoint a",
        "delete from codes",
        "rollback to a",
        "select v from codes order by id",
        "commit",
    ):
        codes.query(text)
    assert {row["v"] for row in copies(any_town)} == {"in the block"}


def test_without_a_primary_key(twins: Twins, any_town: Town) -> None:
    for text in (
        "create table codes (id int4, v text)",
        "insert into codes values (1, 'a'), (2, 'b'), (2, 'b')",
        "update codes set v = v || 'x' where id = 2 returning *",
        "delete from codes where id = 1",
        "select * from codes order by 1, 2",
    ):
        twins.query(text)
    copies(any_town)
    twins.query("drop table codes")


def test_a_statement_that_waits_for_another_changes_the_same_rows_everywhere(
    town: Town, connect: Callable[..., WireClient]
) -> None:
    first, second = connect(town.dsn), connect(town.dsn)
    for with_key in (", primary key (id)", ""):
        first.rows(f"create table codes (id int4, v text{with_key})")
        first.rows("insert into codes values (1, 'a'), (2, 'b'), (3, 'c')")
        first.rows("begin")
        first.rows("update codes set v = 'x' where id = 1")
        with ThreadPoolExecutor() as threads:
            waiting = threads.submit(second.query, "update codes set v = v || '!' where v <> 'x'")
            eventually(
                lambda: town.on_shard(0, "select 1 from pg_locks where not granted"), "nobody waits for the first"
            )
            first.rows("commit")
            assert waiting.result()[0] == ("tag", "UPDATE 2")
        assert [row["v"] for row in copies(town)] == ["x", "b!", "c!"]
        first.rows("drop table codes")


OF_A_SERVER = (
    "insert into codes (id, v) values (50, 'codes'::regclass::oid::text), (51, current_setting('port'))",
    "insert into codes (id, v) values (50, current_setting('data_directory')), (51, to_regclass('codes')::oid::text)",
    "insert into codes (r, v) values ('codes'::regclass::int8, 'codes'::regclass::text)",
    "insert into codes (id) values ('codes'::regclass)",
    "insert into codes (id, v) values (50, abs('codes'::regclass)::text)",
    "insert into codes (id, v) select 50 + id, current_setting('port') || id from codes where id < 3",
    "update codes set v = current_setting('Port') || cast(cast('codes' as regclass) as bigint) where id < 3",
    "update codes set x[1] = 'codes'::regclass where id < 3",
    "insert into codes (id, v) values (50, (case when true then 'codes'::regclass end)::oid::text)",
    "insert into codes (id) select case when k < 3 then 'codes'::regclass else 'plain'::regclass end from notes",
    "insert into codes (id, v) select k + 50, array['codes'::regclass, 'notes'] from notes order by k limit 2",
    "update codes set x[1] = case when id = 1 then 'codes'::regclass end where id < 3",
)


@pytest.mark.parametrize("text", OF_A_SERVER)
def test_what_is_a_servers_own_is_homes_on_every_copy(codes: Twins, any_town: Town, text: str) -> None:
    codes.query("insert into notes values (1, 'a'), (2, 'b'), (3, 'c')")
    codes.proxy.query(text)
    copies(any_town)


def test_no_answer_of_several_shards_has_what_is_each_servers_own(codes: Twins) -> None:
    codes.query("insert into notes select g, 'v' || g, g % 3 from generate_series(1, 9) g")
    for text in (
        "select k, current_setting('port') from notes",
        "select k from notes where 'codes'::regclass::oid::int8 > 0",
        "update notes set v = current_setting('data_directory')",
        "select a.k, current_setting('transaction_read_only') from notes a join plain p on a.n = p.id",
        "select a.k, current_setting('transaction_isolation') from notes a join plain p on a.n = p.id",
        "select a.k, current_schemas(true) from notes a join plain p on a.n = p.id",
    ):
        found = codes.proxy.query(text)
        if any(entry[0] == "error" for entry in found):
            assert [entry[1]["C"] for entry in found if entry[0] == "error"] == ["0A000"], text
        else:
            rows = {entry[1][-1] for entry in found if entry[0] == "row" and "current" in text}
            assert len(rows) <= 1, (text, rows)
            assert not rows & {b"on", b"read uncommitted"}, text
    for text in (
        "select k, current_setting('timezone'), current_setting('app.x', true) from notes order by k",
        "select a.k, current_schemas(false) from notes a join plain p on a.n = p.id order by k",
        "select 'notes'::regclass, k from notes order by k",
        "select k, current_setting('transaction_read_only') from notes order by k",
        "select 'notes'::regclass::text, k from notes where k = 1",
    ):
        codes.query(text)


FUNCTIONS = """create function first_kind() returns text language sql stable as 'select name from kinds limit 1';
    create function port() returns text language plpgsql stable as 'begin return current_setting(''port''); end';
    create function number() returns text language sql immutable as $$select 'notes'::regclass::oid::text$$;
    create function sees() returns trigger language plpgsql as
        'begin new.v := (select string_agg(name, '','') from kinds); return new; end';
    create function tells() returns trigger language plpgsql as
        'begin new.v := current_setting(''port''); return new; end';
    create function times() returns trigger language plpgsql as 'begin new.at := now(); return new; end'"""


def test_what_functions_find_is_found_once(town: Town, connect: Callable[..., WireClient]) -> None:
    """Rows lie in another order on each shard, and each has settings and numbers of its own."""
    client = connect(town.dsn)
    for text in (CODES, *FUNCTIONS.split(";\n")):
        client.rows(text)
    try:
        client.rows("insert into codes (v) values ('a'), ('b'), ('c')")
        client.rows("insert into kinds values (1, 'k1'), (2, 'k2'), (3, 'k3')")
        town.on_shard(2, "update kinds set name = name where id = 1 returning 1")  # it is the last one there now
        for value in ("first_kind()", "port()", "number()"):
            client.rows(f"insert into codes (id, v) values (1000, {value})")
            client.rows(f"update codes set v = v || {value} where id < 9")
            copies(town)
            client.rows("delete from codes where id = 1000")
            assert refused(client.query(f"alter table codes add column made text default {value}"))
        numbered = "generated always as (number()) stored"
        assert refused(client.query(f"alter table codes add column made text {numbered}"))
        client.rows("alter table codes add column made text generated always as (upper(v)) stored")
        assert refused(client.query("alter table codes alter made set expression as (number())"))
        client.rows("alter table codes drop column made")
        for maker in ("sees", "tells", "times"):
            client.rows(
                f"create trigger makes before insert or update on codes for each row execute function {maker}()"
            )
            assert refused(client.query("insert into codes (id, v) values (1001, 'x')"))
            assert refused(client.query("insert into codes (id, v, at) select k, v, '2020-01-01' from notes"))
            assert refused(client.query("update codes set v = 'y' where id = 1"))
            assert refused(client.query("copy codes (id, v) from stdin"))
            client.rows("drop trigger makes on codes")
        assert refused(client.query("copy codes (id, v) from stdin where v <> first_kind()"))
        copies(town)
    finally:
        client.rows("drop table codes")
        for name in ("first_kind", "port", "number", "sees", "tells", "times"):
            client.rows(f"drop function {name}()")


def refused(trace: list[Any]) -> bool:
    return [entry[1]["C"] for entry in trace if entry[0] == "error"] == ["0A000"]
