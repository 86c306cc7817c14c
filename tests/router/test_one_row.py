"""Which SELECTs find at most one row by its key: those whose plan no value can change."""

from __future__ import annotations

import pytest

from router.catalog import Catalog
from router.cluster import TableName
from router.one_row import finds_one_row
from router.relation import Column, Index, IndexColumn, Relation, RelationKind, Rule, Uses

PATH = ("public",)
COLUMNS = (Column("k", "int8"), Column("n", "int4"), Column("v", "text"))
BY_KEY = "SELECT v FROM t WHERE k = $1"


def key(*columns: str | None, partial: bool = False, deferrable: bool = False, exclusion: bool = False) -> Index:
    return Index(
        "key",
        tuple(IndexColumn(column) for column in columns),
        partial=partial,
        deferrable=deferrable,
        exclusion=exclusion,
    )


def table(schema: str = "public", **more: object) -> Relation:
    facts = {"columns": COLUMNS, "unique": (key("k"),), **more}
    return Relation(TableName(schema, "t"), **facts)  # type: ignore[arg-type]


def finds(text: str, *relations: Relation, path: tuple[str, ...] = PATH) -> bool:
    return finds_one_row(text, Catalog(relations=relations, schemas=frozenset({"public", "other"})), path)


@pytest.mark.parametrize(
    "text",
    [
        BY_KEY,
        "SELECT * FROM t WHERE k = $1",
        "SELECT a.v AS w, a.*, n FROM public.t AS a WHERE $1 = a.k;",
        "SELECT v FROM ONLY t WHERE k = $1 AND n = 7",
        "SELECT v FROM t WHERE (k = $1 AND n = $1)",
    ],
)
def test_by_all_columns_of_a_key(text: str) -> None:
    assert finds(text, table())


@pytest.mark.parametrize(
    "text",
    [
        "SELECT v FROM t WHERE n = $1",
        "SELECT v FROM t",
        "SELECT v FROM t WHERE k > $1",
        "SELECT v FROM t WHERE k = $1 OR n = $1",
        "SELECT v FROM t WHERE k = $1 AND v = 'x'",
        "SELECT v FROM t WHERE k = $1 AND v IS NULL",
        "SELECT v FROM t WHERE k = ANY($1)",
        "SELECT v FROM t WHERE k IN ($1)",
        "SELECT v FROM t WHERE k = $1 + 1",
        "SELECT v FROM t WHERE k = $1::int4",
        "SELECT v FROM t WHERE k = n",
        "SELECT v FROM t WHERE k OPERATOR(public.=) $1",
        "SELECT v || v FROM t WHERE k = $1",
        "SELECT current_query(), v FROM t WHERE k = $1",
        "SELECT t FROM t WHERE k = $1",
        "SELECT ctid FROM t WHERE k = $1",
        "SELECT $1 FROM t WHERE k = $1",
        "SELECT DISTINCT v FROM t WHERE k = $1",
        "SELECT v FROM t WHERE k = $1 ORDER BY 1",
        "SELECT v FROM t WHERE k = $1 LIMIT 1",
        "SELECT v FROM t WHERE k = $1 FOR SHARE",
        "SELECT v FROM t WHERE k = $1 UNION SELECT v FROM t WHERE k = $1",
        "SELECT a.v FROM t a, t b WHERE a.k = $1 AND b.k = $1",
        "SELECT v FROM t TABLESAMPLE system (50) WHERE k = $1",
        "SELECT x FROM t AS t (x, y, z) WHERE k = $1",
        "SELECT v FROM (SELECT * FROM t) s WHERE k = $1",
        "WITH w AS (SELECT 1) SELECT v FROM t WHERE k = $1",
        "SELECT v INTO u FROM t WHERE k = $1",
        "SELECT v FROM nowhere WHERE k = $1",
        "UPDATE t SET v = 'x' WHERE k = $1",
        "SELECT v FROM t WHERE k = $1; SELECT 1",
        "SELECT v FROM",
        "",
    ],
)
def test_anything_else_is_left_alone(text: str) -> None:
    assert not finds(text, table())


@pytest.mark.parametrize(
    "relation",
    [
        table(unique=()),
        table(unique=(key("k", "n"),)),
        table(unique=(key(None),)),
        table(unique=(key(),)),
        table(unique=(key("k", partial=True),)),
        table(unique=(key("k", deferrable=True),)),
        table(unique=(key("k", exclusion=True),)),
        table(unique=(Index("key", (IndexColumn("k", default_opclass=False),)),)),
        table(columns=(Column("k", "numeric"), Column("v"))),
        table(columns=(Column("k", "int8", type_schema="public"), Column("v"))),
        table(columns=(*COLUMNS, Column("w", generated="v"))),
        table(kind=RelationKind.PARTITIONED),
        table(kind=RelationKind.VIEW),
        table(kind=RelationKind.FOREIGN),
        table(kind=RelationKind.MATERIALIZED),
        table(children=(TableName("public", "child"),)),
        table(row_security=True),
        table(rules=(Rule("r", "update", instead=False),)),
        table(read_uses=Uses(unknown="something")),
        table("pg_temp"),
    ],
)
def test_tables_with_more_to_them_are_left_alone(relation: Relation) -> None:
    assert not finds(BY_KEY, relation)


def test_a_table_that_another_may_hide_later_is_left_alone() -> None:
    assert not finds(BY_KEY, table("other"), path=("public", "other"))
    assert finds(BY_KEY, table("other"), path=("absent", "other", "public"))
    assert finds("SELECT v FROM other.t WHERE k = $1", table("other"), path=("public", "other"))
    assert not finds(BY_KEY, table(), path=("public", "pg_catalog"))
