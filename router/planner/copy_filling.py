"""Columns that a COPY FROM leaves out and no shard may compute itself.

Decides which these are: those of sequences, which are the home shard's; a sharding key that a default gives; defaults
that read the clock, which is one for all shards; and on a reference table whatever could differ from copy to copy. The
statement for the shards has them in front of the client's own columns. What computes them, and puts them into the rows,
is the session's business and the executor's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from router.cluster import Reference, Sharded
from router.effect import EffectKind, Runs
from router.plan_copy import CopyFill, FilledColumn
from router.planner import dml
from router.planner.filling import Values
from router.planner.filling_rows import nextval
from router.planner.moving import quoted, sql_type
from router.rewrite import at_top
from router.statement import parse
from router.tree import strings, walk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from router.cluster import Placement
    from router.planner.context import Context
    from router.relation import Column, Relation


def left_out(context: Context, relation: Relation, listed: Sequence[str], placement: Placement) -> CopyFill | None:
    """Return what is filled in, in the order in which Postgres computes it; None for nothing.

    What cannot be filled in exactly is not among it, and is refused by those who look at defaults.
    """
    if not context.many or not context.body.get("attlist"):
        return None
    values = Values(context)
    found = []
    for column in relation.columns:
        if column.name not in listed and not column.generated and not _is_homes(context, column, placement):
            filled = _filled(context, values, column, placement)
            if filled is not None:
                found.append(filled)
    if not found:
        return None
    _check_forced(context)
    tokens = context.parsed.tokens
    end = at_top(tokens, "FROM") or 0
    opening = next(at for at in range(end) if tokens[at].name == "ASCII_40")
    text, place = context.parsed.text[: context.parsed.end], tokens[opening].end
    names = "".join(f"{quoted(column.name)}, " for column in found)
    return CopyFill(text[:place] + names + text[place:], tuple(found), values.moments)


def needs_filling(context: Context, column: Column, placement: Placement) -> bool:
    """Whether a column's default is not what a shard would compute."""
    if column.identity or column.sequence is not None:
        return True
    effect = context.effect(dml.default_value(column))
    by_copy = effect.volatile and isinstance(placement, Reference)
    return effect.runs is not Runs.ANYWHERE or effect.clock or by_copy


def _is_homes(context: Context, column: Column, placement: Placement) -> bool:
    """Whether home fills in the column of a table of its own: all but the time of the transaction."""
    if isinstance(placement, Sharded | Reference):
        return False
    effect = context.effect(dml.default_value(column))
    return bool(column.identity) or effect.volatile or not effect.clock


def _filled(context: Context, values: Values, column: Column, placement: Placement) -> FilledColumn | None:
    is_key = isinstance(placement, Sharded) and column.name == placement.key
    if column.identity:
        if column.sequence is None:
            return None
        return _column(column, nextval(column.sequence.schema, column.sequence.name), each=True)
    value = dml.default_value(column)
    if value is None:
        return _column(column, "NULL", each=False) if is_key and not column.default else None
    effect = context.effect(value)
    by_copy = effect.volatile and isinstance(placement, Reference)
    if not (effect.runs is Runs.HOME or effect.clock or is_key or by_copy) or not _computable(context, value):
        return None
    (parsed,) = parse(f"SELECT {column.default}")
    text = parsed.text
    for start, end, new in sorted(values.clock_splices(parsed, named=False), reverse=True):
        text = text[:start] + new + text[end:]
    return _column(column, text.removeprefix("SELECT "), each=effect.volatile)


def _column(column: Column, value: str, *, each: bool) -> FilledColumn:
    return FilledColumn(column.name, f"({value})::{sql_type(column)}", each)


def _computable(context: Context, value: object) -> bool:
    """Whether a default means the same outside the transaction: of what only home runs, sequences alone do."""
    effect = context.effect(value)
    plain = effect.kind is EffectKind.CLOSED and not (effect.touches or effect.sets or effect.pins)
    if not plain or effect.must_commit or effect.session_state or effect.runs is Runs.NOWHERE:
        return False
    for kind, body in walk(value):
        if kind == "FuncCall":
            call = context.call_effect(body)
            if call.runs is not Runs.ANYWHERE and (call.user_defined or not call.advances_sequences):
                return False
    return True


def _check_forced(context: Context) -> None:
    """Refuse FORCE_NULL * and FORCE_NOT_NULL *, which would mean the columns that are filled in as well."""
    for option in context.body.get("options", ()):
        element = option["DefElem"]
        if element["defname"] in {"force_null", "force_not_null"} and not strings(
            element.get("arg", {}).get("List", {}).get("items")
        ):
            at = context.body["relation"].get("location")
            raise context.refuse("copy-option", at, name=f"{element['defname'].upper()} *")
