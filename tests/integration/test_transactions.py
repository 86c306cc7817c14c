"""Transactions over several shards, as clients see them: held message by message against one Postgres."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from wire_client import SYNC, bind, execute, parse

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.conftest import Town
    from wire_client import Twins, WireClient


def kinds(trace: list[tuple[Any, ...]]) -> list[str]:
    """Return what a trace consists of, tags and statuses included."""
    return [f"{entry[0]} {entry[1]}" if entry[0] in ("tag", "ready") else entry[0] for entry in trace]


def sqlstates(trace: list[tuple[Any, ...]]) -> list[str]:
    return [entry[1]["C"] for entry in trace if entry[0] in ("error", "notice")]


# ---- several statements in one simple query ----


def test_several_statements_are_one_transaction(twins: Twins, any_town: Town) -> None:
    a, b, c = any_town.spread
    twins.query(f"insert into notes values ({a}, 'a'); insert into notes values ({b}, 'b'); select count(*) from kinds")
    assert any_town.stored() == sorted([(a, "a"), (b, "b")])
    trace = twins.query(
        f"update notes set v = 'changed' where k = {a}; insert into notes values ({c}, 'c'); select 1 / 0; select 2"
    )
    assert kinds(trace) == ["tag UPDATE 1", "tag INSERT 0 1", "error", "ready I"]
    assert any_town.stored() == sorted([(a, "a"), (b, "b")])


def test_an_error_in_the_first_statement_stops_the_rest(twins: Twins, any_town: Town) -> None:
    a, b, _ = any_town.spread
    twins.query(f"insert into notes values ({a}, 'a', -1); insert into notes values ({b}, 'b')")
    assert any_town.stored() == []


def test_a_syntax_error_anywhere_runs_nothing(twins: Twins, any_town: Town) -> None:
    a, b, _ = any_town.spread
    trace = twins.query(f"insert into notes values ({a}, 'a'); insert into notes values ({b}, 'b'); selekt 1")
    assert sqlstates(trace) == ["42601"]
    assert any_town.stored() == []


def test_begin_in_the_middle_takes_what_was_before_into_the_block(twins: Twins, any_town: Town) -> None:
    a, b, c = any_town.spread
    trace = twins.query(
        f"insert into notes values ({a}, 'a'); begin; insert into notes values ({b}, 'b')",
    )
    assert kinds(trace)[-1] == "ready T"
    twins.query(f"insert into notes values ({c}, 'c')")
    twins.query("rollback")
    assert any_town.stored() == []


def test_commit_in_the_middle_keeps_what_was_before(twins: Twins, any_town: Town) -> None:
    a, b, c = any_town.spread
    twins.query("begin")
    trace = twins.query(
        f"insert into notes values ({a}, 'a'); insert into notes values ({b}, 'b'); commit;"
        f" insert into notes values ({c}, 'c'); select 1 / 0"
    )
    assert kinds(trace)[-1] == "ready I"
    assert any_town.stored() == sorted([(a, "a"), (b, "b")])


def test_commit_without_begin_in_the_middle(twins: Twins, any_town: Town) -> None:
    a, b, c = any_town.spread
    trace = twins.query(
        f"insert into notes values ({a}, 'a'); insert into notes values ({b}, 'b'); commit;"
        f" insert into notes values ({c}, 'c'); select 1 / 0"
    )
    assert sqlstates(trace) == ["25P01", "22012"]
    assert any_town.stored() == sorted([(a, "a"), (b, "b")])


def test_rollback_in_the_middle(twins: Twins, any_town: Town) -> None:
    a, b, c = any_town.spread
    twins.query(
        f"begin; insert into notes values ({a}, 'a'); insert into notes values ({b}, 'b'); rollback;"
        f" insert into notes values ({c}, 'c')"
    )
    assert any_town.stored() == [(c, "c")]


def test_savepoints_need_a_block(twins: Twins, any_town: Town) -> None:
    a, b, _ = any_town.spread
    for text in ("savepoint s", "release s", "rollback to s", "commit and chain", "rollback and chain"):
        assert sqlstates(twins.query(text)) == ["25P01"], text
        twins.query(f"insert into notes values ({a}, 'a'); {text}; insert into notes values ({b}, 'b')")
    assert any_town.stored() == []


# ---- one statement over several shards ----


def test_one_insert_over_all_shards_is_all_or_nothing(twins: Twins, any_town: Town) -> None:
    a, b, c = any_town.spread
    twins.query(f"insert into notes values ({b}, 'b')")
    trace = twins.query(f"insert into notes values ({a}, 'a'), ({b}, 'again'), ({c}, 'c')")
    assert sqlstates(trace) == ["23505"]
    assert any_town.stored() == [(b, "b")]
    trace = twins.query(f"insert into notes values ({a}, 'a'), ({c}, 'c')")
    assert kinds(trace) == ["tag INSERT 0 2", "ready I"]
    trace = twins.query("update notes set v = v || '!'")
    assert kinds(trace) == ["tag UPDATE 3", "ready I"]
    assert any_town.stored() == sorted([(a, "a!"), (b, "b!"), (c, "c!")])
    trace = twins.query(f"update notes set n = case when k = {c} then -1 else 1 end")
    assert sqlstates(trace) == ["23514"]
    assert any_town.stored("SELECT n FROM notes WHERE n IS NOT NULL") == []
    assert kinds(twins.query("delete from notes")) == ["tag DELETE 3", "ready I"]


def test_reference_tables_are_the_same_everywhere(twins: Twins, any_town: Town) -> None:
    twins.query("insert into kinds values (1, 'one'), (2, 'two')")
    twins.query("update kinds set name = upper(name) where id = 2")
    twins.query("insert into kinds values (3, 'three'), (2, 'again')")
    for rows in any_town.everywhere("SELECT id, name FROM kinds ORDER BY id"):
        assert rows == [(1, "one"), (2, "TWO")]


# ---- several messages before Sync ----


def test_a_pipeline_is_one_transaction(twins: Twins, any_town: Town) -> None:
    a, b, c = any_town.spread
    put = parse("insert into notes values ($1, $2)", "put")
    twins.same(put, SYNC)

    def add(key: int, text: bytes) -> tuple[Any, ...]:
        return bind(str(key).encode(), text, statement="put"), execute()

    trace = twins.same(*add(a, b"a"), *add(b, b"b"), *add(c, b"c"), SYNC)
    assert kinds(trace) == ["bound", "tag INSERT 0 1"] * 3 + ["ready I"]
    assert any_town.stored() == sorted([(a, "a"), (b, "b"), (c, "c")])
    twins.query("delete from notes")
    trace = twins.same(*add(a, b"a"), *add(b, b"b"), *add(a, b"again"), *add(c, b"c"), SYNC)
    assert kinds(trace) == ["bound", "tag INSERT 0 1"] * 2 + ["bound", "error", "ready I"]
    assert any_town.stored() == []
    trace = twins.same(*add(a, b"a"), SYNC, *add(a, b"again"), SYNC, *add(b, b"b"), SYNC, ready=3)
    assert kinds(trace).count("error") == 1
    assert any_town.stored() == sorted([(a, "a"), (b, "b")])


def test_a_pipeline_may_begin_and_end_its_own_block(twins: Twins, any_town: Town) -> None:
    a, b, c = any_town.spread

    def run(text: str) -> tuple[Any, ...]:
        return parse(text), bind(), execute()

    trace = twins.same(
        *run("begin"), *run(f"insert into notes values ({a}, 'a')"), *run(f"insert into notes values ({b}, 'b')"),
        *run("commit"), *run(f"insert into notes values ({c}, 'c')"), *run("select 1 / 0"), SYNC,
    )  # fmt: skip
    assert kinds(trace)[-2:] == ["error", "ready I"]
    assert any_town.stored() == sorted([(a, "a"), (b, "b")])
    trace = twins.same(*run("begin"), *run(f"insert into notes values ({c}, 'c')"), SYNC)
    assert kinds(trace)[-1] == "ready T"
    trace = twins.same(*run("select 1 / 0"), *run("commit"), SYNC)
    assert kinds(trace)[-1] == "ready E"
    trace = twins.same(*run("commit"), SYNC)
    assert kinds(trace) == ["parsed", "bound", "tag ROLLBACK", "ready I"]
    assert any_town.stored() == sorted([(a, "a"), (b, "b")])


# ---- blocks ----


def test_a_block_over_all_shards(twins: Twins, any_town: Town) -> None:
    a, b, c = any_town.spread
    twins.query("begin")
    for key in (a, b, c):
        assert kinds(twins.query(f"insert into notes values ({key}, 'x')"))[-1] == "ready T"
    twins.query(f"select v from notes where k = {b}")
    assert any_town.stored() == []
    assert kinds(twins.query("commit")) == ["tag COMMIT", "ready I"]
    assert any_town.stored() == sorted([(a, "x"), (b, "x"), (c, "x")])


def test_a_failed_block_listens_to_its_end_only(twins: Twins, any_town: Town) -> None:
    a, b, c = any_town.spread
    twins.query("begin")
    twins.query(f"insert into notes values ({a}, 'a')")
    twins.query(f"insert into notes values ({b}, 'b', -1)")
    refused = f"""insert into notes values ({c}, 'c'); select 1; set work_mem = '1MB'; show work_mem; savepoint s;
        release s; begin; prepare p as select 1; fetch 1 from c; lock notes; copy notes to stdout"""
    for text in refused.split(";"):
        assert sqlstates(twins.query(text)) == ["25P02"], text
    assert kinds(twins.query("")) == ["empty", "ready E"]
    assert kinds(twins.query("commit")) == ["tag ROLLBACK", "ready I"]
    assert any_town.stored() == []
    twins.query("begin")
    twins.query("select 1 / 0")
    assert kinds(twins.query("rollback")) == ["tag ROLLBACK", "ready I"]


def test_errors_before_any_shard_has_joined_fail_the_block(twins: Twins, any_town: Town) -> None:
    a, _, _ = any_town.spread
    twins.query("begin")
    assert sqlstates(twins.query("selekt 1")) == ["42601"]
    assert sqlstates(twins.query(f"insert into notes values ({a}, 'a')")) == ["25P02"]
    twins.query("commit")
    assert any_town.stored() == []


def test_warnings(twins: Twins) -> None:
    assert sqlstates(twins.query("commit")) == ["25P01"]
    assert sqlstates(twins.query("rollback")) == ["25P01"]
    assert sqlstates(twins.query("begin; begin")) == ["25001"]
    assert kinds(twins.query("end")) == ["tag COMMIT", "ready I"]
    assert kinds(twins.query("start transaction")) == ["tag START TRANSACTION", "ready T"]
    assert kinds(twins.query("abort")) == ["tag ROLLBACK", "ready I"]
    assert sqlstates(twins.query("set local work_mem = '1MB'")) == ["25P01"]
    assert sqlstates(twins.query("set transaction read only")) == ["25P01"]
    assert sqlstates(twins.query("set constraints all immediate")) == ["25P01"]


def test_read_only(twins: Twins, any_town: Town) -> None:
    a, b, _ = any_town.spread
    twins.query("begin read only")
    twins.query(f"select v from notes where k = {a}")
    assert sqlstates(twins.query(f"insert into notes values ({b}, 'b')")) == ["25006"]
    twins.query("commit")
    twins.query("begin")
    twins.query(f"insert into notes values ({a}, 'a')")
    twins.query("set transaction read only")
    assert kinds(twins.query("commit")) == ["tag COMMIT", "ready I"]
    assert any_town.stored() == [(a, "a")]
    twins.query("set default_transaction_read_only = on")
    assert sqlstates(twins.query(f"insert into notes values ({b}, 'b')")) == ["25006"]
    twins.query("begin read write")
    twins.query(f"insert into notes values ({b}, 'b')")
    twins.query("commit")
    assert any_town.stored() == sorted([(a, "a"), (b, "b")])


@pytest.mark.parametrize("before", [[], ["select v from notes where k = 1"], ["savepoint a"]])
@pytest.mark.parametrize("modes", ["read only", "isolation level repeatable read", "isolation level read committed"])
def test_begin_inside_a_block_sets_its_modes(twins: Twins, modes: str, before: list[str]) -> None:
    for text in [
        "begin",
        *before,
        f"begin {modes}",
        "show transaction_isolation",
        "update notes set v = 'x' where k = 1",
    ]:
        twins.query(text)
    twins.query("rollback")
    twins.query("update notes set v = 'x' where k = 1")


CHANGES = [
    "set transaction read write", "start transaction read write", "begin read only", "set transaction read only",
    "set transaction deferrable", "start transaction not deferrable", "set transaction_read_only = off",
    "set transaction isolation level repeatable read, read write", "set transaction_deferrable = on",
]  # fmt: skip
BEFORE = [
    [],
    ["select 1"],
    ["select v from notes where k = 1"],
    ["select count(*) from notes"],
    ["show work_mem"],
    ["savepoint s"],
    ["savepoint s", "set transaction read only", "release s"],
    ["savepoint s", "set transaction read only", "rollback to s"],
    ["savepoint s", "set transaction read only", "savepoint t"],
    ["select v from notes where k = 2", "savepoint s", "set transaction read only", "release s"],
]


@pytest.mark.parametrize("first", ["begin", "begin read only", "start transaction read write, deferrable"])
@pytest.mark.parametrize("before", BEFORE, ids="; ".join)
def test_characteristics_change_before_the_first_query_only(twins: Twins, first: str, before: list[str]) -> None:
    for change in CHANGES:
        for text in (first, *before, change, "show transaction_read_only", "show transaction_deferrable"):
            twins.query(text)
        twins.query("insert into notes values (1, 'a'); rollback")
    twins.query("rollback")


def test_characteristics_when_the_session_reads_only(twins: Twins) -> None:
    twins.query("set default_transaction_read_only = on")
    for first in ("begin", "begin read write", "begin; select 1"):
        twins.query(first)
        twins.query("set transaction read write")
        twins.query("insert into notes values (1, 'a')")
        twins.query("rollback")


def test_read_only_after_writes_on_two_shards_stops_writes_and_still_commits(twins: Twins, any_town: Town) -> None:
    a, b, c = any_town.spread
    twins.query("begin")
    twins.query(f"insert into notes values ({a}, 'a')")
    twins.query(f"insert into notes values ({b}, 'b')")
    twins.query("savepoint s")
    twins.query("set transaction read only")
    assert sqlstates(twins.query(f"delete from notes where k = {a}")) == ["25006"]
    twins.query("rollback to s")
    twins.query(f"insert into notes values ({c}, 'c')")
    assert kinds(twins.query("commit")) == ["tag COMMIT", "ready I"]
    assert any_town.stored() == sorted([(a, "a"), (b, "b"), (c, "c")])


SHOWN = "show transaction_read_only"
INSIDE = "select current_setting('transaction_read_only')"
READ_ONLY_AFTER_WRITES = [
    ["set transaction read only", SHOWN, INSIDE, "{c}", SHOWN],
    ["set transaction read only", "savepoint s", "{c}", "rollback to s", SHOWN, "release s", SHOWN, "commit"],
    ["savepoint s", "set transaction read only", SHOWN, "rollback to s", SHOWN, "set transaction read only",
     "release s", SHOWN, "{c}", "commit"],
    ["set transaction read only", "set transaction read only", "savepoint s", "set transaction read only", "release s",
     SHOWN, "commit and chain", SHOWN],
    ["set transaction read only", "savepoint s", "select 1 / 0", "rollback to s", SHOWN, "commit"],
    ["savepoint s", "set transaction read only", "commit and chain", SHOWN],
    ["savepoint s", "set transaction read only", "rollback and chain", SHOWN],
    ["set transaction read only", "rollback and chain", SHOWN],
    ["set transaction isolation level repeatable read, read only", SHOWN],
    ["set transaction read only, deferrable", SHOWN],
    ["set transaction read only", "set transaction read write", SHOWN],
    ["begin read only", SHOWN, "commit"],
    ["set local transaction_read_only = on", SHOWN, "show transaction_deferrable", "commit"],
    ["set transaction read only", "select v from notes where k = {third} for update"],
    ["set transaction read only", "select v from notes where k = {third}", SHOWN, "commit"],
    ["set transaction read only", "declare x cursor for select k from notes order by k", "fetch 1 from x",
     "savepoint s", "fetch 1 from x", "rollback to s", "fetch 1 from x", "commit"],
    ["select set_config('transaction_read_only', 'on', true)", SHOWN, INSIDE, "{c}", "commit"],
    ["select set_config('transaction_read_only', 'on', false)", SHOWN, "select v from notes where k = {third}",
     "commit", SHOWN, "insert into notes values ({third}, 'd')"],
    ["savepoint s", "select set_config('transaction_read_only', 'tr', true)", SHOWN, "rollback to s", SHOWN, "{c}",
     "commit"],
    ["prepare p as select set_config('transaction_read_only', 'on', true)", "execute p", SHOWN, "commit",
     "deallocate p"],
    ["select set_config('transaction_read_only', 'off', true)", "{c}", "commit"],
    ["select set_config('transaction_read_only', 'nonsense', true)", "commit"],
]  # fmt: skip


@pytest.mark.parametrize("steps", READ_ONLY_AFTER_WRITES, ids="; ".join)
def test_read_only_after_writes_on_two_shards_is_what_one_postgres_does(
    twins: Twins, any_town: Town, steps: list[str]
) -> None:
    a, b, c = any_town.spread
    twins.query(f"begin; insert into notes values ({a}, 'a')")
    twins.query(f"insert into notes values ({b}, 'b')")
    for step in steps:
        twins.query(step.format(c=f"insert into notes values ({c}, 'c')", third=c))
    twins.query("rollback")
    twins.query("select k from notes order by k")


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_chain_keeps_defaults_that_the_block_changed_for_the_one_after_it(twins: Twins, end: str) -> None:
    for name, values in (
        ("default_transaction_read_only", ("on", "off")),
        ("default_transaction_isolation", ("'repeatable read'", "'read committed'")),
    ):
        for first, second in (values, values[::-1]):
            twins.query(f"set {name} = {first}")
            twins.query("begin")
            twins.query(f"set {name} = {second}")
            twins.query(f"{end} and chain")
            twins.query(f"show {name.replace('default_', '')}")
            twins.query("rollback")
        twins.query(f"reset {name}")


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_and_chain(twins: Twins, any_town: Town, end: str) -> None:
    a, b, c = any_town.spread
    twins.query("begin read write")
    twins.query(f"insert into notes values ({a}, 'a')")
    twins.query(f"insert into notes values ({b}, 'b')")
    assert kinds(twins.query(f"{end} and chain")) == [f"tag {end.upper()}", "ready T"]
    twins.query(f"insert into notes values ({c}, 'c')")
    twins.query("rollback")
    assert any_town.stored() == (sorted([(a, "a"), (b, "b")]) if end == "commit" else [])


def test_chain_keeps_the_modes(twins: Twins, any_town: Town) -> None:
    a, _, _ = any_town.spread
    twins.query("begin read only")
    twins.query("commit and chain")
    assert sqlstates(twins.query(f"insert into notes values ({a}, 'a')")) == ["25006"]
    assert kinds(twins.query("rollback and chain")) == ["tag ROLLBACK", "ready T"]
    twins.query("show transaction_read_only")
    twins.query("rollback")
    twins.query("begin isolation level repeatable read")
    twins.query("select 1 / 0")
    assert kinds(twins.query("commit and chain")) == ["tag ROLLBACK", "ready T"]
    twins.query("show transaction_isolation")
    twins.query("rollback")


def test_read_only_in_a_savepoint_ends_with_it(twins: Twins, any_town: Town) -> None:
    a, b, c = any_town.spread
    for end in ("rollback to s", "release s"):
        twins.query("begin; savepoint s; set transaction read only")
        assert sqlstates(twins.query(f"insert into notes values ({a}, 'a')")) == ["25006"]
        twins.query("rollback to s")
        twins.query("set transaction read only")
        twins.query(f"select v from notes where k = {b}")
        twins.query(end)
        twins.query(f"insert into notes values ({a}, 'a')")
        twins.query(f"insert into notes values ({b}, 'b')")
        twins.query("savepoint t; set transaction read only; " + end.replace(" s", " t"))
        twins.query(f"insert into notes values ({c}, 'c')")
        assert kinds(twins.query("commit")) == ["tag COMMIT", "ready I"]
        twins.query("delete from notes")


# ---- savepoints ----


def test_savepoints_over_shards(twins: Twins, any_town: Town) -> None:
    a, b, c = any_town.spread
    twins.query("begin")
    twins.query(f"insert into notes values ({a}, 'a')")
    twins.query("savepoint one")
    twins.query(f"insert into notes values ({b}, 'lost')")
    twins.query("savepoint two")
    twins.query(f"insert into notes values ({c}, 'lost')")
    assert kinds(twins.query("rollback to one")) == ["tag ROLLBACK", "ready T"]
    assert sqlstates(twins.query("rollback to two")) == ["3B001"]
    assert kinds(twins.query("rollback to one")) == ["tag ROLLBACK", "ready T"]
    twins.query("commit")
    assert any_town.stored() == [(a, "a")]


def test_back_to_a_savepoint_after_an_error_on_one_shard(twins: Twins, any_town: Town) -> None:
    a, b, c = any_town.spread
    twins.query("begin")
    twins.query(f"insert into notes values ({a}, 'a')")
    twins.query("savepoint s")
    twins.query(f"insert into notes values ({b}, 'b')")
    assert kinds(twins.query(f"insert into notes values ({c}, 'c', -1)")) == ["error", "ready E"]
    assert kinds(twins.query("rollback to savepoint s")) == ["tag ROLLBACK", "ready T"]
    twins.query(f"insert into notes values ({c}, 'c')")
    twins.query("release savepoint s")
    assert kinds(twins.query("commit")) == ["tag COMMIT", "ready I"]
    assert any_town.stored() == sorted([(a, "a"), (c, "c")])


def test_a_late_joiner_knows_earlier_savepoints(twins: Twins, any_town: Town) -> None:
    a, b, c = any_town.spread
    twins.query("begin")
    twins.query("savepoint one")
    twins.query(f"insert into notes values ({a}, 'a')")
    twins.query("savepoint two")
    twins.query("release two")
    twins.query("savepoint three")
    twins.query(f"insert into notes values ({b}, 'b')")
    twins.query("rollback to three")
    twins.query(f"insert into notes values ({c}, 'c')")
    twins.query("release one")
    assert sqlstates(twins.query("rollback to three")) == ["3B001"]
    twins.query("commit")
    assert any_town.stored() == []
    twins.query("begin; savepoint same")
    twins.query(f"insert into notes values ({a}, 'a')")
    twins.query("savepoint same")
    twins.query(f"insert into notes values ({b}, 'b')")
    twins.query("rollback to same")
    twins.query("release same")
    twins.query(f"insert into notes values ({c}, 'c')")
    twins.query("rollback to same")
    twins.query(f"insert into notes values ({b}, 'second')")
    twins.query("commit")
    assert any_town.stored() == [(b, "second")]


def test_savepoint_names_are_read_as_postgres_reads_them(twins: Twins, any_town: Town) -> None:
    a, b, _ = any_town.spread
    twins.query('begin; savepoint Mixed; savepoint "Mixed"')
    twins.query(f"insert into notes values ({a}, 'a')")
    twins.query('rollback to "Mixed"')
    twins.query(f"insert into notes values ({b}, 'b')")
    twins.query("rollback to MIXED")
    assert sqlstates(twins.query('release "Mixed"')) == ["3B001"]
    twins.query("rollback to mixed")
    twins.query("commit")
    assert any_town.stored() == []


def test_an_unknown_savepoint_fails_the_block(twins: Twins, any_town: Town) -> None:
    a, b, _ = any_town.spread
    twins.query("begin")
    twins.query(f"insert into notes values ({a}, 'a')")
    twins.query(f"insert into notes values ({b}, 'b')")
    assert kinds(twins.query("release nothing")) == ["error", "ready E"]
    assert kinds(twins.query("rollback to nothing")) == ["error", "ready E"]
    assert kinds(twins.query("commit")) == ["tag ROLLBACK", "ready I"]
    assert any_town.stored() == []


def test_settings_go_back_with_savepoints(twins: Twins, any_town: Town) -> None:
    a, b, _ = any_town.spread
    twins.query("begin")
    twins.query(f"insert into notes values ({a}, 'a')")
    twins.query("set work_mem = '5MB'")
    twins.query("savepoint s")
    twins.query("set work_mem = '6MB'")
    twins.query("set local statement_timeout = '61s'")
    twins.query("rollback to s")
    twins.query(f"insert into notes values ({b}, 'b')")
    twins.query("show work_mem")
    twins.query("show statement_timeout")
    twins.query(f"select current_setting('work_mem'), current_setting('statement_timeout') from notes where k = {b}")
    twins.query("commit")
    twins.query("show work_mem")
    twins.query(f"select current_setting('work_mem') from notes where k = {b}")


# ---- constraints that speak late ----


def test_a_deferred_constraint_that_fails_at_commit_takes_all_back(twins: Twins, any_town: Town) -> None:
    a, b, c = any_town.spread
    twins.query("begin")
    twins.query(f"insert into parents values ({a}, 'a')")
    twins.query(f"insert into children values ({a}, 1)")
    twins.query(f"insert into children values ({b}, 1)")
    twins.query(f"insert into parents values ({c}, 'c')")
    trace = twins.query("commit")
    assert sqlstates(trace) == ["23503"]
    assert trace[0][1]["n"] == "children_parent"
    assert kinds(trace)[-1] == "ready I"
    assert any_town.stored("SELECT id FROM parents") == []
    assert any_town.stored("SELECT parent FROM children") == []


def test_a_deferred_constraint_in_an_implicit_transaction(twins: Twins, any_town: Town) -> None:
    a, b, _ = any_town.spread
    trace = twins.query(f"insert into parents values ({a}, 'a'); insert into children values ({b}, 1)")
    assert kinds(trace) == ["tag INSERT 0 1", "error", "ready I"]
    assert any_town.stored("SELECT id FROM parents") == []
    trace = twins.query(f"insert into children values ({b}, 1)")
    assert kinds(trace) == ["error", "ready I"]
    twins.query(f"insert into parents values ({a}, 'a')")
    twins.query(f"insert into children values ({a}, 1), ({b}, 1)")
    put = (parse(f"insert into children values ({a}, 2)"), bind(), execute())
    put_other = (parse(f"insert into children values ({b}, 2)"), bind(), execute())
    trace = twins.same(*put_other, SYNC)
    assert kinds(trace) == ["parsed", "bound", "tag INSERT 0 1", "error", "ready I"]
    trace = twins.same(*put, *put_other, SYNC)
    assert kinds(trace) == ["parsed", "bound", "tag INSERT 0 1"] * 2 + ["error", "ready I"]
    assert any_town.stored("SELECT parent FROM children") == []


def test_constraints_made_immediate(twins: Twins, any_town: Town) -> None:
    a, b, c = any_town.spread
    twins.query("begin; set constraints all immediate")
    twins.query(f"insert into parents values ({a}, 'a')")
    assert sqlstates(twins.query(f"insert into children values ({b}, 1)")) == ["23503"]
    twins.query("rollback")
    twins.query("begin")
    twins.query(f"insert into children values ({a}, 1)")
    twins.query(f"insert into parents values ({a}, 'a')")
    twins.query(f"insert into children values ({b}, 1)")
    assert sqlstates(twins.query("set constraints children_parent immediate")) == ["23503"]
    assert kinds(twins.query("commit")) == ["tag ROLLBACK", "ready I"]
    twins.query("begin")
    twins.query("set constraints all deferred")
    twins.query(f"insert into children values ({c}, 1)")
    twins.query(f"insert into parents values ({c}, 'c')")
    twins.query("commit")
    assert any_town.stored("SELECT id FROM parents") == [(c,)]


# ---- others ----


def test_nobody_sees_half(town: Town, connect: Callable[..., WireClient]) -> None:
    a, b, c = town.spread
    writer, reader = connect(town.dsn), connect(town.dsn)
    writer.query(f"begin; insert into notes values ({a}, 'a'); insert into notes values ({b}, 'b')")
    assert reader.rows("select count(*) from notes") == [("0",)]
    assert writer.rows("select count(*) from notes") == [("2",)]
    writer.query(f"insert into notes values ({c}, 'c')")
    writer.query("commit")
    assert reader.rows("select count(*) from notes") == [("3",)]


def test_a_distributed_commit_was_distributed(town: Town, connect: Callable[..., WireClient]) -> None:
    a, b, _ = town.spread
    client = connect(town.dsn)
    decided = "SELECT count(*) FROM pgchorus.decision WHERE outcome = 'commit'"
    before = sum(rows[0][0] for rows in town.everywhere(decided))
    client.query(f"begin; insert into notes values ({a}, 'a'); insert into notes values ({b}, 'b'); commit")
    client.query(f"begin; insert into notes values ({town.keys(0, 2)[1]}, 'a'); commit")
    assert sum(rows[0][0] for rows in town.everywhere(decided)) == before + 1


@pytest.mark.parametrize("first", ["select 1 / 0", "selekt", "select * from pgchorus.fence"])
def test_prepare_transaction_ends_a_failed_block(twins: Twins, any_town: Town, first: str) -> None:
    """Without an error, as ROLLBACK does; the other words of two-phase commit are refused there."""
    a, b, _ = any_town.spread
    for end in ("prepare transaction 'gone'", "commit prepared 'gone'", "rollback prepared 'gone'"):
        for ask in (twins.query, lambda text: twins.same(parse(text), bind(), execute(), SYNC)):
            twins.query("begin")
            twins.query(f"insert into notes values ({a}, 'a')")
            twins.query(f"insert into notes values ({b}, 'b')")
            for client in (twins.one, twins.proxy):
                client.query(first)
                assert client.status_of_last == "E"
            answer = ask(end)
            twins.query("select 1")
            twins.query("rollback")
            if end.startswith("prepare"):
                assert kinds(answer)[-2:] == ["tag ROLLBACK", "ready I"]
            else:
                assert sqlstates(answer) == ["25P02"]
    assert any_town.stored() == []


def test_prepare_transaction_without_a_transaction(twins: Twins) -> None:
    assert sqlstates(twins.query("prepare transaction 'gone'")) == ["25P01"]


@pytest.mark.parametrize("text", ["", ";", " -- nothing", "/* nothing */ ;;"])
def test_an_empty_query_behind_definitions(twins: Twins, text: str) -> None:
    for before in ("begin", "create table made (k int8 primary key)", "comment on table made is 'x'"):
        twins.query(before)
    twins.query(text)
    twins.same(parse(text), bind(), execute(), SYNC)
    twins.query("select 1 / 0")
    twins.query(text)
    twins.query("rollback")
    twins.query("select 1")


@pytest.mark.parametrize("kept", ["listen x", "create temp table mine (a int)", "select pg_advisory_lock(5)"])
@pytest.mark.parametrize("isolation", ["repeatable read", "read committed"])
def test_read_only_beside_a_link_that_the_session_keeps(
    twins: Twins, any_town: Town, kept: str, isolation: str
) -> None:
    """What keeps it has been committed: there is nothing to tell readers of."""
    a, b, c = any_town.spread
    twins.query(f"insert into notes values ({a}, 'a', 1), ({b}, 'b', 2), ({c}, 'c', 3)")
    twins.query(kept)
    for modes in (f"isolation level {isolation}, read only", f"isolation level {isolation}"):
        twins.query(f"begin {modes}")
        for key in (a, b, c):
            twins.query(f"select n from notes where k = {key}")
        twins.query("select sum(n) from notes")
        assert not sqlstates(twins.query("commit"))
    twins.query(f"begin isolation level {isolation}")
    twins.query("update notes set n = n + 1")
    twins.query("set transaction read only")
    twins.query("select sum(n) from notes")
    assert not sqlstates(twins.query("commit"))
    for text in ("begin isolation level repeatable read, read only", "listen y", "notify z", "commit"):
        twins.query(text)
