"""UPDATE and DELETE over several shards with subqueries over several shards: asked first, then filled in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from wire_client import SYNC, bind, describe, execute, parse, sqlstates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Town

    from wire_client import Twins, WireClient


@pytest.fixture
def filled(twins: Twins) -> Iterator[Twins]:
    twins.query("insert into notes select n, 'v' || n % 5, n % 3 from generate_series(1, 20) n")
    twins.query("insert into words values ('v1', 3), ('v2', 5), ('w', null)")
    twins.query("insert into plain values (3, 'v3'), (4, null)")
    yield twins
    twins.query("rollback")


@pytest.mark.parametrize(
    "text",
    [
        # What is read is not computed with before a row needs it.
        "update notes set n = (select max(k) * 10000000000 from notes) where n = 77",
        "update notes set n = n + 1 / (select min(k) - 1 from notes) where n = 77 returning *",
        "update notes set n = n + (select min(k) from notes)::int4, v = (select max(v) from notes) where n = 1",
        "update notes set v = 'x' where n = 77 and 1 / (select min(k) - 1 from notes) > 0",
        "delete from notes where n = 77 and (select max(k) * 10000000000 from notes)::int4 > 0",
        "delete from notes where n = 77 and k = (select max(k) * 10000000000 from notes)::int4",
        "delete from notes where n = 77 and (select max(k) * 10000000000 from notes)::int4 = n",
        "update notes set n = (select max(n) from words) where k < 6",
        "update notes set v = 'x' where v in (select word from words)",
        "update notes set v = 'y' where n > (select avg(n) from words) - 3 and n = (select min(n) from notes)",
        "update notes set v = 'z' where k = (select min(k) from notes) returning *",
        "update notes set v = 'p' where k in (select id from plain) returning k",
        "delete from notes where v in (select v from plain)",
        "delete from notes where v not in (select word from words)",
        "delete from notes where k not in (select n from words)",  # a NULL among them
        "delete from notes where k not in (select n from words where n > 100)",
        "delete from notes where exists (select 1 from words where n > 4) and k > 15",
        "delete from notes where not exists (select 1 from words where n > 4)",
        "update notes set v = (select word from words)",  # several rows
        "update notes set v = (select word, n from words)",
        "update notes set v = (select word from words where n > 100)",
        "update notes set v = (select nope from words)",
        "delete from notes where k in (select n from words) or k = (select 7)",
        "update notes set v = x.w from (select word w, n from words order by n nulls last limit 2) x where x.n = k",
        "with x as (select word, n from words where n > 2) delete from notes using x where x.word = v",
        "with x as (select max(n) m, count(*) from words) delete from notes using x where k = x.m returning k, x.*",
        "with x as (select k from notes order by k desc limit 3) update notes set n = 9 where k in (select k from x)",
        "delete from notes using (select word from words where n > 100) x where x.word <> v",
        "update notes set v = x.nope from (select word from words limit 1) x",
        "update notes set n = x.n from (select * from words order by 1 limit 1) x where v = word and k = 6 returning *",
        "update notes set n = x.n from (select max(n) n, 'a'::varchar(3) w from words) x where k = 6 returning w",
        "update notes set n = w.n from words w where w.word = notes.v and k = 6 returning notes.*, w.*",
        "update notes set n = id from words w join plain p on p.id = w.n where w.word = notes.v and k = 6 returning *",
        "update notes a set v = b.v, n = b.n from notes b where b.k = a.k + 1 and a.k > 18 returning a.k, b.k, new.v",
        "delete from notes where not exists (select 1 from words w where w.word = notes.v)",
        "delete from notes where exists (select 1 from words where word = v and n > 4) and k < 5 returning *",
        "update notes set n = (select n from words where word = notes.v), v = (select v from plain where id = k)",
        "update notes set (v, n) = (select w.word || '!', w.n from words w where w.word = notes.v) where k < 9",
        "update notes set v = (select word from words w where w.n < k)",  # several rows for some
        "update words w set n = p.id from plain p where p.v is null and w.word = 'w'",
        "update notes set n = 7 from (select 1 + max(n) from words) x",
        "delete from plain p using words w where w.n = p.id returning p.id, w.word",
        "merge into notes using words w on w.word = v when not matched then insert values (w.n, word)",
        "merge into notes a using notes b on b.n = a.k when not matched and b.k = 20 then insert (k) values (b.k + 1)",
        "merge into words w using plain on v is null when matched then delete when not matched then insert values (v)",
        "merge into notes using words w on w.word = notes.v when matched and k > 16 then delete returning k, w.n",
        "update notes set n = case when k > 100 then (select 1 / (n - 3) from words where n = 3) else 7 end",
        "update notes set v = (select word from words) where k > 100",
        "delete from notes where k > 100 and n = (select n from words)",
        "update notes set n = coalesce(n, (select 1 / (n - 3) from words where n = 3))",
        "update notes set v = 'x' where k in (select 1 / (n - 3) from words)",
        "update notes set v = 'x' where k > 100 and k + 1 not in (select 1 / (n - 3) from words)",
        "delete from notes where exists (select from words where 1 / (n - 3) > 0) and k > 100",
        "delete from notes where exists (select from words where 1 / (n - 3) > 0) and k > 10",
        "update notes set n = (select word::int from words where n = 3) where k = 3 or k = 4",
        "update notes set n = (select (word || '!')::int from words limit 1) where k = 300 or k = 400",
        "update notes set n = (select n from words where word = 'v1') + (select id from plain) where k < 3",
        "delete from words where n = (select 1 / (k - 1) from notes where k = 1) and word > 'x'",
        "update notes set v = to_char(now() - now(), 'SS'), n = (select count(*) from words) where k in (1, 2, 3)",
    ],
)
def test_the_same_rows_change(filled: Twins, text: str) -> None:
    filled.query(text)
    filled.query("select * from notes order by k")


def test_in_blocks_own_writes_are_seen(filled: Twins) -> None:
    for text in (
        "begin",
        "insert into words values ('new', 9)",
        "update notes set v = (select word from words where n = 9) where n = 1",
        "update notes set v = w.word || '?' from words w where w.n = notes.k",
        "delete from notes where exists (select 1 from words w where w.n - 1 = notes.k)",
        "select k, v from notes order by k",
        "rollback",
        "select k, v from notes order by k",
    ):
        filled.query(text)


def test_the_extended_protocol(filled: Twins) -> None:
    update = parse(
        "update notes set v = $1 where n = (select min(n) - $2 from words) or k in (select n from words where n > $3)",
        "s",
    )
    filled.same(update, describe("S", "s"), SYNC)
    for values in ((b"a", b"3", b"4"), (b"b", b"1", b"100"), (None, b"0", None)):
        filled.same(bind(*values, statement="s"), describe("P"), execute(), SYNC)
        filled.query("select * from notes order by k")


def test_tables_are_asked_with_parameters(filled: Twins) -> None:
    update = parse(
        "update notes set v = w.word from words w where w.n = notes.k and w.n > $1 and k < $2 returning *", "s"
    )
    filled.same(update, describe("S", "s"), SYNC)
    for values in ((b"1", b"4"), (b"4", b"100"), (None, b"0")):
        filled.same(bind(*values, statement="s"), describe("P"), execute(), SYNC)
        filled.query("select * from notes order by k")


def test_rows_that_arrays_cannot_stand_for_are_refused(town: Town, connect: Callable[..., WireClient]) -> None:
    client = connect(town.dsn)
    client.rows("insert into notes values (1, 'a', 1), (2, 'b', 2)")
    client.rows("insert into words values ('a', 5)")
    for text in (
        "update notes set n = 7 from (select array_agg(word) as words from words) x where v = any (x.words)",
        "update notes set v = w::text from words w where w.word = v",
        "update notes set n = 7 from words w where w.word = v and w.ctid is not null",
    ):
        trace = client.query(text)
        assert trace[0][1]["C"] == "0A000", text
    assert client.rows("select n from notes order by k") == [("1",), ("2",)]


def test_one_answer_for_all_rows_is_not_found_by_each_shard(town: Town, connect: Callable[..., WireClient]) -> None:
    client = connect(town.dsn)
    client.rows("insert into notes values (1, 'a', 1), (2, 'b', 2)")
    client.rows("insert into words values ('a', 5)")
    trace = client.query(
        "with x as (select n from words limit 1), y as (select x.n from x, words limit 1) "
        "update notes set n = y.n from y"
    )
    assert trace[0][1]["C"] == "0A000"
    assert "subquery" in trace[0][1]["M"]
    assert client.rows("select n from notes order by k") == [("1",), ("2",)]


def test_subqueries_that_fail_where_no_row_needs_them(filled: Twins) -> None:
    update = parse("update notes set n = (select 1 / (n - $1) from words where n = 3) where k > $2", "s")
    filled.same(update, describe("S", "s"), SYNC)
    for values in ((b"3", b"100"), (b"3", b"2"), (b"2", b"2")):
        filled.same(bind(*values, statement="s"), execute(), SYNC, ignoring="W")
        filled.query("select * from notes order by k")


def test_subqueries_that_fail_in_a_block_are_refused(town: Town, connect: Callable[..., WireClient]) -> None:
    """The shard that fails gives up the transaction, whether a row needs the subquery or not."""
    client = connect(town.dsn)
    client.rows("insert into notes values (1, 'a', 1), (2, 'b', 2); insert into words values ('a', 3), ('b', 4)")
    for text, expected in (
        ("update notes set n = (select 1 / (n - 3) from words where n = 3) where k > 100", "0A000"),
        ("update notes set n = (select n from words) where k < 100", "21000"),
        ("update notes set n = (select n from words) where k > 100", ""),
    ):
        client.rows("begin")
        assert "".join(entry[1]["C"] for entry in client.query(text) if entry[0] == "error") == expected, text
        client.rows("rollback")


LOCKING = (
    ("update notes set n = (select n from words limit 1 for update skip locked) where k < 3", "0A000"),
    ("update notes set n = 1 where k = 7 or v in (select word from words for update)", "0A000"),
    ("update notes set n = 1 where false and v in (select word from words for update)", "0A000"),
    ("update notes set n = 1 where k < 7 and v in (select word from words limit 1 for update)", ""),
    ("delete from notes where v = (select word from words order by n limit 1 for update)", ""),
    ("select (select word from words order by n limit 1 for update)", ""),
    ("select case when k > 5 then (select word from words limit 1 for update) end from notes", "0A000"),
)


@pytest.mark.parametrize(("text", "expected"), LOCKING)
def test_subqueries_that_lock_are_run_only_where_postgres_runs_them(
    town: Town, connect: Callable[..., WireClient], text: str, expected: str
) -> None:
    client = connect(town.dsn)
    client.rows("insert into notes values (1, 'a', 1), (2, 'b', 2); insert into words values ('a', 3), ('b', 4)")
    assert "".join(entry[1]["C"] for entry in client.query(text) if entry[0] == "error") == expected


LISTED = (
    """with l as (select * from made where state = 'available' order by at, k limit 5 for update skip locked)
       update made set state = 'running', tags = array_append(made.tags, $${$,"$$) from l where made.k = l.k""",
    "with l as (select * from made order by k limit 3) update notes set v = l.tags[1] from l where l.k = notes.k",
    """with l as (select * from made order by k desc limit 4)
       update notes set v = l.state from l where l.k = notes.k and l.state > 'running' returning notes.*, l.*""",
    """delete from notes using (select k kk, state, metas, short, dates from made where k < 9) x
       where x.kk = k and x.state = 'done' returning k, x.*, pg_typeof(x.state), pg_typeof(x.metas), pg_typeof(x.short),
       x.metas[1]->'a'""",
    """merge into notes using (select * from made) s on notes.n = s.k + 1000
       when not matched and s.state = 'done' then insert values (s.k + 100, s.tags[2])""",
    "select * from notes order by k",
    "select * from made order by k",
)


def test_columns_of_enums_and_arrays(filled: Twins) -> None:
    """What a queue's table has beside its key."""
    filled.query("create type state as enum ('available', 'running', 'done')")
    filled.query("create domain labels as text[] check (cardinality(value) < 9)")
    filled.query("""create table made (k int8 primary key, state state not null default 'available', at timestamptz,
                        tags text[], metas jsonb[], short varchar(3)[], dates date[], bits bit(8), named labels)""")
    filled.query("""insert into made select i, (array['available', 'running', 'done'])[i % 3 + 1]::state,
                        timestamptz '2026-01-01 00:00Z' + i * interval '1 min',
                        case when i % 5 > 0 then array[null, 'null', '', 'a"b\\c', '{é}', i::text] end,
                        array[jsonb_build_object('a', i::text || '"')], '{{ab,c},{d,""}}',
                        array[date '2026-02-03' + i], 170::bit(8), '{}' from generate_series(1, 12) i""")
    try:
        filled.query("set datestyle = 'sql, dmy'")
        for text in LISTED:
            assert not sqlstates(filled.query(text))
        values = parse("with l as (select * from made where state = $1 limit 2) update notes set n = 0 from l"
                       " where l.k = notes.k and l.tags[1] is not distinct from $2 returning *", "s")  # fmt: skip
        filled.same(values, describe("S", "s"), SYNC)
        filled.same(bind(b"done", None, statement="s"), describe("P"), execute(), SYNC)
    finally:
        filled.query("reset datestyle")
        filled.query("drop table made")
        filled.query("drop domain labels")
        filled.query("drop type state")


def test_domains_stay_domains(filled: Twins) -> None:
    filled.query("create domain small as int8 check (value > 0)")
    filled.query("create table made (k int8 primary key, d small)")
    filled.query("insert into made values (1, 2), (2, 4), (3, 6)")
    try:
        for text in (
            """update notes set v = 'q' from (select k + 1 kk, d x from made) s where s.kk = notes.k and notes.k = 3
               returning pg_typeof(s.x)""",
            "with x as (select d from made) update notes set n = d from x where d = k + 3 returning pg_typeof(d)",
            "update notes set v = pg_typeof((select d from made where k = 3)) where k in (1, 7)",
            "update notes set v = v || pg_typeof(array(select d from made)) where k in (1, 7)",
            "update notes set v = v || pg_typeof((select d + 1 from made where k = 3)) where k in (1, 7)",
            "update notes set v = v || pg_typeof((select coalesce(d, d) from made where k = 3)) where k in (1, 7)",
            """merge into notes using (select d, k from made) s on notes.n = s.d + 1000
               when not matched then insert values (s.k + 700, pg_typeof(s.d))""",
            "select k, v, n from notes order by k",
        ):
            filled.query(text)
    finally:
        filled.query("drop table made")
        filled.query("drop domain small")
