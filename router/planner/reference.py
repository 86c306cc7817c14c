"""Writes to reference tables: allowed only where every copy must change in the same way.

Decides whether a statement's rows follow from its text, its parameters and each row's own columns alone. Everything
that may look at other rows, at the clock or at chance is refused: two copies hold the same rows in different places.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from router.effect import Runs
from router.planner import dml

if TYPE_CHECKING:
    from collections.abc import Iterable

    from router.planner.context import Context
    from router.planner.dml import Written
    from router.relation import Relation

_SESSION_ONLY = frozenset({"SVFOP_CURRENT_ROLE", "SVFOP_CURRENT_USER", "SVFOP_USER", "SVFOP_SESSION_USER",
                           "SVFOP_CURRENT_CATALOG", "SVFOP_CURRENT_SCHEMA"})  # fmt: skip
_PLACES = frozenset({"ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"})


def check_expressions(context: Context, written: Written) -> None:
    """Refuse expressions whose value may differ between copies."""
    table, at = written.relation.name if written.relation is not None else "", written.source.location
    effect = context.whole_effect
    if effect.clock:
        raise context.refuse("reference-clock", at, table=table)
    if effect.volatile or effect.runs is not Runs.ANYWHERE or effect.aggregate or effect.window:
        raise context.refuse("reference-write", at, table=table)
    for kind, body in context.parsed.nodes:
        if kind in {"SubLink", "SelectStmt", "CurrentOfExpr"} and "valuesLists" not in body:
            raise context.refuse("reference-write", body.get("location", at), table=table)
        if kind == "ColumnRef" and any(
            part.get("String", {}).get("sval") in _PLACES for part in body.get("fields", ())[-1:]
        ):
            raise context.refuse("reference-write", body.get("location"), table=table)


def check_insert_defaults(context: Context, written: Written) -> None:
    """Refuse defaults of an INSERT whose value may differ between copies."""
    relation = written.relation
    if relation is not None:
        query = context.body.get("selectStmt", {}).get("SelectStmt")
        check_column_defaults(context, relation, dml.defaulted(relation, context.body, query), written.source.location)


def check_column_defaults(context: Context, relation: Relation, names: Iterable[str], at: int | None) -> None:
    """Refuse defaults of the columns ``names`` whose value may differ between copies."""
    for name in names:
        column = relation.column(name)
        if column is None or not column.default or column.generated:
            continue
        value = dml.default_value(column)
        effect = context.effect(value)
        if value is None or effect.clock:
            raise context.refuse("reference-clock", at, table=relation.name)
        if effect.volatile or effect.runs is not Runs.ANYWHERE:
            raise context.refuse("reference-write", at, table=relation.name)
