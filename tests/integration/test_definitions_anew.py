"""A statement that waited for DDL and means something else by it is planned anew, as one Postgres plans it.

The order of things is made by locks, not by time: somebody holds a table, what must come behind it is seen to wait.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from proxy.session.anew import ATTEMPTS
from waiting import eventually
from wire_client import SYNC, bind, describe, execute, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Town

    from wire_client import WireClient

ROWS = 12
WAITS = """SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE NOT l.granted AND a.datname = current_database()"""
NEW_COLUMN = "alter table notes add column later int default 5"
OTHER_TYPE = "drop view seen; alter table notes alter column n type bigint"
OTHER_VIEW = "create or replace view seen as select k, v, n, n + 1 as more from notes where k < 3"


class Side:
    """One server, or the proxy: what a reader hears whose statement waits for somebody's DDL."""

    def __init__(self, town: Town, dsn: str, connect: Callable[..., WireClient]) -> None:
        self.town, self.dsn, self.connect = town, dsn, connect
        self.ddl, self.reader = connect(dsn), connect(dsn)
        self.ddl.rows(f"insert into notes (k, v, n) select n, 'v' || n, 0 from generate_series(1, {ROWS}) n")
        self.ddl.rows("create view seen as select k, v, n from notes where k > 100")

    def until_waiting(self, count: int = 1) -> None:
        servers = [self.town.one] if self.dsn == self.town.one else self.town.shards

        def waiting() -> bool:
            found = 0
            for server in servers:
                with psycopg.connect(server, autocommit=True) as direct:
                    found = max(found, direct.execute(WAITS).fetchall()[0][0])
            return found >= count

        eventually(waiting, f"{count} do not wait")

    def raced(self, ddl: str, ask: Callable[[], Any]) -> Any:
        self.ddl.rows("begin")
        self.ddl.rows(ddl)
        with ThreadPoolExecutor(1) as threads:
            asking = threads.submit(ask)
            self.until_waiting()
            self.ddl.rows("commit")
            return asking.result(20)

    def clear(self) -> None:
        for client in (self.reader, self.ddl):
            client.query("rollback")
        self.ddl.rows("drop view if exists seen")
        self.ddl.rows("alter table notes drop column if exists later")
        self.ddl.rows("alter table notes alter column n type int using n::int")
        self.ddl.rows("truncate notes")


def both(town: Town, connect: Callable[..., WireClient], what: Callable[[Side], Any]) -> tuple[Any, Any]:
    """Return what one Postgres says, and what the proxy over three says."""
    found = []
    for dsn in (town.one, town.dsn):
        side = Side(town, dsn, connect)
        try:
            found.append(what(side))
        finally:
            side.clear()
    return found[0], found[1]


def errors(trace: Any) -> list[str]:
    return [entry[1]["C"] for entry in trace if entry[0] == "error"]


KEY = "select * from notes where k = 3"
SEVERAL = "select * from notes where k < 5 order by k"
VIEW = "select count(*) from seen"
CASES = [
    (KEY, NEW_COLUMN),
    (SEVERAL, NEW_COLUMN),
    (VIEW, OTHER_VIEW),
    ("select * from seen order by k", OTHER_VIEW),
    ("update notes set v = 'w' where k = 4 returning *", NEW_COLUMN),
    ("update notes set v = 'w' where k < 4", OTHER_TYPE),
    ("delete from seen", OTHER_VIEW),
    ("insert into seen (k, v, n) values (50, 'x', 1) returning *", OTHER_VIEW),
]


@pytest.mark.parametrize("known", [0, 4], ids=["new", "known"])
@pytest.mark.parametrize("before", ["", "begin"])
@pytest.mark.parametrize(("text", "ddl"), CASES)
def test_queries(  # noqa: PLR0913, PLR0917 - two of them are fixtures
    town: Town, connect: Callable[..., WireClient], text: str, ddl: str, before: str, known: int
) -> None:
    """In a block, too, where it is the first statement that a shard hears of."""

    def asked(side: Side) -> Any:
        for _ in range(known):
            side.reader.query("begin")
            side.reader.query(text)
            side.reader.query("rollback")
            if not before:
                side.reader.query("select k from notes where k = 1")
                if text.startswith("select"):
                    side.reader.query(text)
        side.reader.query(before)
        heard = side.raced(ddl, lambda: side.reader.query(text))
        return [heard, side.reader.query("commit"), side.ddl.rows("select k, v, n from notes order by k")]

    expected, got = both(town, connect, asked)
    assert got == expected


def pipeline(text: str, way: str) -> list[Any]:
    """The messages of one statement, as drivers send them."""
    name = "w" if "named" in way else ""
    before = [describe("S", name)] if "statement" in way else []
    behind = [describe("P")] if "portal" in way else []
    return [parse(text, name), *before, bind(statement=name), *behind, execute(), SYNC]


@pytest.mark.parametrize(("way", "known"), [("plain", 0), ("portal", 4), ("named portal", 0)])
@pytest.mark.parametrize(("text", "ddl"), CASES)
def test_pipelines(  # noqa: PLR0913, PLR0917 - two of them are fixtures
    town: Town, connect: Callable[..., WireClient], text: str, ddl: str, way: str, known: int
) -> None:
    def asked(side: Side) -> Any:
        for _ in range(known if text.startswith("select") else 0):
            side.reader.ask(*pipeline(text, way.replace("named ", "")))
        heard = side.raced(ddl, lambda: side.reader.ask(*pipeline(text, way)))
        again = side.reader.ask(bind(statement="w"), execute(), SYNC) if "named" in way and "select" in text else []
        return [heard, again, side.ddl.rows("select k, v, n from notes order by k")]

    expected, got = both(town, connect, asked)
    if known and text in (SEVERAL, "select * from seen order by k"):  # it has been told of other columns
        assert errors(got[0]) == ["40001"]
        assert not [entry for entry in got[0] if entry[0] == "row"]
    else:
        assert got == expected


@pytest.mark.parametrize(("text", "ddl"), CASES)
def test_statements_that_were_prepared_before(
    town: Town, connect: Callable[..., WireClient], text: str, ddl: str
) -> None:
    """One whose columns are others ends with 0A000 in Postgres as well."""

    def asked(side: Side) -> Any:
        side.reader.ask(parse(text, "w"), describe("S", "w"), SYNC)
        heard = side.raced(ddl, lambda: side.reader.ask(bind(statement="w"), execute(), SYNC))
        if errors(heard):  # over several shards behind BindComplete
            heard = [entry for entry in heard if entry[0] != "bound"]
        return [heard, side.ddl.rows("select k, v, n from notes order by k")]

    expected, got = both(town, connect, asked)
    assert got == expected


def test_several_statements_of_one_message(town: Town, connect: Callable[..., WireClient]) -> None:
    text = "insert into seen (k, v, n) values (60, 'x', 1); insert into notes (k, v, n) values (61, 'y', 2)"

    def asked(side: Side) -> Any:
        heard = side.raced(OTHER_VIEW, lambda: side.reader.query(text))
        return [heard, side.ddl.rows("select k, v, n from notes order by k")]

    expected, got = both(town, connect, asked)
    assert got == expected


def test_a_pipeline_of_which_nothing_was_heard(town: Town, connect: Callable[..., WireClient]) -> None:
    """The first of two statements waits: both are run once more, in one transaction."""
    messages = [
        *pipeline("insert into seen (k, v, n) values (60, 'x', 1)", "plain")[:-1],
        *pipeline("insert into notes (k, v, n) values (60, 'y', 2)", "plain"),
    ]

    def asked(side: Side) -> Any:
        heard = side.raced(OTHER_VIEW, lambda: side.reader.ask(*messages))
        return [[entry[0] for entry in heard], side.ddl.rows("select k, v, n from notes order by k")]

    expected, got = both(town, connect, asked)
    assert got == expected


# --- where somebody could tell: 40001 --------------------------------------------------------------------------------


@pytest.fixture
def side(town: Town, connect: Callable[..., WireClient]) -> Iterator[Side]:
    made = Side(town, town.dsn, connect)
    yield made
    made.clear()


def test_a_block_that_has_done_something(side: Side) -> None:
    side.reader.query("begin")
    side.reader.query("insert into plain (id) values (77)")
    assert errors(side.raced(OTHER_VIEW, lambda: side.reader.query(VIEW))) == ["40001"]
    assert side.reader.query("commit")[0] == ("tag", "ROLLBACK")
    assert side.ddl.rows("select id from plain where id = 77") == []


def test_a_message_whose_beginning_was_answered(side: Side) -> None:
    text = f"insert into plain (id) values (77); {VIEW}"
    assert errors(side.raced(OTHER_VIEW, lambda: side.reader.query(text))) == ["40001"]
    assert side.ddl.rows("select id from plain where id = 77") == []


def test_columns_that_the_client_was_told_of(side: Side) -> None:
    """Postgres holds a lock from Parse on; here the columns are others when the statement is bound."""
    side.reader.ask(*pipeline(KEY, "statement"))
    heard = side.raced(NEW_COLUMN, lambda: side.reader.ask(*pipeline(KEY, "statement named")))
    assert errors(heard) in (["40001"], ["0A000"])
    assert not [entry for entry in heard if entry[0] == "row"]


def test_a_client_that_has_cancelled(side: Side) -> None:
    side.ddl.rows("begin")
    side.ddl.rows(NEW_COLUMN)
    with ThreadPoolExecutor(1) as threads:
        asking = threads.submit(side.reader.query, KEY)
        side.until_waiting()
        side.reader.cancel()
        assert errors(asking.result(20)) == ["57014"]
    side.ddl.rows("commit")
    assert len(side.reader.rows(KEY)) == 1


def test_nobody_begins_anew_for_ever(side: Side, town: Town, connect: Callable[..., WireClient]) -> None:
    """Each DDL is in the queue of locks before the statement that is run once more."""
    others = [connect(town.dsn) for _ in range(ATTEMPTS + 1)]
    assert ATTEMPTS > 1
    side.ddl.rows("begin")
    side.ddl.rows("create or replace view seen as select k, v, n from notes where k < 100")
    with ThreadPoolExecutor(len(others) + 1) as threads:
        asking = threads.submit(side.reader.query, VIEW)
        side.until_waiting()
        altering = []
        for number, other in enumerate(others):
            text = f"create or replace view seen as select k, v, n from notes where k < {number + 2}"
            altering.append(threads.submit(other.rows, text))
            side.until_waiting(number + 2)
        side.ddl.rows("commit")
        heard = asking.result(30)
        for one in altering:
            one.result(30)
    assert errors(heard) == ["40001"]
    assert len(side.reader.rows(VIEW)) == 1
