"""The extended protocol message by message, held against one Postgres: over one shard and over several."""

from __future__ import annotations

from struct import pack
from typing import TYPE_CHECKING, Any

import pytest

from proxy.wire.frames import frame
from proxy.wire.frontend import Query
from wire_client import FLUSH, SYNC, bind, close, describe, execute, parse, sqlstates

if TYPE_CHECKING:
    from conftest import Town

    from wire_client import Twins

INT4, INT8, TEXT, UNKNOWN = 23, 25 - 5, 25, 705


def names(trace: list[tuple[Any, ...]]) -> list[str]:
    return [entry[0] for entry in trace]


@pytest.fixture
def filled(twins: Twins) -> Twins:
    values = ", ".join(f"({key}, 'note {key}', {key % 3})" for key in range(1, 31))
    twins.query(f"insert into notes values {values}")
    return twins


# ---- descriptions ----


def test_describe_before_execute(filled: Twins) -> None:
    for text in (
        "select k, v from notes where k = $1",
        "select k, v as text, n + 1 from notes where n = $1 order by k",
        "insert into notes values ($1, $2)",
        "insert into notes values ($1, $2) returning k, v",
        "update notes set v = $2 where k = $1",
        "select count(*), sum(k), avg(n) from notes",
        "select $1, $2::text",
        "begin",
        "set work_mem = '1MB'",
        "show work_mem",
        "",
        "create table made (k int8)",
        "select 1; select 2",
        "select nope",
    ):
        filled.same(parse(text, "s"), describe("S", "s"), SYNC)
        filled.same(close("S", "s"), SYNC)


def test_describe_portals_in_the_formats_asked_for(filled: Twins) -> None:
    for results in ((), (0,), (1,), (0, 1), (1, 0)):
        for text, values in (
            ("select k, v from notes where k = $1", (b"7",)),
            ("select k, v from notes where k > $1 order by k limit 2", (b"7",)),
        ):
            trace = filled.same(parse(text), bind(*values, results=results), describe("P"), execute(), SYNC)
            assert "columns" in names(trace)
    filled.same(parse("select k, v from notes where k = 7"), bind(results=(1, 0, 1)), describe("P"), execute(), SYNC)
    filled.same(parse("delete from notes where k = 7"), bind(), describe("P"), execute(), SYNC)


# ---- parameters ----


@pytest.mark.parametrize(
    ("oids", "formats", "value"),
    [
        ((), (), b"7"),
        ((0,), (0,), b"7"),
        ((INT8,), (1,), pack(">q", 7)),
        ((), (1,), pack(">q", 7)),
        ((INT4,), (1,), pack(">i", 7)),
        ((INT4,), (0,), b" 7 "),
        ((21,), (1,), pack(">h", 7)),
        ((), (0,), b"0x7"),
        ((), (), None),
        ((INT8,), (1,), None),
        ((INT8,), (1,), b"123"),
        ((), (), b"seven"),
        ((), (), b"9223372036854775808"),
        ((TEXT,), (), b"7"),
        ((1700,), (), b"7.0"),
    ],
)
def test_key_parameters(filled: Twins, oids: tuple[int, ...], formats: tuple[int, ...], value: bytes | None) -> None:
    filled.same(parse("select v from notes where k = $1", "", oids), bind(value, formats=formats), execute(), SYNC)


def test_text_keys(twins: Twins) -> None:
    twins.query("insert into words values ('a', 1), ('b', 2), ('é', 3), ('', 4), ('c', 5)")
    for word in (b"a", b"b", "é".encode(), b"", b"none", b"\xff", b"a "):
        for oids in ((), (TEXT,), (1043,), (UNKNOWN,)):
            twins.same(parse("select n from words where word = $1", "", oids), bind(word), execute(), SYNC)
    twins.same(parse("select n from words where word = $1"), bind(b"a", formats=(1,), results=(1,)), execute(), SYNC)


def test_several_parameters(filled: Twins) -> None:
    wanted = parse("select k from notes where k in ($1, $2, $3) and n = $4 order by k", "wanted")
    filled.same(wanted, describe("S", "wanted"), SYNC)
    for values in ((b"3", b"6", b"7", b"0"), (b"3", b"3", b"3", b"0"), (None, b"3", b"1000", b"0")):
        filled.same(bind(*values, statement="wanted"), describe("P"), execute(), SYNC)
    anything = parse("select k from notes where k = any($1) order by k", "anything")
    filled.same(anything, SYNC)
    for value in (b"{1,2,30}", b"{}", b"{5}", None, b"{7,7,NULL}"):
        filled.same(bind(value, statement="anything"), execute(), SYNC)


def test_counts_and_formats_that_do_not_fit(filled: Twins) -> None:
    filled.same(parse("select v from notes where k = $1", "s"), SYNC)
    assert sqlstates(filled.same(bind(statement="s"), SYNC)) == ["08P01"]
    assert sqlstates(filled.same(bind(b"1", b"2", statement="s"), SYNC)) == ["08P01"]
    assert sqlstates(filled.same(bind(b"1", statement="s", formats=(0, 0)), SYNC)) == ["08P01"]
    assert sqlstates(filled.same(bind(b"1", statement="s", formats=(7,)), SYNC)) == ["22023"]
    assert sqlstates(filled.same(bind(b"1", statement="s", results=(0, 0)), execute(), SYNC)) == ["08P01"]
    assert sqlstates(filled.same(parse("select v from notes where k > $1", "w"), bind(statement="w"), SYNC)) == [
        "08P01"
    ]
    assert sqlstates(filled.same(bind(b"1", statement="w", results=(0, 0)), execute(), SYNC)) == ["08P01"]


# ---- portals ----


@pytest.mark.parametrize(
    "text",
    [
        "select id from children where parent = 5 order by id",
        "select k, v from notes order by k",
        "select k from notes where n = 1 order by k desc",
        "select generate_series(1, 25)",
    ],
)
def test_row_limits(filled: Twins, text: str) -> None:
    filled.query("insert into parents values (5, 'x'); insert into children select 5, generate_series(1, 25)")
    trace = filled.same(parse(text), bind(), execute("", 4), execute("", 3), execute(), execute(), SYNC)
    assert names(trace).count("suspended") == 2
    filled.query("begin")
    filled.same(parse(text, "s"), bind(statement="s", portal="p"), execute("p", 4), SYNC)
    filled.query("select count(*) from notes")
    filled.same(bind(statement="s", portal="q"), execute("q", 2), execute("p", 1), SYNC)
    filled.same(execute("p", 2), execute("q", 100), execute("p", 100), execute("p", 100), SYNC)
    filled.same(close("P", "p"), execute("q", 1), SYNC)
    assert sqlstates(filled.same(execute("p"), SYNC)) == ["34000"]
    filled.query("rollback")
    assert sqlstates(filled.same(execute("q"), SYNC)) == ["34000"]


def test_a_limit_that_is_the_number_of_rows(filled: Twins) -> None:
    for text in ("select k from notes order by k", "select k from notes where k = 3"):
        for limit in (1, 30, 31):
            filled.same(parse(text), bind(), execute("", limit), execute("", limit), SYNC)


def test_rows_before_an_error_come_before_it(twins: Twins, any_town: Town) -> None:
    shards = len(any_town.shards)
    rows = ", ".join(f"({key}, 'x', {n})" for n, key in enumerate(any_town.keys(shards - 1, 6)))
    twins.query(f"insert into notes values {rows}")
    for text in ("select 60 / (3 - n) from notes", "select 60 / (3 - n) from notes where k > 0 or v = 'x'"):
        assert names(twins.query(text)).count("row") == 3
        for limit in (0, 5):
            assert names(twins.same(parse(text), bind(), execute("", limit), SYNC)).count("row") == 3
        # A shard computes on, so the error is known; behind it nothing is suspended.
        trace = twins.proxy.ask(parse(text), bind(), execute("", 2), execute("", 2), SYNC)
        assert shards == 1 or names(trace) == ["parsed", "bound", "row", "row", "error", "ready"]
    twins.query("set enable_sort = off")
    for text in ("select k from notes where 60 / (3 - n) > 0 order by k", "select 60 / (3 - n) from notes order by k"):
        twins.query(text)
    twins.query("update notes set v = 'y' returning 60 / (3 - n)")
    twins.query("select count(*) from notes where v = 'y'")


def test_portals_end_with_their_transaction(filled: Twins) -> None:
    filled.same(parse("select k from notes order by k", "s"), bind(statement="s", portal="p"), execute("p", 2), SYNC)
    assert sqlstates(filled.same(execute("p"), SYNC)) == ["34000"]
    filled.same(parse("select v from notes where k = 3"), bind(), SYNC)
    assert sqlstates(filled.same(execute(), SYNC)) == ["34000"]
    filled.query("begin")
    filled.same(bind(statement="s", portal="p"), SYNC)
    assert sqlstates(filled.same(bind(statement="s", portal="p"), SYNC)) == ["42P03"]
    filled.query("rollback")


@pytest.mark.parametrize("text", ["select v from notes where k = 1", "select v from notes order by k", "show work_mem"])
def test_portals_end_with_their_savepoint(filled: Twins, text: str) -> None:
    filled.query("begin")
    filled.same(parse(text, "s"), bind(statement="s", portal="outer"), SYNC)
    filled.query("savepoint a")
    filled.same(bind(statement="s", portal="inner"), execute("inner", 1), SYNC)
    filled.query("rollback to a")
    assert names(filled.same(bind(statement="s", portal="inner"), execute("inner"), SYNC))[0] == "bound"
    filled.query("savepoint a")
    filled.query("rollback to a")
    assert "row" in names(filled.same(execute("outer"), SYNC))
    filled.query("savepoint b")
    filled.query("rollback to a")
    filled.query("release a")
    filled.query("rollback to a")
    assert sqlstates(filled.same(execute("inner"), SYNC)) == ["34000"]


def test_unnamed_ones_are_replaced(filled: Twins) -> None:
    filled.same(parse("select 1"), parse("select 2"), bind(), bind(), execute(), SYNC)
    filled.same(
        parse("select v from notes where k = 1"), bind(), parse("select v from notes where k = 2"), execute(), SYNC
    )
    filled.same(parse("select 1"), SYNC)
    filled.query("select 2")
    assert sqlstates(filled.same(bind(), SYNC)) == ["26000"]


def test_writing_portals(filled: Twins, any_town: Town) -> None:
    text = "update notes set v = 'x' where k < $1 returning k"
    for limit in (0, 1):
        trace = filled.one.ask(parse(text), bind(b"4"), execute("", limit), SYNC)
        ours = filled.proxy.ask(parse(text), bind(b"4"), execute("", limit), SYNC)
        assert sorted(map(str, ours)) == sorted(map(str, trace)) or limit == 1
        assert names(ours) == names(trace)
    assert len([v for _, v in any_town.stored() if v == "x"]) == 3


# ---- names, Close, errors ----


def test_unknown_names(twins: Twins) -> None:
    assert sqlstates(twins.same(bind(statement="nobody"), SYNC)) == ["26000"]
    assert sqlstates(twins.same(bind(), SYNC)) == ["26000"]
    assert sqlstates(twins.same(describe("S", "nobody"), SYNC)) == ["26000"]
    assert sqlstates(twins.same(describe("P", "nobody"), SYNC)) == ["34000"]
    assert sqlstates(twins.same(execute("nobody"), SYNC)) == ["34000"]
    assert sqlstates(twins.same(execute(), SYNC)) == ["34000"]
    assert sqlstates(twins.query("execute nobody")) == ["26000"]
    assert sqlstates(twins.query("deallocate nobody")) == ["26000"]
    assert sqlstates(twins.query("fetch 1 from nobody")) == ["34000"]
    assert sqlstates(twins.query("close nobody")) == ["34000"]
    twins.same(close("S", "nobody"), close("P", "nobody"), SYNC)


def test_names_are_taken(twins: Twins) -> None:
    twins.same(parse("select 1", "s"), SYNC)
    assert sqlstates(twins.same(parse("select 2", "s"), SYNC)) == ["42P05"]
    twins.same(close("S", "s"), parse("select 2", "s"), bind(statement="s"), execute(), SYNC)
    assert sqlstates(twins.query("prepare s as select 3")) == ["42P05"]
    twins.query("execute s")
    twins.query("deallocate all")
    assert sqlstates(twins.same(bind(statement="s"), SYNC)) == ["26000"]
    twins.query("prepare s (int) as select $1 + 1")
    twins.same(bind(b"4", statement="s"), describe("P"), execute(), SYNC)
    twins.query("execute s(5 + 5)")
    assert sqlstates(twins.query("execute s")) == ["42601"]
    twins.query("execute s('x')")


def test_execute_in_the_extended_protocol_is_described_and_comes_in_the_clients_format(filled: Twins) -> None:
    filled.query("PREPARE one (int8) AS SELECT k, n FROM notes WHERE k = $1")
    filled.query("PREPARE all_of_them AS SELECT k FROM notes ORDER BY k")
    filled.query("PREPARE change (int8) AS UPDATE notes SET n = 1 WHERE k = $1")
    for text in ("EXECUTE one (1)", "EXECUTE all_of_them", "EXECUTE change (2)", "EXECUTE one (1 + 1)"):
        for formats in ((), (0,), (1,)):
            filled.same(parse(text), describe("S"), bind(results=formats), describe("P"), execute(), SYNC)
    for client in (filled.one, filled.proxy):  # the proxy says it at Bind already
        trace = client.ask(parse("EXECUTE one"), bind(), execute(), SYNC)
        assert sqlstates(trace) == ["42601"]


def test_sql_prepared_statements_reach_rows(filled: Twins) -> None:
    filled.query("prepare one (int8) as select v from notes where k = $1")
    filled.query("prepare many (int) as select k from notes where n = $1 order by k")
    filled.query("prepare put (int8, text) as insert into notes values ($1, $2)")
    for text in (
        "execute one(7)", "execute one(3 + 4)", "execute one(null)", "execute many(1)", "execute put(100, 'x')",
        "execute put(101, upper('y'))", "execute put(100, 'again')", "execute one(100)",
    ):  # fmt: skip
        expected, got = filled.one.query(text), filled.proxy.query(text)
        if sqlstates(got) != ["0A000"]:
            assert got == expected


def test_errors_skip_to_sync(filled: Twins, any_town: Town) -> None:
    trace = filled.same(
        parse("select 1 / $1::int"), bind(b"0"), execute(), parse("delete from notes"), bind(), execute(), FLUSH,
        close("S"), SYNC,
    )  # fmt: skip
    assert names(trace) == ["parsed", "error", "ready"]
    trace = filled.same(
        parse("select nope"), bind(), execute(), SYNC, parse("select 2"), bind(), execute(), SYNC, ready=2
    )
    assert names(trace) == ["error", "ready", "parsed", "bound", "row", "tag", "ready"]
    trace = filled.same(parse("selekt"), Query(b"select 3"), SYNC)
    assert names(trace) == ["error", "ready"]
    assert len(any_town.stored()) == 30


@pytest.mark.parametrize("failing", ["select 1 / n from notes where k = 1", "select count(1 / (k - 1)) from notes"])
def test_what_is_skipped_leaves_the_statements_as_they_were(filled: Twins, failing: str) -> None:
    """Parse and Close behind a statement that fails have not happened, though the session answers them itself."""
    filled.same(parse("select 'kept'", "kept"), parse("select 'old'", "old"), SYNC)
    filled.same(parse("update notes set n = 0 where k = 1"), bind(), execute(), SYNC)
    for text in ("select 'new'", "rollback to nowhere"):
        filled.same(parse(text, "once"), SYNC)  # what it is like is known already
        filled.same(close("S", "once"), SYNC)
        filled.same(
            parse(failing), bind(), execute(), close("S", "kept"), parse(text, "new"), close("S", "old"),
            parse(text, "old"), SYNC,
        )  # fmt: skip
        for name in ("kept", "old"):
            assert names(filled.same(bind(statement=name), execute(), SYNC)) == ["bound", "row", "tag", "ready"]
        assert names(filled.same(bind(statement="new"), execute(), SYNC)) == ["error", "ready"]
        filled.same(parse("select 5", "new"), bind(statement="new"), execute(), close("S", "new"), SYNC)


def test_flush(filled: Twins) -> None:
    filled.same(parse("select v from notes where k = $1"), describe("S"), FLUSH, until="Tn")
    filled.same(bind(b"4"), describe("P"), FLUSH, until="T")
    filled.same(execute(), FLUSH, until="C")
    filled.same(parse("select count(*) from notes"), bind(), execute(), FLUSH, until="C")
    filled.same(SYNC)
    filled.same(parse("insert into notes values (100, 'x')"), bind(), execute(), FLUSH, until="C")
    filled.same(parse("insert into notes values (102, 'x')"), bind(), execute(), FLUSH, until="C")
    filled.same(parse("select 1 / 0"), bind(), execute(), FLUSH, until="E")
    filled.same(parse("select 1"), SYNC)
    filled.query("select count(*) from notes")


def test_syncs_alone_and_empty(twins: Twins) -> None:
    twins.same(SYNC)
    twins.same(SYNC, SYNC, SYNC, ready=3)
    twins.same(FLUSH, SYNC)
    twins.same(parse(""), bind(), describe("P"), execute(), SYNC)
    twins.same(parse("/* nothing */ ;"), bind(), execute(), SYNC)
    twins.query("")
    twins.query(";;")
    twins.query("-- nothing")
    twins.same(parse("select"), bind(), describe("P"), execute(), SYNC)
    twins.query("select")
    twins.query("select;; select 1;")


def test_a_long_pipeline(filled: Twins) -> None:
    wanted = parse("select v from notes where k = $1", "wanted")
    messages: list[Any] = [wanted]
    for key in range(1, 31):
        messages += [bind(str(key).encode(), statement="wanted"), execute()]
    messages += [parse("select count(*) from notes"), bind(), execute(), SYNC]
    trace = filled.same(*messages)
    assert names(trace).count("row") == 31


def test_control_by_the_extended_protocol(filled: Twins) -> None:
    def run(text: str) -> tuple[Any, ...]:
        return parse(text), bind(), describe("P"), execute()

    filled.same(*run("begin"), SYNC)
    filled.same(*run("savepoint s"), *run("insert into notes values (100, 'x')"), SYNC)
    filled.same(*run("rollback to s"), *run("release s"), SYNC)
    filled.same(*run("set local work_mem = '5MB'"), *run("show work_mem"), SYNC)
    filled.same(*run("commit"), *run("show work_mem"), SYNC)
    filled.same(*run("discard all"), SYNC)
    filled.same(*run("begin"), *run("declare c cursor for select generate_series(1, 5)"), SYNC)
    filled.same(*run("fetch 2 from c"), *run("move 1 in c"), *run("fetch all from c"), SYNC)
    filled.same(*run("close c"), *run("select 1 / 0"), *run("commit"), SYNC)
    filled.same(*run("rollback"), SYNC)
    filled.same(*run("commit"), SYNC)
    filled.same(*run("prepare p as select 5"), SYNC)
    filled.same(bind(statement="p"), execute(), SYNC)
    filled.same(*run("deallocate p"), SYNC)
    filled.same(parse("vacuum notes", "v"), bind(statement="v"), execute(), SYNC)
    filled.same(parse("truncate notes"), bind(), execute(), SYNC)
    filled.same(parse("select count(*) from notes"), bind(), execute(), SYNC)


def test_ddl_between_uses(twins: Twins) -> None:
    twins.query("drop table if exists made; create table made (k int8 primary key, v text)")
    twins.same(parse("select * from made where k = $1", "one"), parse("select * from made order by k", "all"), SYNC)
    twins.same(parse("insert into made (k, v) values ($1, $2)", "put"), SYNC)
    for key in (b"1", b"2", b"3"):
        twins.same(bind(key, b"x", statement="put"), execute(), SYNC)
    twins.same(bind(b"1", statement="one"), execute(), bind(statement="all"), execute(), SYNC)
    twins.query("create index on made (v)")
    twins.same(bind(b"1", statement="one"), execute(), bind(statement="all"), execute(), SYNC)
    twins.query("alter table made add column w int4 default 9")
    assert sqlstates(twins.same(bind(b"1", statement="one"), execute(), SYNC)) == ["0A000"]
    assert sqlstates(twins.same(bind(statement="all"), execute(), SYNC)) == ["0A000"]
    twins.same(bind(b"4", b"y", statement="put"), execute(), SYNC)
    twins.same(
        close("S", "one"), parse("select * from made where k = $1", "one"), bind(b"4", statement="one"), execute(), SYNC
    )
    twins.query("alter table made rename column v to u")
    assert sqlstates(twins.same(bind(b"5", b"y", statement="put"), execute(), SYNC)) == ["42703"]
    twins.query("drop table made")
    assert sqlstates(twins.same(bind(b"4", statement="one"), execute(), SYNC)) == ["42P01"]


def test_function_calls_are_refused_over_several_shards(twins: Twins, any_town: Town) -> None:
    body = pack(">I", 1299) + pack(">HHH", 0, 0, 0)
    trace = twins.proxy.ask(frame(b"F", body))
    assert sqlstates(trace) == (["0A000"] if len(any_town.shards) > 1 else [])
    assert trace[-1] == ("ready", "I")
    twins.query("select 1")


# ---- COPY ----


def test_copy_messages(twins: Twins) -> None:
    data = frame(b"d", b"1\tone\t1\n2\ttwo\t2\n"), frame(b"d", b"3\tthr"), frame(b"d", b"ee\t3\n")
    twins.same(Query(b"copy notes from stdin"), until="G")
    twins.same(*data, frame(b"c", b""))
    twins.query("select k, v from notes order by k")
    twins.same(Query(b"copy notes from stdin"), frame(b"d", b"4\tx\t1\n3\tagain\t3\n"), frame(b"c", b""))
    failed = frame(b"d", b"5\tx\t1\n"), frame(b"f", b"enough\0")
    twins.same(Query(b"copy notes from stdin"), *failed, ignoring="W")
    twins.same(Query(b"copy notes from stdin"), frame(b"d", b"5\tx\n"), frame(b"d", b"6\tx\t1\n"), frame(b"c", b""))
    twins.same(Query(b"copy notes (k, v) from stdin; select 1 / 0"), frame(b"d", b"7\tx\n"), frame(b"c", b""))
    twins.query("select k from notes order by k")
    twins.same(
        parse("copy notes from stdin"), bind(), execute(), SYNC, frame(b"d", b"9\tx\t1\n"), frame(b"c", b""), SYNC
    )
    twins.same(Query(b"copy (select 1, 'x') to stdout"))
    twins.same(Query(b"copy notes from stdin"), frame(b"d", b"8\tx\t1\n\\.\n"), frame(b"c", b""))
    twins.query("select k from notes order by k")


def test_a_query_in_the_middle_of_a_copy(twins: Twins) -> None:
    twins.same(Query(b"copy notes from stdin"), frame(b"d", b"1\tx\t1\n"), Query(b"select 1"), until="E", ignoring="W")
    ends = [client.read_to_end() for client in (twins.one, twins.proxy)]
    assert ends[0] == ends[1]
    assert sqlstates(ends[1]) == ["08P01"]


def test_an_error_in_a_copy_of_the_extended_protocol(twins: Twins) -> None:
    """The client hears of it in the middle of its data, and may send Sync at once."""
    bad = frame(b"d", b"1\tx\t1\n2\tx\tminus\n")
    for text in ("copy notes from stdin", "copy plain from stdin", "copy kinds from stdin"):
        twins.same(parse(text), bind(), execute(), FLUSH, until="G")
        twins.same(bad, until="E")
        twins.same(SYNC)
        twins.same(parse(text), bind(), execute(), SYNC, until="G")
        twins.same(bad, frame(b"d", b"3\tx\t1\n"), frame(b"c", b""), SYNC)
        twins.same(parse("copy nowhere from stdin"), bind(), execute(), SYNC, bad, frame(b"c", b""), SYNC, ready=2)
    twins.query("select count(*) from notes")


def test_a_copy_that_fails_before_its_data_is_read(twins: Twins) -> None:
    """The shard asks for data and fails in the same breath; nobody may wait for the data then."""
    rows = frame(b"d", b"1\tx\n"), frame(b"c", b"")
    twins.query("create view seen as select id, v from plain")
    try:
        for text in ("copy seen from stdin", "copy plain from stdin (freeze)"):
            twins.same(Query(text.encode()), *rows, Query(b"select 1"), ready=2)
            twins.same(parse(text), bind(), execute(), SYNC, *rows, SYNC, Query(b"select 2"), ready=3)
            twins.same(parse(text), bind(), execute(), FLUSH, *rows, SYNC, Query(b"select 3"), ready=2)
            twins.query("begin")
            twins.same(Query(text.encode()), *rows, Query(b"select 1"), ready=2)
            twins.query("rollback")
    finally:
        twins.query("drop view seen")


# ---- what a breaker found ----


def test_a_query_runs_what_was_not_synced(twins: Twins, any_town: Town) -> None:
    """The batch before it must neither vanish nor run later on a link that is somebody else's by then.

    Not compared with Postgres, which says status T behind the Query though no block is open for the client.
    """
    trace = twins.proxy.ask(parse("insert into notes values (1, 'kept')"), bind(), execute(), Query(b"select 7"))
    assert names(trace) == ["parsed", "bound", "tag", "columns", "row", "tag", "ready"]
    assert [rows[0][0] for rows in any_town.everywhere("select count(*) from notes where v = 'kept'")].count(1) == 1
    assert twins.proxy.ask(SYNC) == [("ready", "I")]


def test_flush_between_bind_and_execute(filled: Twins) -> None:
    filled.same(parse("select v from notes where k = 7"), bind(), FLUSH, execute(), SYNC)


def test_a_negative_row_limit_is_none(filled: Twins) -> None:
    filled.same(parse("select count(*) from notes"), bind(), execute(limit=-5), SYNC)
    filled.same(parse("select v from notes where k = 7"), bind(), execute(limit=-5), SYNC)


def test_execute_by_protocol_has_the_columns_and_formats_of_what_was_prepared(filled: Twins) -> None:
    filled.same(parse("select k, v from notes where k = $1", "by_key"), SYNC)
    filled.same(parse("execute by_key(7)", "run"), describe("S", "run"), SYNC)
    filled.same(bind(statement="run", results=[1, 0]), describe("P"), execute(), SYNC)
    filled.same(parse("execute nothing(7)"), bind(), describe("P"), execute(), SYNC)


def test_what_begins_itself_gets_no_block_however_the_messages_arrive(twins: Twins) -> None:
    """Bind, Execute and Sync may arrive one by one: that must not make a block for PREPARE TRANSACTION to prepare."""
    for message in (parse("prepare transaction 'not_begun'"), bind(), execute()):
        twins.same(message, FLUSH, until="12CE")
    twins.same(SYNC)
    twins.query("select gid from pg_prepared_xacts where gid = 'not_begun'")
    twins.same(parse("vacuum plain"), bind(), execute(), FLUSH, until="C")
    twins.same(SYNC)


@pytest.mark.parametrize(
    "local", ["set local timezone = 'Asia/Tokyo'", "select set_config('timezone', 'Asia/Tokyo', true)"]
)
def test_what_is_set_for_a_transaction_ends_with_it_though_more_follows(twins: Twins, local: str) -> None:
    twins.query(f"begin; {local}; select 1")
    twins.query("commit")
    twins.query("show timezone")


def test_a_change_of_role_among_other_statements(twins: Twins) -> None:
    twins.query("set session authorization postgres; select 1; reset session authorization")
    twins.query("select current_user")


@pytest.mark.parametrize(
    "text",
    [
        "select now(), nope from notes",
        "select 1; select current_date, /* ä */ nope from notes where k in (1, 2)",
        "insert into notes values (101, 'ä', 1), (102, 'y', nope)",
        "insert into notes values (101, 'x', 1), (102, 'y', 'abc')",
        "insert into notes values ('x', 'x', 1)",
        "insert into notes (k, v) select 100 + k, nope from notes",
        "insert into notes values (1, now()::text, nope), (2, 'x', 3)",
        "update notes set n = 'x' where k in (1, 2, 3)",
        "select 1; update notes set v = (select max(nope) from notes)",
        "select 1; update kinds set name = nope",
        "declare c cursor for select nope from notes",
        "begin; declare c cursor for select nope from notes",
        "begin; declare c cursor for select now(), nope from notes",
        "copy (select nope from notes) to stdout",
        "select 1; copy (select now(), count(nope) from notes) to stdout",
    ],
)
def test_errors_point_at_their_place_in_the_clients_text(twins: Twins, text: str) -> None:
    """Not in what the proxy has made of it for the shards."""
    trace = twins.query(text)
    (error,) = [entry for entry in trace if entry[0] == "error"]
    assert int(error[1]["P"]) > 0
    twins.query("rollback")


@pytest.mark.parametrize(
    "execute",
    [
        "execute p(nope)",
        "select 1; /* ä */ execute p( 1 + nope , 2)",
        "execute p(1, lower(3))",
        "execute p((select 1), 2)",
        "execute p('x', 2)",
        "execute p(1, /* 2 */ nope())",
        "execute p(1, -- 2\n 2 -- 3\n)",
        "explain (costs off) execute p(1, nope)",
    ],
)
def test_errors_in_arguments_point_at_their_place(filled: Twins, execute: str) -> None:
    filled.query("prepare p(int8, text) as select v from notes where k = $1 and v <> $2")
    filled.query(execute)


def test_explain_of_prepared_statements(filled: Twins, any_town: Town) -> None:
    filled.query("prepare one (int8) as select v from notes where k = $1")
    filled.query("prepare put (int8) as update notes set v = 'put' where k = $1")
    for text in ("one(7)", "one(3 + 4)", "put(7)"):
        filled.query(f"explain (costs off) /* EXECUTE x */ execute {text}")
    filled.query("explain (analyze, costs off, timing off, summary off, buffers off) execute put(7)")
    filled.query("select k, v from notes where v = 'put'")
    filled.query("explain execute nothing")
    filled.query("prepare many as select v from notes")
    assert sqlstates(filled.proxy.query("explain execute many")) == (["0A000"] if len(any_town.shards) > 1 else [])
    filled.query("execute one(7)")


@pytest.mark.parametrize("offset", [b"0", b"3", b"9223372036854775807", None])
@pytest.mark.parametrize("limit", [b"9223372036854775807", b"9223372036854775806", b"0", None])
def test_the_largest_limits(filled: Twins, limit: bytes | None, offset: bytes | None) -> None:
    text = "select k from notes order by k limit $1 offset $2"
    filled.same(parse(text), bind(limit, offset), execute(), SYNC)
    text = "select n, count(*) from notes group by n order by n limit $1 offset $2"
    filled.same(parse(text), bind(limit, offset), execute(), SYNC)


BAD_PARAMETERS = (
    ("select count(*) from notes where n = $1", (b"x",), ()),
    ("select count(*) from notes where n = $1", (b"99999999999",), ()),
    ("select count(*) from notes where n = $1", (b"\0\0\1",), (1,)),
    ("select count(*) from notes where v = $1", (b"\xff",), ()),
    ("select k from notes where n = $1 and v = $2::date::text order by k", (b"1", b"2020-02-30"), ()),
    ("update notes set n = n + $1 where v < $2::timestamptz::text", (b"1", b"2020-02-20 24:61"), ()),
    ("insert into notes (k, n) values (1, $1), (2, $2), (3, $1)", (b"1", b"1.5"), ()),
    ("select count(*) from notes where v = $1::uuid::text", (b"0000",), ()),
    ("delete from notes where n > 3 and n::numeric = $1", (b"1,5",), ()),
)


@pytest.mark.parametrize("portal", ["", "named"])
def test_what_is_wrong_with_a_parameter_is_said_at_bind(filled: Twins, portal: str) -> None:
    for text, values, formats in BAD_PARAMETERS:
        for begin, end in (("select 1", "select 2"), ("begin", "rollback")):
            filled.query(begin)
            trace = filled.same(
                parse(text), bind(*values, portal=portal, formats=formats), describe("P", portal), execute(portal), SYNC
            )
            assert names(trace) == ["parsed", "error", "ready"]
            filled.query(end)
    for values in ((b" 7 ",), (b"0x7",), (b"+7",), (None,)):  # read by Postgres
        filled.same(parse("select count(*) from notes where n < $1"), bind(*values), execute(), SYNC)


@pytest.mark.parametrize(
    "text",
    [
        "select k from notes where n > $1 order by k",
        "select sum(n) from notes where n > $1",
        "select n, count(*) from notes where n > $1 group by n order by n",
        "select k from notes where n > $1",
        "select k from notes where k = $1",
    ],
)
def test_a_bind_with_the_wrong_number_of_values_or_formats_is_told_as_such(twins: Twins, text: str) -> None:
    """A shard's 08P01 is not taken for that of a statement whose columns another session has changed."""
    twins.same(parse(text, "s"), SYNC)
    for values, formats, results in (
        ((b"1", b"2"), (), ()),
        ((), (), ()),
        ((b"1",), (0, 0), ()),
        ((b"1",), (), (0, 0, 0)),
        ((b"1",), (0, 1, 1), (1, 1)),
    ):
        trace = twins.same(
            bind(*values, statement="s", formats=formats, results=results), describe("P"), execute(), SYNC, ignoring="M"
        )
        assert sqlstates(trace) == ["08P01"]
