"""The short form of run.py: every statement over two shards, in one of the three ways of asking."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from oracle import report
from oracle.answers import MODES, Answer
from oracle.compare import Kind, compare, refusal_id
from oracle.corpus import Case, parameters, read, read_all
from oracle.ground import definitions, fill, ground, placements
from oracle.runner import Runner
from router.errors import refusal

if TYPE_CHECKING:
    from proxy.demo.embedded import EmbeddedServer

STATEMENTS = Path(__file__).parent / "statements"
SHARDS = 2


@pytest.mark.timeout(300)
def test_no_statement_is_answered_differently(servers: list[EmbeddedServer]) -> None:
    files = read_all(STATEMENTS)
    with ground([SHARDS], servers) as found:
        fill([found.one, *found.proxies.values()], definitions())
        one, proxies = found.askers()
        runner = Runner(one, proxies, placements(), MODES, in_turn=True)
        for file in files:
            runner.run(file)
        for asker in (one, *proxies.values()):
            asker.close()
        assert not found.process.died, found.process.log_tail()
    counts = runner.report.counts()
    assert not runner.report.differences, "\n".join(report.lines(runner.report, files))
    assert counts[Kind.EQUAL] > len(runner.report.worst) / 2, "\n".join(report.lines(runner.report, files))


def answer(*rows: bytes, sqlstate: str = "", message: str = "", column: str = "a") -> Answer:
    if sqlstate:
        return Answer(sqlstate=sqlstate, message=message)
    return Answer(((column, 25, -1, 0),), (), [(row,) for row in rows], f"SELECT {len(rows)}")


@pytest.mark.parametrize(
    ("sql", "marks", "expected", "got", "kind"),
    [
        ("select a from t", "", answer(b"1", b"2"), answer(b"2", b"1"), Kind.EQUAL),
        ("select a from t", "", answer(b"1", b"1"), answer(b"1", b"2"), Kind.DIFFERENT),
        ("select a from t", "", answer(b"1"), answer(b"1", b"1"), Kind.DIFFERENT),
        ("select a from t", "", answer(b"1"), answer(b"1", column="b"), Kind.DIFFERENT),
        ("select a from t order by a", "", answer(b"1", b"2"), answer(b"2", b"1"), Kind.DIFFERENT),
        ("select a from t order by b", "ties", answer(b"1", b"2"), answer(b"2", b"1"), Kind.EQUAL),
        ("select a from t", "values", answer(b"1"), answer(b"2"), Kind.EQUAL),
        ("select a from t", "", answer(b"1"), answer(sqlstate="0A000", message="no"), Kind.REFUSED),
        ("select a from t", "", answer(sqlstate="0A000"), answer(sqlstate="0A000"), Kind.EQUAL),
        ("select a from t", "", answer(b"1"), answer(sqlstate="XX000"), Kind.DIFFERENT),
        ("select a from t", "", answer(sqlstate="22012"), answer(b"1"), Kind.DIFFERENT),
        ("select a from t", "", answer(sqlstate="22012"), answer(sqlstate="22003"), Kind.DIFFERENT),
    ],
)
def test_answers_are_held_to_what_postgres_fixes(
    sql: str, marks: str, expected: Answer, got: Answer, kind: Kind
) -> None:
    case = Case("here", sql, frozenset([marks]) if marks else frozenset())
    assert compare(case, expected, got).kind is kind


def test_lines_of_equal_numbers_may_be_copied_in_any_order_and_no_others() -> None:
    case = Case("here", "copy (select a from t order by a) to stdout")

    def copied(*rows: bytes) -> Answer:
        return Answer((("copy out", 0, 3, 0),), (), [(row,) for row in rows], f"COPY {len(rows)}")

    grouped = Case("here", "copy (select a, count(*) from t group by a) to stdout csv")
    assert compare(grouped, copied(b"-0,,2\n"), copied(b"0,,2\n")).kind is Kind.EQUAL
    assert compare(grouped, copied(b"-0,,2\n"), copied(b"0,,3\n")).kind is Kind.DIFFERENT
    assert compare(grouped, copied(b"-05,2\n"), copied(b"05,2\n")).kind is Kind.DIFFERENT
    expected = copied(b"2.50\tx\n", b"2.5\tx\n", b"3.0\ty\n")
    assert compare(case, expected, copied(b"2.5\tx\n", b"2.50\tx\n", b"3.0\ty\n")).kind is Kind.EQUAL
    assert compare(case, expected, copied(b"2.5\tx\n", b"3.0\ty\n", b"2.50\tx\n")).kind is Kind.DIFFERENT
    assert compare(case, expected, copied(b"2.5\tx\n", b"2.5\tx\n", b"3.0\ty\n")).kind is Kind.DIFFERENT


def test_a_limit_without_order_may_give_any_of_the_rows_but_no_others() -> None:
    case = Case("here", "select a from t limit 2", frozenset(["any limit"]))
    assert case.without_limit == "select a from t "
    everything = answer(b"1", b"2", b"3")
    expected = answer(b"1", b"2")
    assert compare(case, expected, answer(b"3", b"1"), everything).kind is Kind.EQUAL
    assert compare(case, expected, answer(b"3", b"3"), everything).kind is Kind.DIFFERENT
    assert compare(case, expected, answer(b"3"), everything).kind is Kind.DIFFERENT


def test_refusals_are_known_by_their_message() -> None:
    assert refusal_id(refusal("key-update", key="id").message) == "key-update"
    assert refusal_id(refusal("unplaceable", name="a.b").message) == "unplaceable"
    assert refusal_id("something else").startswith("not listed")


def test_files_are_read_with_marks_scripts_and_parameters(tmp_path: Path) -> None:
    path = tmp_path / "some.sql"
    path.write_text(
        "--! file path a, b\n-- words\n--! ties\nselect 1\n  from t;\nbegin;\nselect 2;\nrollback;\n"
        "--! params 5::int8, 'x', null\nselect $1, $2, $3;\n--! begin script\nset a = 1;\n"
        "create function f() as $$ select 1;\n $$;\n--! end script\nselect 4;\n"
    )
    file = read(path)
    assert file.search_path == "a, b"
    assert [(group.script, [case.sql for case in group.cases]) for group in file.groups] == [
        (False, ["select 1\n  from t"]),
        (True, ["begin", "select 2", "rollback"]),
        (False, ["select $1, $2, $3"]),
        (True, ["set a = 1", "create function f() as $$ select 1;\n $$"]),
        (False, ["select 4"]),
    ]
    assert file.groups[0].cases[0].marks == {"ties"}
    assert file.groups[2].cases[0].values == parameters(" 5::int8, 'x', null")
    assert [(value.text, value.oid) for value in parameters("5::int8, 'x', null")] == [("5", 20), ("x", 0), (None, 0)]
