"""Literal lifting: a template's plan is the plan of each of its texts, or there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from router.catalog import Catalog
from router.cluster import Database, Sharded, TableName
from router.lifting import apply, fill, learn, lift
from router.planned import PlannedStatements
from router.planner import Planner
from router.relation import Column, Relation

if TYPE_CHECKING:
    from router.plan import Statement

T = TableName("public", "t")
U = TableName("public", "u")
H = TableName("public", "h")


@pytest.fixture(scope="module")
def planner() -> Planner:
    database = Database("d", ("a", "b", "c"), 0, {T: Sharded("k"), U: Sharded("k")})
    columns = (Column("k", "int4", 1, 23), Column("v", "int4", 2, 23))
    relations = tuple(Relation(name, columns=columns) for name in (T, U, H))
    return Planner(database, Catalog(database, relations))


def learned(planner: Planner, text: str) -> tuple[object, list[str]] | None:
    cut = lift(text)
    if cut is None:
        return None
    template, integers = cut
    found = learn(template, integers, planner.plan(text), planner.plan)
    return None if found is None else (found, integers)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("select v from t where k = 5", "select v from t where k = 77"),
        ("select v from t where k = 5 and v = 6", "select v from t where k = 6 and v = 5"),
        ("select v from t where v = 1 and k = 1", "select v from t where v = 2 and k = 3"),
        ("update t set v = v + 12 where k = 3", "update t set v = v + 3 where k = 12"),
        ("delete from t where k = 007", "delete from t where k = 8"),
        ("insert into t (v, k) values (1, 2)", "insert into t (v, k) values (2, 1)"),
        ("select v from t where k = 1 order by 1 limit 3", "select v from t where k = 2 order by 1 limit 4"),
        ("select v from t where k = 5 and k = 5", "select v from t where k = 5 and k = 6"),  # no row has both
        ("select v from h where k = 5", "select v from h where k = 6"),
        ("select t.v from t join u on t.k = u.k where t.k = 5", "select t.v from t join u on t.k = u.k where t.k = 9"),
    ],
)
def test_a_learned_plan_is_the_plan(planner: Planner, first: str, second: str) -> None:
    found = learned(planner, first)
    assert found is not None
    cut = lift(second)
    assert cut is not None
    assert cut[0] == lift(first)[0]  # type: ignore[index] # found says that it can be lifted
    assert [apply(found[0], second, cut[1])] == list(planner.plan(second))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "select t.v from t, u where t.k = 5 and u.k = 5",  # two keys that happen to be one
        "select v from t where k in (5, 6)",
        "select v from t where k = 5 + 1",
        "select v from t where k = -5",
        "select count(*) from t where v = 5",
        "set statement_timeout = 5",
        "begin; select v from t where k = 5",
    ],
)
def test_what_depends_on_more_than_one_integer_is_not_learned(planner: Planner, text: str) -> None:
    cut = lift(text)
    assert cut is not None
    try:
        planned = planner.plan(text)
    except Exception as error:  # noqa: BLE001 - a refusal is as good: nothing is learned from it
        assert type(error).__name__ == "Refused"  # noqa: PT017
        return
    assert learn(*cut, planned, planner.plan) is None


@pytest.mark.parametrize(
    "text",
    [
        "select 'a' from t where k = 5",
        'select "a" from t where k = 5',
        "select v from t where k = $1 and v = 5",
        "select v from t where k = 5 -- 6",
        "select v from t /* 7 */ where k = 5",
        "select v from t where k = 5 and n = E\\5",
        "select v from té where k = 5",
        "select v from t",
        "select " + "1," * 100 + "1",
    ],
)
def test_texts_that_are_not_plain_are_left_alone(text: str) -> None:
    assert lift(text) is None


def test_only_whole_integers_of_int4_are_holes() -> None:
    assert lift("select a1, 1.5, 5., .5, 1e5, 0x10, 1_000, 5000000000, 12 from t") == (
        ("select a1, 1.5, 5., .5, 1e5, 0x10, 1_000, 5000000000, ", " from t"),
        ["12"],
    )


def test_fill_is_the_way_back() -> None:
    text = "update t set v = v + 12 where k = 3"
    cut = lift(text)
    assert cut is not None
    assert fill(*cut) == text


def test_a_template_is_learned_at_its_second_text_and_then_parsed_no_more(planner: Planner) -> None:
    parsed: list[str] = []

    def plan(text: str) -> tuple[Statement, ...]:
        parsed.append(text)
        return planner.plan(text)

    plans = PlannedStatements(10)
    for key in range(1, 4):
        text = f"select v from t where k = {key}"
        assert plans.plan(text, ("public",), (), plan) == planner.plan(text)
    assert [text for text in parsed if text.endswith(("= 1", "= 2", "= 3"))] == [
        "select v from t where k = 1",
        "select v from t where k = 2",
    ]
    plans.clear()
    plans.plan("select v from t where k = 4", ("public",), (), plan)
    assert parsed[-1].endswith("= 4")
