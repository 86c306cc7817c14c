"""setval by what sharded tables hold: asked of all shards first, set once, on the home shard, where sequences are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from wire_client import SYNC, Query, Twins, bind, describe, execute, parse, sqlstates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Town

    from wire_client import Trace, WireClient

SERIAL = "pg_get_serial_sequence('\"made\"','k')"
DJANGO = f'SELECT setval({SERIAL}, coalesce(max("k"), 1), max("k") IS NOT null) FROM "made"'
SETS = [
    DJANGO,
    f"select pg_catalog.setval({SERIAL}, max(k), true) as set_to, count(*), max(v) from made",
    "select setval('made_k_seq', max(k)) from made",
    "select setval('made_k_seq', max(k) + 1) from made where v <> 'g'",
    "select setval('made_k_seq', max(k), false) from public.made m",
    "select setval('made_k_seq', (select max(k) from made))",
    "select setval('made_k_seq', (select coalesce(max(k), 1) from made), (select max(k) is not null from made))",
    """select setval('made_k_seq', (select max(k) from made m where m.k > 2),
       (select max > 1 from (select max(k) from made)))""",
    """select setval('made_k_seq', 1 + (select /* x */ min(k) + 1 as a from made where v > 'b' /* y */),
       (select max(v) > 'e' -- z
        from made where v > 'b'))""",
    "select setval('made_k_seq', (select max(k) + min(k) from made), (select sum(k) > 0 or max(k) < 0 from made))",
    "select setval('made_k_seq', (select max(k) from made), (select max(k) > (select 0) from made))",
    "select setval('made_k_seq', coalesce((select max(k) + 1 from made), 1), false)",
    "select setval('made_k_seq', greatest((select max(k) from made), (select max(k) from notes)))",
    "select setval('made_k_seq', greatest((select max(k) from made), (select last_value from made_k_seq)))",
    "select setval('made_k_seq', greatest(max(k), 700)) from made",
    "select setval('made_k_seq', case when count(*) > 3 then max(k) else 1 end) from made",
    "select setval('made_k_seq', max(k)) from made having max(k) is not null",
    "select setval('made_k_seq', max(k)) from made where k < 0 having max(k) is not null",
    "select setval('made_k_seq', max(k) filter (where v = 'b'), count(*) > 0) from made",
    "select setval('made_k_seq', max(made.k)) from made join notes using (k)",
    "select setval('made_k_seq', 900) where exists (select from made where k > 5)",
    "select setval('made_k_seq', 900) where not exists (select from made where k > 5)",
    "select setval('made_k_seq', x.m) from (select max(k) as m from made) x",
    "with x as (select max(k) as m from made) select setval('made_k_seq', m) from x",
    "with x as (select k from made where k > 2) select setval('made_k_seq', max(k) * 2) from x",
    "select setval('made_k_seq', cardinality(array(select k from made)))",
    "select setval('made_k_seq', max(k)) from made where k = 3",
    "select setval('made_k_seq', coalesce(5, (select 1 / (k - 3) from made where k = 3)))",
    "select nextval('made_k_seq') + count(*) as after from made",
    f"begin; {DJANGO}; {DJANGO}; commit",
    f"begin; insert into made values (5000, 'own'); {DJANGO}; delete from made where k = 5000; commit",
]
FAILS = [
    "select setval('made_k_seq', max(v)) from made",
    "select setval('nope', max(k)) from made",
    "select setval('made_k_seq', max(nope)) from made",
    "select setval('made_k_seq', 1 - max(k)) from made",
    "select setval('made_k_seq', k, max(k) > 1) from made",
    "select setval('made_k_seq', sum(1 / (k - 3))) from made",
    "select setval('made_k_seq', (select k from made))",
    "select setval('made_k_seq', (select 1 / (k - 3) from made where k = 3))",
    "begin; select setval('made_k_seq', (select 1 / (k - 3) from made where k = 3)); commit",
    "begin read only; select setval('made_k_seq', max(k)) from made; commit",
]
REFUSED = [
    "select setval('made_k_seq', max(k)) from made group by v",  # several rows
    "select setval('made_k_seq', k) from made",
    "select setval('made_k_seq', k) from made order by k",
    "select setval('made_k_seq', max(k)) from made group by v having count(*) > 1",
    "select setval('made_k_seq', max(k)) from made union all select 1",
    "select setval('made_k_seq', max(k)), rank() over () from made",
    "select case when count(*) = 0 then setval('made_k_seq', (select 1 / (k - 3) from made where k = 3)) end from made",
    "begin; select setval('made_k_seq', coalesce(1, (select 1 / (k - 3) from made where k = 3))); commit",
]
LOOK = "select nextval('made_k_seq') from generate_series(1, 2)"


@pytest.fixture
def filled(any_town: Town, twins: Twins) -> Iterator[Twins]:
    yield from fill(any_town, twins)


@pytest.fixture
def spread(town: Town, connect: Callable[[str], WireClient]) -> Iterator[Twins]:
    """The same over several shards only."""
    yield from fill(town, Twins(connect(town.one), connect(town.dsn)))


def fill(town: Town, twins: Twins) -> Iterator[Twins]:
    for client in (twins.one, twins.proxy):
        assert not sqlstates(client.query("create table made (k bigserial primary key, v text)"))
        client.query("insert into made (v) select v from unnest('{a,b,c,d,e,f,g}'::text[]) v")
        client.query("insert into notes (k, v) values (1, 'x'), (3, 'y'), (40, 'z')")
    yield twins
    for client in (twins.one, twins.proxy):
        client.query("rollback")
        assert not sqlstates(client.query("drop table made"))
    assert not town.stored("select relname::text from pg_class where relname like 'made%'")


def errors(client: WireClient, *messages: Any) -> Trace:
    client.send(*messages)
    return [entry for entry in client.read() if entry[0] == "error"]


def test_as_one_postgres_says(filled: Twins) -> None:
    for text in SETS:
        assert not sqlstates(filled.query(text))
        filled.query("rollback")
        filled.query(LOOK)


def test_errors(filled: Twins) -> None:
    """The same ones; those of values may come before a description or BindComplete that one Postgres sends first."""
    extended = describe("S"), bind(), describe("P"), execute(), SYNC
    for text in FAILS:
        asked = [(Query(text.encode()),), *([(parse(text), *extended)] if ";" not in text else [])]
        for messages in asked:
            expected = errors(filled.one, *messages)
            assert expected, text
            assert errors(filled.proxy, *messages) == expected, text
            filled.query("rollback")
            filled.query(LOOK)


def test_in_the_extended_protocol(filled: Twins) -> None:
    for text in SETS:
        if ";" in text:
            continue
        for results in ((), (1,)):
            filled.same(parse(text), describe("S"), bind(results=results), describe("P"), execute(), SYNC)
        filled.query(LOOK)
    text = "select setval($1, max(k) + $2, $3) from made where k < $4 and v <> $5"
    for limit in (b"4", b"0"):
        values = bind(b"made_k_seq", b"10", b"t", limit, b"b")
        filled.same(parse(text), describe("S"), values, describe("P"), execute(), SYNC)
        filled.query(LOOK)


def test_of_an_empty_table(filled: Twins) -> None:
    filled.query("delete from made")
    for text in SETS:
        if "cardinality" in text:  # of no rows, which is no number for a sequence: test_errors has its like
            continue
        filled.query(text)
        filled.query("rollback")
        filled.query(LOOK)


def test_what_has_several_rows_is_refused(town: Town, spread: Twins) -> None:
    before = town.everywhere("select last_value, is_called from made_k_seq")
    for text in REFUSED:
        assert sqlstates(spread.proxy.query(text)) == ["0A000"], text
        spread.proxy.query("rollback")
    assert town.everywhere("select last_value, is_called from made_k_seq") == before


def test_numbers_are_unique_afterwards(town: Town, spread: Twins) -> None:
    """Rows come with keys of their own, as loaddata and COPY bring them: then the sequence goes on behind them."""
    spread.query("insert into made select n, 'loaded' from generate_series(100, 140) n")
    spread.query(DJANGO)
    for _ in range(3):
        spread.query("insert into made (v) select 'new' from generate_series(1, 5) returning k")
    assert [k for (k,) in town.stored("select k from made where v = 'new'")] == list(range(141, 156))
    with psycopg.connect(town.dsn, autocommit=True) as client:
        assert client.execute("select setval(%s, max(k)) from made", ("made_k_seq",)).fetchone() == (155,)
        prepared = "select setval(%s, max(k) + %s) from made where k < %s"
        for least in (142, 148, 200):
            found = client.execute(prepared, ("made_k_seq", 1, least), prepare=True).fetchone()
            assert found == (min(least, 156),)


BLIND = [
    "do $$ begin perform setval('made_k_seq', (select max(k) from made)); end $$",
    "do $$ begin execute 'select setval(''made_k_seq'', max(k)) from made'; end $$",
    """do $$ declare t text; begin for t in select relname from pg_class where relname = 'made' loop
       execute format('select SetVal(%L, coalesce(max(k), 1)) from %I', t || '_k_seq', t); end loop; end $$""",
    "do $$ begin perform setval('made_k_seq', made_max()); end $$",
    "do $$ begin perform set_made('made'); end $$",
    "select set_made('made')",
    "select set_made('made') from plain",
    "select set_static()",
]
SEEN = [
    "do $$ begin perform setval('made_k_seq', 300 + (select count(*) from kinds)); end $$",
    "do $$ begin perform setval('made_k_seq', (select max(id) + 300 from plain)); end $$",
    "do $$ begin perform nextval('made_k_seq'); execute 'select 1'; end $$",
]
FUNCTIONS = [
    """create function set_made(t text) returns bigint language plpgsql as $$ declare r bigint; begin
       execute format('select setval(%L, max(k)) from %I', t || '_k_seq', t) into r; return r; end $$""",
    """create function made_max() returns bigint language plpgsql as $$ declare r bigint; begin
       execute 'select max(k) from made' into r; return r; end $$""",
    """create function set_static() returns bigint language plpgsql as $$ begin
       return setval('made_k_seq', (select max(k) from made)); end $$""",
]


def test_code_that_nobody_can_see_through_sets_no_sequence(town: Town, spread: Twins) -> None:
    """What it has done is taken back when it turns out to have read a part of a table; setval cannot be."""
    for text in FUNCTIONS:
        spread.query(text)
    spread.query("insert into plain values (5, 'v')")
    spread.query("select setval('made_k_seq', 900)")
    before = town.everywhere("select last_value, is_called from made_k_seq")
    for text in BLIND:
        for around in ("{}", "begin; {}; commit"):
            assert sqlstates(spread.proxy.query(around.format(text))) == ["0A000"], text
            spread.proxy.query("rollback")
            assert town.everywhere("select last_value, is_called from made_k_seq") == before, text
    for text in SEEN:
        assert not sqlstates(spread.query(text))
        spread.query(LOOK)
    spread.query("drop function set_made, made_max, set_static")
