"""UPDATE and DELETE over several shards with subqueries over several shards: asked first, then filled in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from wire_client import SYNC, bind, describe, execute, parse

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


def test_rows_that_arrays_cannot_stand_for_are_refused(town: Town, connect: Callable[..., WireClient]) -> None:
    client = connect(town.dsn)
    client.rows("insert into notes values (1, 'a', 1), (2, 'b', 2)")
    client.rows("insert into words values ('a', 5)")
    for text in (
        "update notes set n = 7 from (select array_agg(word) as words from words) x where v = any (x.words)",
        "update notes set n = 7 from (select 1 + max(n) from words) x",
        "update notes set n = x.n from (select word, n from words limit 1) x where v = x.word returning x.*",
        "update notes set n = x.n from (select max(n) n, 'a'::varchar(3) w from words) x where v = x.w returning w",
    ):
        trace = client.query(text)
        assert trace[0][1]["C"] == "0A000", text
    assert client.rows("select n from notes order by k") == [("1",), ("2",)]


def test_a_subquery_that_looks_outside_is_refused(town: Town, connect: Callable[..., WireClient]) -> None:
    client = connect(town.dsn)
    client.rows("insert into notes values (1, 'a', 1), (2, 'b', 2)")
    client.rows("insert into words values ('a', 5)")
    trace = client.query("update notes set n = (select w.n from words w where w.word = notes.v)")
    assert trace[0][1]["C"] == "0A000"
    assert "subquery" in trace[0][1]["M"]
    assert client.rows("select n from notes order by k") == [("1",), ("2",)]
