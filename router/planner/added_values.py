"""What a definition puts into rows: ADD COLUMN and its default, ALTER COLUMN TYPE and its USING, words of the clock.

One Postgres computes these once, or row by row by one clock; over several shards each would do it by its own. Decides
what is the same everywhere, what becomes the same (a default that reads the transaction's clock: the rows that exist
get one moment, and the default is set behind it), and what is refused.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from router import clock_words
from router.cluster import Home, Reference
from router.effect import Runs
from router.plan import MOMENT, Ddl
from router.plan_steps import Moment
from router.planner.filling import Values
from router.printer import expression, quoted
from router.statement import parse
from router.tree import Node, constant, name_parts, strings, walk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from router.cluster import Placement, TableName
    from router.planner.context import Context

_SERIAL: Final = frozenset({"serial", "serial2", "serial4", "serial8", "bigserial", "smallserial"})


def check_column(context: Context, column: Node, table: TableName, placement: Placement) -> None:
    """ADD COLUMN fills the rows that exist: not from a shard's own sequence, and on all copies alike."""
    names, at = strings(column.get("typeName", {}).get("names")), column.get("location")
    kinds = {item["Constraint"].get("contype") for item in column.get("constraints", ())}
    if isinstance(placement, Home):
        return
    if "CONSTR_IDENTITY" in kinds or (names and names[-1] in _SERIAL):
        raise context.refuse("add-column", at, column=column["colname"], table=table)
    if "CONSTR_GENERATED" in kinds:
        check_computed(context, _expression_of(column, "CONSTR_GENERATED"), table, placement, at)
        return
    value = default_of(column)
    if value is None and "CONSTR_DEFAULT" not in kinds:
        _check_domain(context, names, table, at)
        return
    effect = context.effect(value)
    if effect.runs is not Runs.ANYWHERE:
        raise context.refuse("add-column", at, column=column["colname"], table=table)
    if isinstance(placement, Reference) and (effect.volatile or effect.touches):
        raise context.refuse("reference-write", at, table=table)


def _check_domain(context: Context, names: tuple[str, ...], table: TableName, at: int | None) -> None:
    """A domain may have a default of its own; what it checks is in this effect as well, which may refuse too much."""
    effect = context.catalog.type_effect(names or ("",), context.search_path)
    if effect.clock:
        raise context.refuse("definition-clock", at, table=table)
    if effect.volatile or effect.runs is not Runs.ANYWHERE:
        raise context.refuse("definition-value", at, table=table)


def check_computed(
    context: Context, value: Node | None, table: TableName, placement: Placement, at: int | None
) -> None:
    """USING, or a generated column: every row is computed anew, on its shard, or on each that has a copy.

    What a generated column names is immutable by the word of whoever has defined it, which nobody has proved.
    """
    effect = context.effect(value)
    if effect.clock:
        raise context.refuse("definition-clock", at, table=table)
    if effect.runs is not Runs.ANYWHERE:
        raise context.refuse("definition-value", at, table=table)
    if isinstance(placement, Reference) and (effect.volatile or effect.touches):
        raise context.refuse("reference-write", at, table=table)


def check_words(context: Context, column_type: str, value: Node | None, table: TableName, at: int | None) -> None:
    """Refuse a default that is a word of the clock: it is read once, when it is defined, by each shard's own clock."""
    literal = constant(value) if value is not None and "A_Const" in value else None
    if column_type and literal is not None and _is_word(literal, column_type):
        raise context.refuse("definition-clock", at, table=table)
    for kind, body in walk(value):
        read = constant(body["arg"]) if kind == "TypeCast" else None
        if read is not None and _is_word(read, strings(body["typeName"].get("names"))[-1]):
            raise context.refuse("definition-clock", at, table=table)


def _is_word(literal: tuple[str, object], type_name: str) -> bool:
    kind, text = literal
    known = clock_words.is_reader(type_name)
    return kind == "string" and known and clock_words.holds(str(text).encode())


def default_of(column: Node) -> Node | None:
    """Return the default in a column's definition."""
    return _expression_of(column, "CONSTR_DEFAULT")


def _expression_of(column: Node, kind: str) -> Node | None:
    for item in column.get("constraints", ()):
        if item["Constraint"].get("contype") == kind:
            found: Node | None = item["Constraint"].get("raw_expr")
            return found
    return None


def at_one_moment(context: Context, plan: Ddl, commands: Sequence[Node]) -> Ddl:
    """Have ADD COLUMN fill the rows of all shards with one moment, where the default reads the clock.

    Raises Refused where the default cannot be set behind it in the client's words.
    """
    added = [command for command in commands if _reads_clock(context, command)]
    if not added:
        return plan
    range_var = context.body["relation"]
    refused = context.refuse("definition-clock", range_var.get("location"), table=".".join(name_parts(range_var)))
    values = Values(context)
    parameter = values.moment(Moment.TRANSACTION)
    splices: list[tuple[int, int, str]] = []
    after: list[str] = []
    table = ("" if range_var.get("inh") else "ONLY ") + quoted(*name_parts(range_var))
    for command in added:
        column = command["def"]["ColumnDef"]
        value = default_of(column)
        text = expression(value, _clock_text) if value is not None else None
        if text is None or command.get("missing_ok"):
            raise refused
        splices += values.clock_splices(context.parsed, named=False, among={id(body) for _, body in walk(value)})
        after.append(f"ALTER TABLE {table} ALTER COLUMN {quoted(column['colname'])} SET DEFAULT {text}")
    text = context.parsed.text[: context.parsed.end]
    for start, end, new in sorted(splices, reverse=True):
        text = text[:start] + new.replace(parameter, MOMENT) + text[end:]
    (known,) = parse(text.replace(MOMENT, "'2000-01-01'"))
    left = [item["AlterTableCmd"] for item in known.body.get("cmds", ())]
    if values.moments != (Moment.TRANSACTION,) or any(_reads_clock(context, command) for command in left):
        raise refused
    count = len(context.database.shards)
    behind = plan.after or ((),) * count
    return replace(
        plan,
        texts=(text.lstrip(),) * count,
        after=tuple((*after, *others) for others in behind),
        moment=True,
    )


def _clock_text(node: Node) -> str | None:
    """Return how a word of the grammar that reads the clock is written (CURRENT_DATE); None for all other nodes."""
    body = node.get("SQLValueFunction")
    if body is None:
        return None
    word, precision = str(body.get("op", "")).removeprefix("SVFOP_"), body.get("typmod", -1)
    return f"{word.removesuffix('_N')}({precision})" if word.endswith("_N") else word


def _reads_clock(context: Context, command: Node) -> bool:
    if command.get("subtype", "AT_AddColumn") != "AT_AddColumn" or "ColumnDef" not in command.get("def", {}):
        return False
    return bool(context.effect(default_of(command["def"]["ColumnDef"])).clock)
