"""Writes to reference tables: every copy must change in the same way.

Decides how. A plain INSERT of rows that follow from its text and parameters runs on every shard as it is. All else is
done *by row*: the home shard runs it, which also gives all writers one lock order, and the rows that it changed are
applied to the other copies by primary key: the same statement on two copies may choose different rows, because they
hold them in different places, and because another writer's commit may have reached one of them only. Where that cannot
be (no primary key, triggers), a statement runs everywhere behind a lock of the table, if its rows follow from its
text, its parameters and each row's own columns alone; else it is refused.
"""

from __future__ import annotations

import re
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Final, TypedDict

from router.effect import Runs
from router.errors import Refused
from router.plan import EveryShard, HomeShard, Plan, Same, Scatter, Single
from router.plan_steps import ApplyRows
from router.planner import dml
from router.planner.moving import quoted, sql_type
from router.planner.spread import sharded
from router.relation import NOTHING
from router.server_values import names_object
from router.tree import constant, items

if TYPE_CHECKING:
    from collections.abc import Iterable

    from router.planner.context import Context
    from router.planner.dml import Written
    from router.planner.scope import Scope
    from router.relation import Column, Relation

_SESSION_ONLY = frozenset({"SVFOP_CURRENT_ROLE", "SVFOP_CURRENT_USER", "SVFOP_USER", "SVFOP_SESSION_USER",
                           "SVFOP_CURRENT_CATALOG", "SVFOP_CURRENT_SCHEMA"})  # fmt: skip
_PLACES = frozenset({"ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"})


_MOMENT: Final = re.compile(r"\b(now|today|tomorrow|yesterday)\b", re.IGNORECASE)
_TIMES: Final = frozenset({"date", "time", "timetz", "timestamp", "timestamptz"})


def plan(context: Context, scope: Scope, written: Written) -> Plan:
    """Plan a write to a reference table of several shards."""
    relation, at = written.relation, written.source.location
    plain = context.parsed.kind == "InsertStmt" and "onConflictClause" not in context.body
    found = None
    if not (plain and _follows_from_text(context, scope, written)):
        found = by_row(context, scope, written)
    if found is not None:
        return found
    if len(scope.sources) > 1 or written.select is not None or context.parsed.kind == "MergeStmt":
        raise context.refuse("reference-write", at, table=relation.name if relation else "")
    check_expressions(context, written)
    if relation is not None:
        check_triggers(context, relation, at)
        check_column_defaults(context, relation, [name for name, _ in dml.set_to_default(context.body)], at)
    if context.parsed.kind == "InsertStmt":
        check_insert_defaults(context, written)
    lock = ""
    if not plain and relation is not None:
        lock = f"LOCK TABLE {quoted(relation.name.schema)}.{quoted(relation.name.name)} IN SHARE ROW EXCLUSIVE MODE"
    return Scatter(EveryShard(), Same(home_first=True, lock=lock), writes=True)


def _follows_from_text(context: Context, scope: Scope, written: Written) -> bool:
    """Whether the rows of an INSERT ... VALUES are the same wherever it runs."""
    relation = written.relation
    if len(scope.sources) > 1 or written.select is not None or relation is None:
        return False
    if context.parsed.parameters and any(
        c.type_name in _TIMES or c.type_schema != "pg_catalog" for c in relation.columns
    ):
        return False  # a parameter may be 'now'
    try:
        check_expressions(context, written)
        check_insert_defaults(context, written)
    except Refused:
        return False
    return True


def check_expressions(context: Context, written: Written) -> None:
    """Refuse expressions whose value may differ between copies."""
    table, at = written.relation.name if written.relation is not None else "", written.source.location
    effect = context.whole_effect
    if effect.clock:
        raise context.refuse("reference-clock", at, table=table)
    # What a function finds in tables may depend on the order of their rows, which is each copy's own.
    if effect.volatile or effect.runs is not Runs.ANYWHERE or effect.aggregate or effect.window or effect.touches:
        raise context.refuse("reference-write", at, table=table)
    for kind, body in context.parsed.nodes:
        if kind in {"SubLink", "SelectStmt", "CurrentOfExpr"} and "valuesLists" not in body:
            raise context.refuse("reference-write", body.get("location", at), table=table)
        if kind == "A_Const" and "sval" in body and _MOMENT.search(str(constant({"A_Const": body}))):
            raise context.refuse("reference-clock", body.get("location"), table=table)
        if kind == "TypeCast" and names_object(body):
            raise context.refuse("reference-write", body.get("location"), table=table)
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
        if column is not None and (column.identity or column.sequence is not None):
            raise context.refuse("sequence-default", at, column=column.name, table=relation.name)
        if column is None or not column.default or column.generated:
            continue
        value = dml.default_value(column)
        effect = context.effect(value)
        if value is None or effect.clock:
            raise context.refuse("reference-clock", at, table=relation.name)
        if effect.volatile or effect.runs is not Runs.ANYWHERE or effect.touches:
            raise context.refuse("reference-write", at, table=relation.name)


def check_triggers(context: Context, relation: Relation, at: int | None) -> None:
    """Refuse a write whose rows a trigger makes of what it finds in tables, or of what is each server's own."""
    before = [trigger for trigger in relation.triggers if trigger.timing != "after"]
    uses = reduce(or_, (trigger.uses for trigger in before), NOTHING)
    effect = context.catalog.effect_of(context.catalog.closure.follow(uses))
    if effect.clock:
        raise context.refuse("reference-clock", at, table=relation.name)
    if effect.touches or effect.volatile or effect.runs is Runs.HOME:
        detail = f"A trigger before the write ({before[0].name}) may find other rows, or other values, on each copy."
        raise context.refuse("reference-write", at, table=relation.name, detail=detail)


# --- by row ----------------------------------------------------------------------------------------------------------

_RETURNING_OLD_AND_NEW: Final = 180_000  # the first version that returns rows as they were and as they are
_INSERTS: Final = frozenset({"InsertStmt", "MergeStmt"})


def by_row(context: Context, scope: Scope, written: Written) -> ApplyRows | None:
    """Plan a write that the home shard does, and whose rows are applied to the other copies by primary key.

    None where that is not exact: no primary key, triggers or rules that would run again, rows that home does not have.
    """
    relation = written.relation
    if relation is None or not relation.primary_key or relation.triggers or relation.rules:
        return None
    if context.catalog.server_version < _RETURNING_OLD_AND_NEW or sharded(scope) or not relation.is_table:
        return None
    conflict = context.body.get("onConflictClause", {}).get("action")
    if relation.stands_in and conflict == "ONCONFLICT_UPDATE":
        return None  # it may change a row that the view does not show, which no UPDATE of the view would find
    runs = context.whole_effect.runs
    if runs not in {Runs.ANYWHERE, Runs.HOME} or {"CurrentOfExpr", "LockingClause"} & context.parsed.kinds:
        return None
    names = _old_and_new(context, scope)
    if names is None:
        return None
    inserts = context.parsed.kind in _INSERTS
    settable = _set_columns(context)
    columns = [c for c in relation.columns if not c.generated and (inserts or c.name in settable)]
    keys = [column for name in relation.primary_key if (column := relation.column(name)) is not None]
    old, new = names
    hidden = [f"{old}.{quoted(c.name)}" for c in keys]
    hidden += [f"{new}.{quoted(c.name)}" for c in (*keys, *columns)]
    returning = "," if "returningClause" in context.body else " RETURNING"
    text = f"{context.parsed.text[: context.parsed.end]}{returning} {', '.join(hidden)}"
    home = context.rewritten(text)
    return ApplyRows(
        home.statement(Single(HomeShard(), writes=True), "", returns_rows=True),
        len(keys),
        tuple(sql_type(c) for c in (*keys, *columns)),
        **_applying(relation, keys, columns, settable),
    )


def _old_and_new(context: Context, scope: Scope) -> tuple[str, str] | None:
    """Return what RETURNING calls the old and the new row; None when something else has that name."""
    found = {"RETURNING_OPTION_OLD": "old", "RETURNING_OPTION_NEW": "new"}
    for item in context.body.get("returningClause", {}).get("options", ()):
        option = item["ReturningOption"]
        found[option.get("option", "RETURNING_OPTION_OLD")] = option["value"]
    taken = {source.alias for source in scope.sources}
    taken |= {body.get("aliasname", "") for kind, body in context.parsed.nodes if kind == "Alias"}
    taken |= {source.relation.name.name for source in scope.sources if source.relation is not None}
    old, new = found.values()
    return None if {old, new} & taken else (quoted(old), quoted(new))


def _set_columns(context: Context) -> frozenset[str]:
    """Return the columns that the statement may change in rows that are there."""
    body = context.body
    targets = items(body.get("onConflictClause", {}).get("targetList"))
    if context.parsed.kind == "UpdateStmt":
        targets += body.get("targetList", [])
    for clause in body.get("mergeWhenClauses", ()):
        if clause["MergeWhenClause"].get("commandType") == "CMD_UPDATE":
            targets += clause["MergeWhenClause"].get("targetList", [])
    return frozenset(target["ResTarget"]["name"] for target in targets)


class _Texts(TypedDict):
    insert: tuple[str, str]
    update: tuple[str, str]
    delete: tuple[str, str]
    updated: tuple[int, ...]


def _applying(relation: Relation, keys: list[Column], columns: list[Column], settable: frozenset[str]) -> _Texts:
    """Return the statements that apply rows to another copy."""
    table = f"{quoted(relation.name.schema)}.{quoted(relation.name.name)}"
    updated = tuple(at for at, column in enumerate(columns) if column.name in settable)
    key_names = [f"k{number}" for number in range(len(keys))]
    names = ", ".join([*key_names, *(f"c{at}" for at in updated)])
    where = " AND ".join(
        f"pgchorus_t.{quoted(column.name)} {_equals(column)} pgchorus_v.{name}"
        for column, name in zip(keys, key_names, strict=True)
    )
    sets = ", ".join(f"{quoted(columns[at].name)} = pgchorus_v.c{at}" for at in updated)
    target, keyed = f"{table} AS pgchorus_t", ", ".join(key_names)
    into = f"INSERT INTO {table} ({', '.join(quoted(c.name) for c in columns)}) OVERRIDING SYSTEM VALUE "
    return {
        "insert": (into, ""),
        "update": (f"UPDATE {target} SET {sets} FROM (", f") AS pgchorus_v ({names}) WHERE {where}"),  # noqa: S608 - names of the catalog, quoted
        "delete": (f"DELETE FROM {target} USING (", f") AS pgchorus_v ({keyed}) WHERE {where}"),  # noqa: S608 - the same
        "updated": updated,
    }


def _equals(column: Column) -> str:
    return "OPERATOR(pg_catalog.=)" if column.type_schema == "pg_catalog" else "="
