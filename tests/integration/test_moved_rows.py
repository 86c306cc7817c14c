"""INSERT ... SELECT whose rows come from other shards than they go to; UPDATE of sharding keys."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import pytest

from waiting import eventually
from wire_client import SYNC, bind, describe, execute, parse, sqlstates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Town

    from wire_client import Twins, WireClient

VALUES = ", ".join(f"({key}, 'note {key}', {key % 3})" for key in range(1, 31))


@pytest.fixture
def filled(twins: Twins) -> Iterator[Twins]:
    twins.query(f"insert into notes values {VALUES}")
    twins.query("insert into kinds values (1, 'one'), (2, 'two')")
    twins.query("insert into plain values (1, 'p'), (2, null)")
    twins.query("create table made (k bigserial primary key, v varchar(9), m numeric(6, 1) default 1.5, at int4[])")
    yield twins
    twins.query("rollback")
    twins.query("drop table if exists made")


def test_from_shard_to_shard(filled: Twins) -> None:
    for text in (
        "insert into made (k, v) select k + 100, v from notes where k < 10 order by k returning k, v, m",
        "insert into made (k, v, m) select n, v, k / 3.0 from notes where k in (3, 4) returning *",
        "insert into made (k, v, m, at) select 50 + k, null, '7', array[n, k::int] from notes where k > 20",
        "insert into made (v) select name from parents",
        "insert into made select * from (values (200, 'x', 1.25), (201, 'y', null)) v returning k, m",
        "insert into made (k, v) select id + 300, name from kinds",
        "insert into made (k, v) select id + 400, v from plain returning made.*",
        "insert into made (k, v) select k, 'a longer text than nine' from made where k = 50",
        "insert into made (k) select k from made where k = 101",
        "insert into made (k, v) select k, 'again' from made where k < 105 on conflict (k) do update set v = 'b'",
        "insert into made (k, v) select k, 'again' from made on conflict do nothing returning k",
        "insert into made (k, v) select k % 2, v from notes where n = 0 on conflict (k) do update set v = 'twice'",
        "insert into plain select k, v from notes where k > 25 order by 1 returning id",
        "insert into kinds select k, v from notes where k > 27",
        "insert into made (k) select k::text from notes",
        "insert into made (k, v) select 1",
        "insert into made (nope) select k from notes",
        "with n as (select k from notes where n = 1) insert into made (k) select k + 500 from n",
        "insert into made (k, v) (select k + 600, v from notes union select id + 700, name from kinds)",
        "select * from made order by k",
        "select * from plain order by id",
        "select * from kinds order by id",
    ):
        filled.query(text)


def test_numbers_for_rows_that_are_read(filled: Twins) -> None:
    filled.query("insert into made (v) select v from notes where k < 6 order by k returning k, v")
    filled.query("insert into made (v) select v from notes where k < 0 returning k")
    filled.query("select k, v from made order by k")


def test_the_extended_protocol(filled: Twins) -> None:
    insert = parse(
        "insert into made (k, v) select k + $1, $2 from notes where n = $3 order by k returning k, $2::text", "s"
    )
    filled.same(insert, describe("S", "s"), SYNC)
    filled.same(bind(b"700", b"a", b"1", statement="s", results=(1, 0)), describe("P"), execute(), SYNC)
    filled.same(bind(b"800", b"b", b"5", statement="s"), describe("P"), execute(), SYNC)
    filled.query("select k, v from made order by k")


def test_own_writes_are_read_and_rolled_back(filled: Twins) -> None:
    for text in (
        "begin",
        "insert into notes values (90, 'new', 1), (91, 'new', 2)",
        "insert into made (k, v) select k + 1, v from notes where v = 'new'",
        "select k, v from made order by k",
        "rollback",
        "select count(*) from made",
    ):
        filled.query(text)


def test_copies_of_a_reference_table_get_the_same_rows(town: Town, connect: Callable[..., WireClient]) -> None:
    client = connect(town.dsn)
    client.rows(f"insert into notes values {VALUES}")
    client.rows("insert into kinds select k, v from notes where k > 20")
    copies = town.everywhere("select * from kinds order by id")
    assert copies[0] == copies[1] == copies[2] != []


def test_more_rows_than_one_statement_takes(town: Town, connect: Callable[..., WireClient]) -> None:
    client = connect(town.dsn)
    client.rows("insert into plain select n, 'x' from generate_series(1, 50000) n")
    client.rows("create table made (k int8 primary key, a int4, b int4, c int4, d text)")
    try:
        trace = client.query("insert into made select id, 1, 2, 3, v from plain")
        assert trace[-2:] == [("tag", "INSERT 0 50000"), ("ready", "I")]
        assert client.rows("select count(*), min(k), max(k) from made") == [("50000", "1", "50000")]
        trace = client.query("insert into made select id, 1, 2, 3, v from plain on conflict (k) do update set a = 5")
        assert trace[0][1]["C"] == "53400"
    finally:
        client.rows("drop table made")


KEYED = """create table made (k int8 primary key, v text, n int4 check (n >= 0),
    g int4 generated always as (n * 2) stored, i int4 generated always as identity)"""


def test_keys_that_change(twins: Twins) -> None:
    rows = ", ".join(f"({key}, 'note {key}', {key % 3})" for key in range(1, 13))
    for text in (
        "insert into kinds values (1, 'a'), (2, 'b'), (6, 'c')",
        KEYED,
        f"insert into made (k, v, n) values {rows}",
        "set pgchorus.allow_key_update = on",
        "update made set k = 100 where k = 1 returning k, v, n, g, i",
        "update made set k = k + 1000, n = n + 1, v = null where n = 1 and k = 10",
        "update made set k = k + 2000 where n = 2",
        "update made as t set k = 7000 + kinds.id, v = kinds.name from kinds where kinds.id = t.k",
        "update made set k = '55', v = 'x' where k = 3",
        "update made set k = 56, n = (n is distinct from 5)::int where k is not distinct from 55 returning n",
        "update made set k = 55 where k is not distinct from 56",
        "update made set k = 100 where k = 9",
        "update made set n = -1, k = 5 where k = 9",
        "update made set k = k where k = 9 returning k",
        "update made set k = 1 where false returning k",
        "begin",
        "update made set k = -k",
        "select * from made order by k",
        "rollback",
        "select * from made order by k",
    ):
        twins.query(text)
    twins.same(parse("update made set k = k + $1 where k = $2 returning *"), bind(b"10000", b"100"), execute(), SYNC)
    twins.query("drop table made")


def test_a_key_changes_only_where_the_session_asks_for_it(town: Town, connect: Callable[..., WireClient]) -> None:
    client = connect(town.dsn)
    client.rows("insert into notes values (1, 'a', 1)")
    client.rows("insert into parents values (1, 'a')")
    assert "allow_key_update" in client.query("update notes set k = 2")[0][1]["H"]
    client.rows("set pgchorus.allow_key_update = on")
    assert client.rows("update notes set k = 2 returning k") == [("2",)]
    assert client.query("update parents set id = 2")[0][1]["C"] == "0A000"  # children refer to it


def _somebody_waits(servers: list[WireClient]) -> bool:
    return any(server.rows("select 1 from pg_locks where not granted") for server in servers)


def test_a_merge_finds_rows_that_move_while_it_waits_for_them(town: Town, connect: Callable[..., WireClient]) -> None:
    """What it takes for unmatched would be inserted beside the row that it matches."""
    key = town.spread[0]
    moved = next(k for k in range(1000, 2000) if town.shard_of(k) != town.shard_of(key))
    merge = """merge into notes using (select n + 0 g, 5 d from notes where n in (1, 2)) s on notes.n = s.g
               when matched then update set v = v || d when not matched then insert values (g + 5000, 'new', 0)"""
    answers = []
    for dsn, servers in ((town.one, [town.one]), (town.dsn, town.shards)):
        watch = [connect(server) for server in servers]
        first, second, third = connect(dsn), connect(dsn), connect(dsn)
        first.rows("delete from notes")
        first.rows(f"insert into notes values ({key}, 'a', 1), ({town.spread[1]}, 'b', 2)")
        first.rows("set pgchorus.allow_key_update = on")
        first.rows("begin")
        first.rows(f"update notes set k = {moved} where n = 1")
        with ThreadPoolExecutor() as threads:
            waiting = threads.submit(second.query, merge)
            eventually(partial(_somebody_waits, watch), "nobody waits for the first")
            first.rows("commit")
            answers.append((waiting.result(), third.rows("select * from notes order by k")))
    assert answers[1] == answers[0]


def test_rows_that_are_gathered_and_moved_beside_another_number_of_returned_columns(filled: Twins) -> None:
    """The formats of what is read are its own, not those of what the client was told of RETURNING."""
    text = "insert into made (k, v, m) select a.k + $1, max(b.v), 2 from notes a join notes b on b.n = a.k group by a.k"
    for result in ((), (1,)):
        filled.same(parse("begin"), bind(), execute(), SYNC)
        filled.same(
            parse(f"{text} returning k"), bind(b"700", results=result), describe("P"), execute(), SYNC, ignoring="P"
        )
        filled.same(parse("select * from made order by k"), bind(), execute(), SYNC)
        filled.same(parse("rollback"), bind(), execute(), SYNC)


def test_keys_that_an_outer_join_makes_null_go_where_null_lives(twins: Twins) -> None:
    twins.query(f"insert into notes values {VALUES}")
    twins.query("create table made (k int8, v text)")
    try:
        twins.query("insert into made select b.k, a.v from notes a left join notes b on b.k = a.k and b.k < 9")
        twins.query("insert into made select a.k, b.v from notes a left join notes b on b.k = a.k and b.k < 9")
        twins.query("select * from made order by k, v")
        twins.query("select count(*) from made where k is null")
    finally:
        twins.query("drop table made")


def test_what_is_constant_is_computed_before_any_row_is_read(filled: Twins) -> None:
    """Postgres folds constants when it plans: their errors come first, and without a row."""
    for text in (
        "insert into made (k, v) select k + 100, 'longer than nine' from notes where k < 0",
        "insert into made (k, v) select k + 100, 'longer than nine' from notes where false",
        "insert into made (k, v) select n, 'longer than nine' from notes where k = 5 and k = 6",
        "insert into made (k, v, m) select k + 100, 'longer than nine', 1 / (k - k) from notes",
        "insert into made (k, m) select k + 100, 1 / 0 from notes where k < 0",
        "insert into made (k, v) select k + 100, 'short' from notes where k < 0 returning 1 / 0",
        "insert into made (k) select k + 100 from notes where k < 0 on conflict (k) do update set m = 1 / 0",
        "insert into made (k, v) select k + 100, case when n < 0 then 'longer than nine' else 'short' end from notes",
        "insert into plain select k + 100, (1 / 0)::text from notes where k < 0",
        "update made set v = 'longer than nine', m = (select max(n) / 0 from notes) where k < 0",
        "update notes set n = (select 1 / 0 from made limit 1) where k < 0",
        "update notes set n = (select max(n) / 0 from made) where k < 0",
        "prepare short (text) as insert into made (k, v) select k + 200, $1 from notes where k < 0",
        "execute short ('longer than nine')",
        "execute short ('short')",
        "deallocate short",
        "select count(*) from made",
    ):
        filled.query(text)


def test_what_was_inserted_is_told_from_what_was_there(filled: Twins) -> None:
    filled.query("insert into made (k, v) values (101, 'there'), (102, 'there')")
    text = """insert into made (k, v) select k + 100, v from notes where k < 5 order by k
              on conflict (k) do update set v = 'met' returning k, (xmax = 0) as inserted, old.v, new.v"""
    filled.query(text)
    filled.query("select k, v from made order by k")
    assert sqlstates(filled.proxy.query("insert into made (k) select k + 300 from notes returning ctid")) in (
        ["0A000"],
        [],  # of one shard
    )


def test_the_time_of_rows_that_are_moved_is_one_on_all_shards(twins: Twins) -> None:
    twins.query(f"insert into notes values {VALUES}")
    twins.query("create table made (k int8, v text, at timestamptz default now(), d date default current_timestamp)")
    try:
        for text in (
            "begin",
            "insert into made select k + 100, v from notes",
            "insert into made select n, max(v) from notes group by n",
            "insert into made (v, k) select distinct 'x', n + 10 from notes",
            "insert into made (k) select k from notes union all select k + 1 from notes",
            "select count(*), count(distinct at), bool_and(at = now()), bool_and(d = now()::date) from made",
            "commit",
        ):
            twins.query(text)
    finally:
        twins.query("drop table made")


@pytest.mark.parametrize(
    ("text", "sqlstate"),
    [
        ("insert into notes (k) select r from notes", ["0A000"]),
        ("insert into notes (k, v) select k, v from (select r::oid::int8 as k, v from notes) x", ["0A000"]),
        ("insert into notes (k, n) select k, r::oid from notes", ["0A000"]),
        ("insert into notes select k + 900, v, r from notes", ["0A000"]),
        ("update notes set n = r", ["0A000"]),
        ("update notes set n = m.r::oid::int4 from notes m where m.k = notes.k", ["0A000"]),
        ("insert into notes (k, v, r) select k + 900, r, r from notes", []),
        ("update notes set v = r, n = n + 1", []),
        ("insert into notes select * from notes on conflict (k) do nothing", []),
    ],
)
def test_the_number_of_an_object_in_a_column_is_no_value_for_another(
    town: Town, connect: Callable[..., WireClient], text: str, sqlstate: list[str]
) -> None:
    """Each shard would store its own."""
    client = connect(town.dsn)
    client.rows("alter table notes add column r regclass")
    try:
        client.rows(f"insert into notes (k, v, n) values {VALUES}")
        client.rows("update notes set r = 'kinds'")
        trace = client.query(text)
        assert sqlstates(trace) == sqlstate, trace
    finally:
        client.rows("truncate notes")
        client.rows("alter table notes drop column r")
