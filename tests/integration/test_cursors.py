"""SQL cursors: what one shard has is relayed, what several have goes forward, each held against one Postgres."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from proxy.wire.frontend import Query
from wire_client import SYNC, Twins, bind, describe, execute, parse, sqlstates

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Town

    from wire_client import WireClient

    Connect = Callable[..., WireClient]

ROWS = 300


@pytest.fixture
def filled(twins: Twins) -> Twins:
    values = ", ".join(f"({key}, 'note {key}', {key % 7})" for key in range(1, ROWS + 1))
    twins.query(f"insert into notes values {values}")
    return twins


QUERIES = [
    "select k, v from notes order by k",
    "select v, n from notes order by n desc, k",
    "select k from notes order by k limit 9 offset 4",
    "select n, count(*), max(k) from notes group by n order by n",
    "select count(*) from notes",
    "select k from notes where k in (1, 2, 3, 4, 5) order by k",
    "select k from notes where k = 7",
    "select * from notes where k < 0",
]
STEPS = [
    "fetch c", "fetch next from c", "fetch 5 from c", "move 3 in c", "fetch forward 4 from c", "move c",
    "fetch relative 2 from c", "move 0 in c", "move relative 0 in c", "fetch 100 c", "move 0 c", "fetch all from c",
    "fetch c", "move all c", "close c", "fetch c",
]  # fmt: skip


@pytest.mark.parametrize("query", QUERIES)
def test_forwards(filled: Twins, query: str) -> None:
    filled.query("begin")
    filled.query(f"declare c no scroll cursor for {query}")
    for step in STEPS:
        filled.query(step)
    filled.query("rollback")


@pytest.mark.parametrize("query", QUERIES)
def test_forwards_in_the_extended_protocol(filled: Twins, query: str) -> None:
    filled.query("begin")
    filled.same(parse(f"declare c no scroll cursor for {query}"), bind(), describe("P"), execute(), SYNC)
    for step in ("fetch 3 from c", "move 2 in c", "fetch 100 from c", "fetch all from c", "close c"):
        filled.same(parse(step), describe("S"), bind(results=[1]), describe("P"), execute(), SYNC)
    filled.query("commit")


def test_parameters(filled: Twins) -> None:
    filled.query("begin")
    text = "declare c cursor for select k, v, $2::text from notes where k > $1 order by k limit $3"
    filled.same(parse(text), bind(b"20", b"x", b"7"), execute(), SYNC)
    filled.query("fetch 5 from c")
    filled.query("fetch 5 from c")
    filled.query("commit")


def test_others_run_in_between_and_are_not_seen(filled: Twins) -> None:
    """The rows are those of the moment of DECLARE, whatever the transaction itself does later."""
    filled.query("begin")
    filled.query("declare c cursor for select k, v from notes order by k")
    filled.query("declare d cursor for select count(*) from notes")
    filled.query("fetch 2 from c")
    filled.query("insert into notes values (1000, 'new'), (1001, 'new'), (1002, 'new')")
    filled.query("delete from notes where k between 3 and 10")
    filled.query("select count(*) from notes")
    filled.query("fetch 20 from c")
    filled.query("fetch d")
    filled.query("move all in c")
    filled.query("commit")
    filled.query("fetch c")


def test_names_are_taken(filled: Twins) -> None:
    for first, second in (
        ("select k from notes order by k", "select k from notes order by k"),
        ("select k from notes order by k", "select v from notes where k = 1"),
        ("select v from notes where k = 1", "select k from notes order by k"),
    ):
        filled.query("begin")
        filled.query(f"declare c cursor for {first}")
        assert sqlstates(filled.query(f"declare c cursor for {second}")) == ["42P03"]
        filled.query("rollback")
    assert sqlstates(filled.query("declare c cursor for select k from notes")) == ["25P01"]


def test_savepoints(filled: Twins) -> None:
    filled.query("begin")
    filled.query("declare outside cursor for select k from notes order by k")
    filled.query("savepoint s")
    filled.query("declare inside cursor for select k from notes order by k")
    filled.query("fetch 2 from inside")
    filled.query("fetch 2 from outside")
    filled.query("select 1 / 0")
    filled.query("rollback to s")
    filled.query("fetch 2 from outside")
    filled.query("savepoint t")
    filled.query("declare inside cursor for select k from notes order by k")
    filled.query("release t")
    filled.query("fetch 2 from inside")
    filled.query("rollback to s")
    assert sqlstates(filled.query("fetch 2 from inside")) == ["34000"]
    filled.query("rollback")


def test_a_savepoint_inside_another_of_its_name(filled: Twins) -> None:
    filled.query("begin")
    filled.query("savepoint s")
    filled.query("declare c cursor for select k from notes order by k")
    for _ in range(2):
        filled.query("savepoint s")
        filled.query("rollback to s")
        filled.query("fetch 1 from c")
    filled.query("release s")
    filled.query("release s")
    filled.query("rollback to s")
    filled.query("fetch 1 from c")


def test_the_row_that_it_stands_on(filled: Twins) -> None:
    filled.query("begin")
    filled.query("declare c cursor for select k, v from notes order by k")
    for step in (
        "fetch 0 from c", "move 0 in c", "fetch 3 from c", "fetch 0 from c", "fetch relative 0 from c", "fetch c",
        "move 5 in c", "fetch forward 0 from c", "move 0 in c", f"fetch {ROWS - 9} from c", "fetch 0 from c",
        "fetch c", "fetch 0 from c", "move 0 in c",
    ):  # fmt: skip
        filled.query(step)
    filled.query("rollback")


def test_not_even_that_row_without_scrolling(filled: Twins) -> None:
    for step in ("fetch 0 from c", "fetch relative 0 from c"):
        filled.query("begin")
        filled.query("declare c no scroll cursor for select k from notes order by k")
        assert not sqlstates(filled.query(step))
        filled.query("fetch 2 from c")
        filled.query("move 0 in c")
        assert sqlstates(filled.query(step)) == ["55000"]
        filled.query("rollback")


def test_what_is_refused(town: Town, connect: Connect) -> None:
    client = connect(town.dsn)
    for text in (
        "declare c scroll cursor for select k from notes",
        "declare c cursor with hold for select k from notes",
        "declare c cursor for select k from notes for update",
    ):
        client.query("begin")
        refused = client.query(text)
        assert sqlstates(refused) == ["0A000"]
        assert refused[0][1]["H"]
        client.query("rollback")
    for direction in ("prior", "first", "last", "absolute 2", "backward 3", "-2", "backward all"):
        client.query("begin")
        client.query("declare c cursor for select k from notes")
        assert sqlstates(client.query(f"fetch {direction} from c")) == ["0A000"]
        client.query("rollback")


def test_closing_and_ending(filled: Twins) -> None:
    filled.query("begin")
    for name in ("a", "b"):
        filled.query(f"declare {name} cursor for select k from notes order by k")
        filled.query(f"fetch 2 from {name}")
    filled.query("close all")
    filled.query("commit")
    filled.query("begin")
    filled.query("declare a cursor for select k from notes order by k")
    filled.query("insert into notes values (2000, 'with a cursor open'), (2001, 'x'), (2002, 'y')")
    filled.query("commit")
    filled.query("select count(*) from notes")
    assert sqlstates(filled.query("fetch a")) == ["34000"]


def test_a_cursor_reads_one_moment_of_all_shards(town: Town, connect: Connect) -> None:
    client, other = connect(town.dsn), connect(town.dsn)
    a, b, c = town.spread
    client.query(f"insert into notes values ({a}, 'old'), ({b}, 'old'), ({c}, 'old')")
    client.query("begin")
    client.query("declare c cursor for select v from notes")
    other.query("update notes set v = 'new'")
    assert {v for (v,) in client.rows("fetch all from c")} == {"old"}
    client.query("commit")


def test_an_error_among_the_rows(filled: Twins) -> None:
    filled.query("begin")
    filled.query("declare c cursor for select k, 1 / (k - 250) from notes order by k")
    filled.query("fetch 10 from c")
    for client in (filled.one, filled.proxy):  # here rows may have come before it
        assert sqlstates(client.query("fetch all from c")) == ["22012"]
    assert sqlstates(filled.query("fetch 1 from c")) == ["25P02"]
    filled.query("rollback")
    filled.query("select count(*) from notes")


def test_psycopg_server_side_cursors(any_town: Town) -> None:
    with psycopg.connect(any_town.dsn) as connection:
        with connection.cursor() as cursor:
            cursor.executemany("insert into notes values (%s, %s)", [(k, f"v{k}") for k in range(1, 1001)])
        for binary in (False, True):
            with connection.cursor("mine", binary=binary) as cursor:
                cursor.itersize = 77
                cursor.execute("select k, v from notes where k > %s order by k", (10,))
                assert [k for k, _ in cursor] == list(range(11, 1001))


def test_much_is_read_in_little_memory(town: Town, connect: Connect) -> None:
    """120 MB of rows through chunks: nothing is set aside that would have a limit (merge.max_parked_bytes is 64 MB)."""
    client = connect(town.dsn)
    client.query("insert into notes values " + ", ".join(f"({k}, 'x')" for k in range(1, 31)))
    client.query("begin")
    client.query("declare c no scroll cursor for select repeat('x', 40000), k from notes, generate_series(1, 100) g")
    seen = 0
    while rows := client.rows("fetch 50 from c"):
        seen += len(rows)
        assert client.rows("select count(*) from notes") == [("30",)]
        if seen >= 500:
            break
    assert client.query("move all in c")[0] == ("tag", f"MOVE {3000 - seen}")
    client.query("commit")


CURRENT_OF = [
    "update notes set v = 'changed' where current of c returning *",
    "update notes set n = n + 1, v = v || k where current of c",
    "select * from notes where k in (7, 8) order by k",
    "update notes set v = (select max(v) from notes where k < 9) where current of c returning *",
    "delete from notes where current of c returning k",
    "delete from notes where current of c",
    "update notes set v = 'gone' where current of c",
]


@pytest.mark.parametrize("locking", ["", " for update"])
def test_where_current_of_a_cursor_that_one_shard_has(filled: Twins, locking: str) -> None:
    for step in ("begin", f"declare c cursor for select * from notes where k = 7{locking}", "savepoint a"):
        filled.query(step)
    filled.query(CURRENT_OF[0])  # before the first row
    filled.query("rollback to a")
    filled.query("fetch c")
    for statement in CURRENT_OF:
        filled.query(statement)
    for statement in ("commit", *CURRENT_OF[:4]):  # there is no cursor any more
        filled.query(statement)


def test_where_current_of_by_the_protocol(filled: Twins) -> None:
    filled.query("begin; declare c cursor for select * from notes where k = 7; fetch c")
    update = parse("update notes set v = $1 where current of c returning *", "u")
    filled.same(update, bind(b"one", statement="u"), execute(), SYNC)
    filled.same(bind(b"two", statement="u"), describe("P"), execute(), SYNC)
    filled.query("prepare d as delete from notes where current of c; execute d; execute d")
    filled.query("commit; select * from notes where k = 7")


@pytest.mark.parametrize("query", ["select * from plain", "select 1", "select * from notes where k = 7 limit 1"])
def test_where_current_of_what_is_no_row_of_the_table(filled: Twins, query: str) -> None:
    filled.query("insert into plain values (1, 'x')")
    for statement in ("update notes set v = 'x' where current of c", "delete from plain where current of c"):
        filled.query(f"begin; declare c cursor for {query}; fetch c")
        filled.query(statement)
        filled.query("rollback")


def test_where_current_of_a_cursor_over_several_shards_is_refused(town: Town, connect: Connect) -> None:
    client = connect(town.dsn)
    client.query("begin; declare c cursor for select * from notes; fetch c")
    assert sqlstates(client.query("update notes set v = 'x' where current of c")) == ["0A000"]
    client.query("rollback")


def test_cursors_that_functions_open(twins: Twins) -> None:
    twins.query(
        "create function opens(refcursor) returns refcursor language plpgsql as "
        "'begin open $1 for select id from plain order by id; return $1; end'"
    )
    try:
        twins.query("insert into plain select g, 'x' from generate_series(1, 9) g")
        for text in (
            "begin",
            "select opens('mine')",
            "fetch 2 from mine",
            "move mine",
            'fetch "mine"',
            "close mine",
            "savepoint s",
            "fetch mine",
            "rollback to s",
            "do $$ declare c refcursor := 'other'; begin open c for select 5; end $$",
            "fetch other",
            "close all",
            "savepoint s",
            "fetch other",
            "rollback",
            "begin",
            "select opens('mine')",
        ):
            twins.query(text)
        # Postgres makes up a name by counting in the server's process: other clients of a link have counted before.
        ((name,),) = twins.proxy.rows("select opens(null)")
        assert twins.proxy.rows(f'fetch all in "{name}"') == twins.one.rows("select id from plain order by id")
        fetch = (bind(), describe("P"), execute(), SYNC)
        twins.same(parse("fetch 3 in mine"), *fetch)
        twins.same(parse("close mine"), *fetch)
        twins.same(parse("fetch 3 in mine"), *fetch)
        twins.query("rollback")
    finally:
        twins.query("rollback")
        twins.query("drop function opens(refcursor)")


@pytest.mark.parametrize("ended", ["commit", "rollback", "commit; close c"])
def test_after_cursors_with_hold_of_several_shards_all_of_them_are_written(
    filled: Twins, any_town: Town, ended: str
) -> None:
    """Only the block that declares one cannot be prepared."""
    for key in any_town.spread:
        filled.query("begin")
        filled.query(f"declare c{key} cursor with hold for select k, v from notes where k = {key}")
        filled.query(ended.replace("close c", f"close c{key}"))
        assert not sqlstates(filled.query("update notes set n = n + 1"))
    for key in any_town.spread:
        filled.query(f"fetch all from c{key}")
    filled.query("select sum(n) from notes")


@pytest.mark.parametrize("again", ["select k from notes order by k", "select k from notes where k = 7"])
def test_discard_all_forgets_cursors_with_hold(filled: Twins, again: str) -> None:
    for _ in range(2):
        for text in (
            "begin",
            "declare c cursor with hold for select k from notes where k = 7",
            "commit",
            "discard all",
            "fetch c",
            "begin",
            f"declare c cursor for {again}",
            "fetch 2 from c",
            "commit",
            "fetch c",
        ):
            filled.query(text)


def test_a_block_with_cursors_with_hold_of_two_shards_leaves_nothing_behind(town: Town, connect: Connect) -> None:
    client = connect(town.dsn)
    a, b, _ = town.spread
    client.query(f"insert into notes select i, 'x', 0 from generate_series({min(a, b)}, {max(a, b) + 9}) i")
    client.query("begin")
    for key in (a, b):
        client.query(f"declare c{key} cursor with hold for select k from notes where k = {key}")
    refused = client.query("commit")
    assert refused[0][1]["C"] == "0A000"
    assert "cannot be prepared" in refused[0][1]["M"]
    assert not sqlstates(client.query("update notes set n = n + 1"))


_FETCHES = (
    [Query(b"fetch 2 from c")],
    [parse("fetch 2 from c"), bind(), describe("P"), execute(), SYNC],
    [parse("fetch 2 from c"), bind(results=[0]), describe("P"), execute(), SYNC],
    [parse("fetch 2 from c"), bind(results=[0, 0]), describe("P"), execute(), SYNC],
)


@pytest.mark.parametrize(
    "query", ["select k, v from notes order by k", "select n, count(*) from notes group by 1 order by 1"]
)
def test_text_is_one_format_however_it_is_asked_for(filled: Twins, query: str) -> None:
    for first in range(len(_FETCHES)):
        filled.query("begin")
        filled.query(f"declare c cursor for {query}")
        for fetch in (*_FETCHES[first:], *_FETCHES[:first]):
            assert not sqlstates(filled.same(*fetch))
        filled.query("rollback")


def test_binary_is_one_format_however_it_is_asked_for(filled: Twins) -> None:
    """That of a binary cursor in simple queries, one code for all columns, one for each."""
    filled.query("begin")
    filled.query("declare c binary cursor for select k, v from notes order by k")
    for fetch in (
        [Query(b"fetch 2 from c")],
        [parse("fetch 2 from c"), bind(results=[1]), describe("P"), execute(), SYNC],
        [parse("fetch 2 from c"), bind(results=[1, 1]), describe("P"), execute(), SYNC],
        [bind(portal="p", statement="", results=[1, 1]), execute("p", 1), execute("p"), SYNC],
    ):
        assert not sqlstates(filled.same(*fetch))
    filled.query("rollback")


def test_a_wrong_number_of_formats_is_told(filled: Twins) -> None:
    filled.query("begin")
    filled.query("declare c cursor for select k, v, n from notes order by k")
    filled.query("fetch 2 from c")
    assert sqlstates(filled.same(parse("fetch 2 from c"), bind(results=[0, 0]), execute(), SYNC)) == ["08P01"]
    filled.query("rollback")
