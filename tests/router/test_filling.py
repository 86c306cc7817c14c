"""Statements with values that are known only when they run: what golden plans do not show."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from router.cluster import TableName
from router.errors import Refused
from router.plan import Single, SplitInsert
from router.plan_steps import Computed, Filled, Moment
from router.planned import PlannedStatements
from router.planner import Planner, filling
from router.relation import Column
from shop import shop

if TYPE_CHECKING:
    from router.catalog import Catalog

HISTORY = "insert into pgbench_history (tid, bid, aid, delta, mtime) values ({}, 2, {}, 4, current_timestamp)"


def planner() -> Planner:
    known = shop(3)
    return Planner(known.database, known)


def filled(sql: str, catalog: Catalog | None = None) -> Filled:
    known = catalog or shop(3)
    plan = Planner(known.database, known).plan(sql)[0].plan
    assert isinstance(plan, Filled), plan
    return plan


def test_a_long_insert_has_no_more_parameters_than_the_protocol_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert filling.MAX_VALUES < 65_535
    monkeypatch.setattr(filling, "MAX_VALUES", 100)
    rows = ", ".join(f"({number})" for number in range(101))
    with pytest.raises(Refused, match="too many values") as refused:
        planner().plan(f"insert into tickets (customer_id) values {rows}")
    assert refused.value.refusal == "too-many-values"


def test_values_of_a_row_are_computed_in_the_order_of_its_columns() -> None:
    plan = filled("insert into tickets (state, number, customer_id) values (nextval('a')::text, default, nextval('b'))")
    assert plan.values == (
        (Moment.TRANSACTION,),
        (Computed("nextval('b')", "int8"), Computed("nextval('tickets_number_seq')"), Computed("nextval('a')::text")),
    )
    assert plan.inner.text == (
        'insert into tickets (state, number, customer_id, "opened") values ($4, $3, $2, (($1::pg_catalog.timestamptz)))'
    )


def test_identity_columns_and_overriding() -> None:
    known = shop(3)
    tickets = known.relation("public", "tickets")
    assert tickets is not None
    sequence = TableName("public", "it's")
    columns = (Column("customer_id", "int8"), Column("number", "int8", identity="a", sequence=sequence))
    known = known.overlaid([replace(tickets, columns=columns)])
    computed = Computed("""pg_catalog.nextval('"public"."it''s"'::pg_catalog.regclass)""")
    for sql, inner in (
        ("values (5, default)", "OVERRIDING SYSTEM VALUE values (5, $1)"),
        ("(customer_id) values (5)", '(customer_id, "number") OVERRIDING SYSTEM VALUE values (5, $1)'),
        ("overriding user value values (5, 9)", "overriding SYSTEM value values (5, $1)"),
        ("as t values (5)", 'as t ("customer_id", "number") OVERRIDING SYSTEM VALUE values (5, $1)'),
    ):
        plan = filled(f"insert into tickets {sql}", known)
        assert plan.inner.text == f"insert into tickets {inner}"
        assert plan.values == ((computed,),)
    for sql in ("values (5, 9)", "overriding system value values (5, 9)"):
        assert not isinstance(Planner(known.database, known).plan(f"insert into tickets {sql}")[0].plan, Filled)


def test_clients_parameters_come_first() -> None:
    known = shop(3)
    (statement,) = Planner(known.database, known).plan(
        "insert into tickets (customer_id, state) values ($1, $2), ($1, now()::text)", ("public",), (20, 25, 25)
    )
    plan = statement.plan
    assert isinstance(plan, Filled)
    assert plan.inner.parameters == 6  # three are declared, though the third is not used
    assert plan.alone is None


def test_what_one_shard_runs_keeps_its_plan_for_outside_of_blocks() -> None:
    assert isinstance(filled("insert into events (id) values ('6f1c0e0a-0000-4000-8000-000000000001')").alone, Single)
    assert isinstance(
        filled("insert into pgbench_history (aid, mtime) values (1, now()), (2, now())").alone, SplitInsert
    )
    assert filled("update orders set placed = now()").alone is None


def test_templates_with_the_clock_in_them() -> None:
    known = shop(3)
    fresh = Planner(known.database, known)
    cache = PlannedStatements(10)
    planned = []
    for number in range(6):
        text = HISTORY.format(number, number + 100)
        plans = cache.plan(text, ("public",), (), lambda one: planned.append(one) or fresh.plan(one))
        assert plans == fresh.plan(text)
    assert HISTORY.format(5, 105) not in planned
