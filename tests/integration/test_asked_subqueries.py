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


def test_a_subquery_that_looks_outside_is_refused(town: Town, connect: Callable[..., WireClient]) -> None:
    client = connect(town.dsn)
    client.rows("insert into notes values (1, 'a', 1), (2, 'b', 2)")
    client.rows("insert into words values ('a', 5)")
    trace = client.query("update notes set n = (select w.n from words w where w.word = notes.v)")
    assert trace[0][1]["C"] == "0A000"
    assert "subquery" in trace[0][1]["M"]
    assert client.rows("select n from notes order by k") == [("1",), ("2",)]
