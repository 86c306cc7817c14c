"""What golden plans do not show: positions, hidden names, one-to-one flags; and that nothing falls through."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
from pglast import ast as nodes

from router.cluster import TableName
from router.describe import describe, summary
from router.errors import Refused
from router.plan import ByKeys, Constant, HomeShard, Parameter, Scatter, Single
from router.planner import Planner, base
from router.planner.views import whole_rows_renamed
from router.relation import Cast, Column, Operator, Relation, UserType
from router.statement import parse
from shop import shop

CATALOG = shop()
PLANNER = Planner(CATALOG.database, CATALOG)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("select 'é', mystery() from customers", "mystery"),
        ("begin; select 'é'; select mystery(), 2 from customers where id = 5", "mystery"),
        ("select 1;\n\n  /* é */ select * from customers c, orders where mystery() = 1", "mystery"),
        ("update customers set name = 'ü', id = default where id = 5", "id = default"),
    ],
)
def test_refusals_point_into_the_message(text: str, place: str) -> None:
    with pytest.raises(Refused) as caught:
        PLANNER.plan(text)
    assert caught.value.position == text.index(place) + 1
    assert caught.value.sqlstate == "0A000"
    assert caught.value.message
    assert "{" not in caught.value.message + caught.value.hint


def test_every_statement_kind_of_the_grammar_is_known_or_refused() -> None:
    parts = "RawStmt PlannedStmt ReturnStmt PLAssignStmt SetOperationStmt ReplicaIdentityStmt"  # of other statements
    kinds = {name for name in dir(nodes) if name.endswith("Stmt")} - set(parts.split())
    assert set(base._SESSION) | set(base._DATA) == kinds


def test_an_unknown_kind_is_refused() -> None:
    (parsed,) = parse("select 1")
    parsed.kind = "FutureStmt"
    with pytest.raises(Refused) as caught:
        PLANNER.plan_one(parsed)
    assert caught.value.refusal == "unknown-statement"


def test_a_known_parameter_type_may_close_a_route() -> None:
    (by_key,) = PLANNER.plan("select * from customers where id = $1", ("public",), (20,))
    (everywhere,) = PLANNER.plan("select * from customers where id = $1", ("public",), (701,))
    assert isinstance(by_key.plan, Single)
    assert isinstance(everywhere.plan, Scatter)


def test_a_temporary_table_is_found_first() -> None:
    hidden = Relation(TableName("pg_temp", "customers"), columns=(Column("id", "int8", type_oid=20),))
    planner = Planner(CATALOG.database, CATALOG.overlaid([hidden]))
    (statement,) = planner.plan("select * from customers where id = 5")
    assert statement.plan == Single(HomeShard(), writes=False)
    (statement,) = planner.plan("select * from public.customers where id = 5")
    assert statement.plan == Single(ByKeys("int8", (Constant(5),)), writes=False)


def test_pg_catalog_later_in_the_path_hides_type_names() -> None:
    (statement,) = PLANNER.plan("select * from customers where id = '5'::int8", ("public", "pg_catalog"))
    assert isinstance(statement.plan, Scatter)
    (statement,) = PLANNER.plan("select * from customers where id = '5'::pg_catalog.int8", ("public", "pg_catalog"))
    assert isinstance(statement.plan, Single)


def test_columns_of_an_unknown_function_make_unqualified_names_uncertain() -> None:
    (statement,) = PLANNER.plan("select * from customers, vouched(customers.country) f where id = 5")
    assert isinstance(statement.plan, Scatter)
    (statement,) = PLANNER.plan("select * from customers c, vouched(1) f where c.id = 5")
    assert statement.plan == Single(ByKeys("int8", (Constant(5),)), writes=True)


def test_summaries_show_no_values() -> None:
    (statement,) = PLANNER.plan("select * from customers where id in (424242, 5) order by id limit 3")
    assert summary(statement) == "Scatter 2 keys Ordered"
    assert "424242" not in summary(statement)
    assert describe(statement)["target"] == {"keys": [424242, 5], "type": "int8"}


def test_a_plan_is_hashable_and_equal_to_its_like() -> None:
    text = "select status, avg(items) from orders where customer_id = $1 group by 1 order by 2 limit $2"
    (one,), (other,) = PLANNER.plan(text), PLANNER.plan(text)
    assert one == other
    assert hash(one) == hash(other)
    assert one.plan == Single(ByKeys("int8", (Parameter(1),)), writes=False)


def test_refusals_are_named_by_planners_only_if_they_exist() -> None:
    """A planner that names a refusal that is not on the list would raise KeyError at the worst time."""
    from router.errors import ANY_SHARDS, GATHERED, REFUSALS  # noqa: PLC0415

    named: set[str] = set()
    for path in (Path(__file__).parents[2] / "router" / "planner").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in {
                "refuse",
                "refusal",
            }:
                first = node.args[0] if node.args else None
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    named.add(first.value)
    of_the_session = {"cross-shard-off", "explain-execute", "key-update-off", "statement-trigger"}
    assert named - set(ANY_SHARDS) == (set(REFUSALS) | set(GATHERED)) - of_the_session


@pytest.mark.parametrize(
    ("operator", "cast", "routed"),
    [
        (Operator("public", "="), None, False),
        (Operator("public", "=", operands=("citext",)), None, True),
        (Operator("public", "=", operands=("citext",)), Cast("citext", "text", "i"), True),
        (Operator("public", "=", operands=("odd",)), Cast("text", "odd", "i"), False),
        # pgvector: casts among its own types. PostGIS: a cast from text, but the operator takes its own type twice.
        (Operator("public", "=", operands=("vector", "vector")), Cast("halfvec", "vector", "i"), True),
        (Operator("public", "=", operands=("vector", "vector")), Cast("vector", "vector", "i"), True),
        (Operator("public", "=", operands=("geometry", "geometry")), Cast("text", "geometry", "i"), True),
        (Operator("public", "=", operands=("odd", "odd")), Cast("json", "odd", "i"), False),
        (Operator("s2", "="), None, True),
    ],
)
def test_an_operator_hides_equality_only_if_it_could_be_meant(
    operator: Operator, cast: Cast | None, *, routed: bool
) -> None:
    own = tuple(UserType("public", name, 90_000 + at, "b") for at, name in enumerate(("citext", "halfvec", "vector")))
    catalog = shop(operators=(operator,), casts=() if cast is None else (cast,), types=own)
    (statement,) = Planner(catalog.database, catalog).plan("select * from customers where id = 5")
    assert isinstance(statement.plan, Single) is routed


@pytest.mark.parametrize(
    ("definition", "renamed"),
    [
        (
            "SELECT row_to_json(j.*) AS r FROM (notes a(k, v, n) JOIN t2 b(k_1, id) ON a.n = b.id) j(k, v, n, k_1, id)",
            True,
        ),
        ("SELECT row_to_json(j.*) AS r FROM (notes a JOIN t2 b USING (k)) j", True),
        ("SELECT (s.*)::text AS r FROM (SELECT 1, 2) s(a, a_1)", True),
        ("SELECT (SELECT to_jsonb(s.*)) FROM LATERAL (SELECT notes.k FROM notes) s(k_1)", True),
        ("WITH s(a, b) AS (SELECT 1, 2) SELECT row_to_json(s.*) FROM s", True),
        ("SELECT j.k, row_to_json(a.*) FROM (notes a JOIN t2 b USING (k)) j", False),
        ("SELECT row_to_json(a.*) AS r FROM (notes a JOIN t2 b USING (k))", False),
        ("SELECT s.a FROM (SELECT 1, 2) s(a, a_1)", False),
    ],
)
def test_whole_rows_whose_columns_postgres_may_have_renamed_are_seen(definition: str, *, renamed: bool) -> None:
    (parsed,) = parse(definition)
    assert whole_rows_renamed(parsed) == renamed


def test_what_is_too_deep_is_refused() -> None:
    depth = sys.getrecursionlimit()
    for text in ("SELECT " + "1+" * depth + "1", "SELECT 1 WHERE " + "NOT " * depth + "true"):
        with pytest.raises(Refused) as refused:
            PLANNER.plan(text)
        assert (refused.value.refusal, refused.value.sqlstate) == ("too-deep", "54001")
