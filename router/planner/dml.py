"""What INSERT, UPDATE, DELETE and MERGE have in common: the target, and what its rows say of the key.

Each builder registers the target among the scope's sources, with facts that say which key its rows have, so that
:mod:`router.planner.spread` sees a target as one more table. Data-modifying WITH goes through the same builders.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from router.errors import SyntaxFailure
from router.keys import Facts, value_term
from router.plan import Constant, KeyTerm
from router.planner.names import (
    Cte,
    Item,
    Join,
    Leaf,
    Level,
    Names,
    Place,
    Source,
    derived_columns,
    outputs,
    relation_columns,
)
from router.statement import parse
from router.tree import Node, items, same, strings

if TYPE_CHECKING:
    from router.keys import ColumnId
    from router.planner.context import Context
    from router.planner.scope import Scope
    from router.relation import Column, Relation


@dataclass(frozen=True, slots=True)
class Inserted:
    """The row that a MERGE inserts, as one more target; ``value`` is its key, ``column`` the source's column there."""

    source: Source
    column: ColumnId | None
    value: Node


@dataclass(slots=True)
class Written:
    """A target under construction. ``keys``: of each VALUES row, in order; None where it cannot be read.

    ``on``: what holds for rows that match, and ``inserted``: the rows that are put in, of a MERGE.
    """

    source: Source
    level: Level
    relation: Relation | None
    keys: tuple[KeyTerm | None, ...] = ()
    select: Level | None = None
    key_position: int | None = None
    on: Facts | None = None
    inserted: list[Inserted] = field(default_factory=list)


def modifying_levels(scope: Scope) -> bool:
    """Build the data-modifying CTEs of a statement; returns whether there are any."""
    for cte in list(scope.modifying):
        written = built(scope, cte)
        if written.source.place is Place.REFERENCE and scope.context.many:
            raise scope.context.refuse(
                "reference-write", written.source.location, table=written.relation.name if written.relation else ""
            )
        if written.keys and written.source.place is Place.SHARDED:
            one_key(scope.context, written)
    return bool(scope.modifying)


def built(scope: Scope, cte: Cte) -> Written:
    """Return what a data-modifying CTE writes; it is built once."""
    if id(cte.node) not in scope.written:
        scope.written[id(cte.node)] = build(scope, cte.kind, cte.node, cte.environment, cte)
    written: Written = scope.written[id(cte.node)]
    return written


def returned(written: Written, *aliases: tuple[str, ...]) -> dict[str, ColumnId | None] | None:
    """Return the columns of RETURNING as far as they are columns of the target."""
    targets = written.level.node.get("returningClause", {}).get("exprs")
    if not targets:
        return None
    level = Level({"targetList": targets}, written.level.names, written.source.facts)
    level.outputs = outputs(level)
    return derived_columns(level, *aliases)


def build(scope: Scope, kind: str, node: Node, environment: dict[str, Cte] | None, cte: Cte | None = None) -> Written:
    """Analyse one data-modifying statement (its WITH included)."""
    level = Level(node, Names([], outer=cte.names if cte is not None else None), Facts())
    inside = scope.with_clause(node, level, environment or {}, None, None)
    if kind == "InsertStmt":
        return _insert(scope, level, node, inside)
    if kind in {"UpdateStmt", "DeleteStmt"}:
        return _modify(scope, level, node, inside)
    if kind == "MergeStmt":
        return _merge(scope, level, node, inside)
    raise scope.context.refuse("unknown-node", name=kind)


def _register(scope: Scope, level: Level, range_var: Node, facts: Facts, kind: str) -> Written:
    check_target(scope.context, range_var, kind)
    source = scope.table(range_var, facts)
    relation = source.relation
    alias = range_var.get("alias", {})
    item = Item(alias.get("aliasname", range_var["relname"]), relation_columns(source), None if alias else relation)
    level.names.visible.append(item)
    return Written(source, level, relation)


def check_target(context: Context, target: Node, written: str) -> None:
    """Refuse views whose rows are not the home shard's own: Postgres would write one copy of a reference table.

    Views of a sharded table that can be written are tables here already: :mod:`router.planner.view_targets`.
    """
    relation, at = context.relation(target), target.get("location")
    if relation is None or not context.many or not relation.is_view:
        return
    pending, seen = list(relation.read_uses.reads), set()
    elsewhere = []
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        base = context.catalog.relation(name.schema, name.name)
        if base is not None and base.is_view:
            pending.extend(base.read_uses.reads)
        elif base is not None and context.catalog.effective_placement(base) != context.home:
            elsewhere.append(name)
    if context.catalog.sharded_among(elsewhere):
        from router.planner import view_targets  # noqa: PLC0415 - it looks at views by this file

        reason = view_targets.problem(context, relation, written)
        raise context.refuse("view-target", at, detail=reason, view=relation.name)
    if elsewhere:
        raise context.refuse("view-write", at, view=relation.name, table=min(elsewhere))


# --- INSERT ----------------------------------------------------------------------------------------------------------


def _insert(scope: Scope, level: Level, node: Node, environment: dict[str, Cte]) -> Written:
    context = scope.context
    facts = Facts()
    written = _register(scope, level, node["relation"], facts, "InsertStmt")
    query = node.get("selectStmt", {}).get("SelectStmt")
    returning = {key: node[key] for key in ("returningClause", "onConflictClause") if key in node}
    if query is None:
        written.keys = (omitted_key(context, written),)
    elif "valuesLists" in query and not any(key in query for key in ("sortClause", "limitCount", "limitOffset")):
        inside = scope.with_clause(query, level, environment, None, None)
        _values(scope, written, node, query)
        scope.sublinks(level, query["valuesLists"], inside, None, Names([]))
    else:
        select = scope.select(query, environment=environment)
        level.nested.append(select)
        facts.parent = select.facts
        written.select = select
        _selected_key(scope, written, node, query)
    terms = set(written.keys)
    term = terms.pop() if len(terms) == 1 else None
    if term is not None and written.source.key is not None:
        facts.equal.append((written.source.key, term))
    scope.sublinks(level, returning, environment, facts)
    defaults = [*defaulted(written.relation, node, query), *(name for name, _ in set_to_default(node))]
    if written.source.place is Place.REFERENCE:
        defaults = []  # where they differ from copy to copy they are home's: router.planner.reference
    else:
        check_sequences(context, written, node, query)
    context.check_access(written.relation, write=True, defaults=defaults, at=written.source.location)
    return written


def columns_of(relation: Relation | None, node: Node) -> list[str] | None:
    """Return the names of the columns that INSERT names, or all of them in order."""
    if "cols" in node:
        return [entry["ResTarget"]["name"] for entry in node["cols"]]
    return None if relation is None else [column.name for column in relation.columns]


def _values(scope: Scope, written: Written, node: Node, query: Node) -> None:
    source, context = written.source, scope.context
    if source.key is None:
        return
    columns = columns_of(written.relation, node) or []
    position = columns.index(source.key.name) if source.key.name in columns else None
    keys: list[KeyTerm | None] = []
    for row in query["valuesLists"]:
        values = items(row)
        if position is None or position >= len(values) or "SetToDefault" in values[position]:
            keys.append(omitted_key(context, written))
        else:
            column = written.relation.column(source.key.name) if written.relation is not None else None
            modifier = column.type_modifier if column is not None else -1
            keys.append(value_term(context.reader, values[position], source.key_type, modifier))
    written.keys = tuple(keys)
    written.key_position = position


def omitted_key(context: Context, written: Written) -> KeyTerm | None:
    """Return the key of a row that does not give it: a constant default, or NULL."""
    source = written.source
    if source.key is None or written.relation is None:
        return None
    column = written.relation.column(source.key.name)
    if column is None:
        return None
    if not column.default and not column.identity:
        return Constant(None)
    value = None if column.identity else default_value(column)
    term = None if value is None else value_term(context.reader, value, source.key_type, column.type_modifier)
    if term is None:
        raise context.refuse("insert-no-key", source.location, table=written.relation.name, key=column.name)
    return term


def default_value(column: Column) -> Node | None:
    """Return the expression of a column's default as a tree, None if there is none (or it does not parse)."""
    if not column.default:
        return None
    try:
        (parsed,) = parse(f"SELECT {column.default}")
    except SyntaxFailure:
        return None
    target: Node = parsed.body["targetList"][0]["ResTarget"]["val"]
    return target


def kept(scope: Scope, column: ColumnId, key: Column | None) -> bool:
    """Whether a column's value is what a key becomes that it is assigned to: a varchar(n) loses blanks beyond n."""
    if key is None or key.type_name != "varchar" or key.type_modifier < 0:
        return True
    found = scope.column(column)
    return found is not None and found.type_name == "varchar" and 0 <= found.type_modifier <= key.type_modifier


def _selected_key(scope: Scope, written: Written, node: Node, query: Node) -> None:
    """INSERT ... SELECT: the key is the output column at its place."""
    context = scope.context
    source, select = written.source, written.select
    columns = columns_of(written.relation, node)
    if source.key is None or select is None or columns is None:
        return
    if source.key.name not in columns:
        written.keys = (omitted_key(context, written),)
        return
    position = columns.index(source.key.name)
    written.key_position = position
    outputs = select.outputs
    if select.arms or outputs is None or len(outputs) <= position:
        return
    column = list(outputs.values())[position]
    targets = query.get("targetList", ())
    starred = any(
        strings(t["ResTarget"].get("val", {}).get("ColumnRef", {}).get("fields"))[-1:] == ("*",) for t in targets
    )
    key = written.relation.column(source.key.name) if written.relation is not None else None
    if column is not None and column.family == source.key.family and kept(scope, column, key):
        source.facts.equal.append((source.key, column))
    elif column is None and not starred and position < len(targets):
        modifier = key.type_modifier if key is not None else -1
        term = value_term(context.reader, targets[position]["ResTarget"].get("val", {}), source.key_type, modifier)
        if term is not None:
            source.facts.equal.append((source.key, term))


def defaulted(relation: Relation | None, node: Node, query: Node | None) -> list[str]:
    """Return the columns that take their default in some row."""
    if relation is None:
        return []
    named = columns_of(relation, node) or []
    rows = [items(row) for row in query.get("valuesLists", ())] if query is not None else []
    width = max((len(row) for row in rows), default=len(named)) if query is not None else 0
    given = named[:width] if "cols" not in node else named if query is not None else []
    found = [column.name for column in relation.columns if column.name not in given]
    for row in rows:
        found += [name for name, value in zip(named, row, strict=False) if "SetToDefault" in value]
    return found


def check_sequences(context: Context, written: Written, node: Node, query: Node | None) -> None:
    """Refuse a default that a sequence feeds: each shard has its own, and would hand out the same numbers."""
    relation = written.relation
    if relation is None or not context.many or written.source.place is Place.HOME:
        return
    for name in (*defaulted(relation, node, query), *(name for name, _ in set_to_default(node))):
        column = relation.column(name)
        if column is not None and (column.identity or column.sequence is not None):
            raise context.refuse("sequence-default", written.source.location, column=name, table=relation.name)


def one_key(context: Context, written: Written) -> None:
    """Refuse rows of several keys where one is needed, and keys that cannot be read."""
    key = written.source.key
    if key is None:
        return
    if any(term is None for term in written.keys):
        raise context.refuse("insert-key", written.source.location, key=key.name)


# --- UPDATE, DELETE --------------------------------------------------------------------------------------------------


def _modify(scope: Scope, level: Level, node: Node, environment: dict[str, Cte]) -> Written:
    written = _register(scope, level, node["relation"], level.facts, "")
    target = Leaf(written.source)
    scope.from_clause(level, node.get("fromClause", node.get("usingClause", ())), environment)
    level.tree = target if level.tree is None else Join("inner", target, level.tree, level.facts)
    scope.where(level, node.get("whereClause"), environment)
    for part in ("targetList", "returningClause"):
        scope.sublinks(level, node.get(part), environment, level.facts)
    context = scope.context
    check_key_kept(context, written, node.get("targetList", ()), level, facts=level.facts)
    defaults = [name for name, _ in set_to_default(node)]
    context.check_access(written.relation, write=True, defaults=defaults, at=written.source.location)
    return written


def set_to_default(node: Node) -> list[tuple[str, int]]:
    """Return the columns that UPDATE, ON CONFLICT or MERGE sets to their DEFAULT, each with the place of the word."""
    targets = list(node.get("targetList", ())) if "mergeWhenClauses" not in node else []
    targets += items(node.get("onConflictClause", {}).get("targetList"))
    for clause in node.get("mergeWhenClauses", ()):
        if clause["MergeWhenClause"].get("commandType") == "CMD_UPDATE":
            targets += clause["MergeWhenClause"].get("targetList", ())
    found = []
    for target in targets:
        body = target["ResTarget"]
        value: Node = body.get("val", {})
        if "MultiAssignRef" in value:  # SET (a, b) = (DEFAULT, 1)
            values = value["MultiAssignRef"].get("source", {}).get("RowExpr", {}).get("args", ())
            number = value["MultiAssignRef"].get("colno", 0)
            value = values[number - 1] if 1 <= number <= len(values) else {}
        if "SetToDefault" in value:
            found.append((body["name"], value["SetToDefault"].get("location", 0)))
    return found


def check_key_kept(  # noqa: PLR0913 - where a SET stands
    context: Context,
    written: Written,
    targets: list[Node],
    level: Level,
    *,
    excluded: bool = False,
    facts: Facts | None = None,
) -> None:
    """Refuse SET key = ... unless it sets what the key is anyway, by ``facts`` about the rows that are changed."""
    source = written.source
    if source.key is None or not context.many or context.survey:
        return
    for target in targets:
        body = target["ResTarget"]
        if body.get("name") != source.key.name:
            continue
        value = body.get("val", {})
        column = level.names.column(value)
        if column == source.key or (column is not None and facts is not None and facts.same(source.key, column)):
            continue
        if excluded and same(
            value, {"ColumnRef": {"fields": [{"String": {"sval": "excluded"}}, {"String": {"sval": source.key.name}}]}}
        ):
            continue
        term = context.reader.term(value, source.key.family or "")
        if term is not None and not excluded and source.facts.terms(source.key) == (term,):
            continue
        raise context.refuse("key-update", body.get("location"), key=source.key.name)


# --- MERGE -----------------------------------------------------------------------------------------------------------

MATCHED: Final = "MERGE_WHEN_MATCHED"
BY_SOURCE: Final = "MERGE_WHEN_NOT_MATCHED_BY_SOURCE"


def _merge(scope: Scope, level: Level, node: Node, environment: dict[str, Cte]) -> Written:
    """What ON says holds for rows that match: for neither side's others, which the clauses may reach as well."""
    context = scope.context
    clauses = [clause["MergeWhenClause"] for clause in node.get("mergeWhenClauses", ())]
    kinds = {body.get("matchKind", MATCHED) for body in clauses}
    on = level.facts if kinds == {MATCHED} else Facts(level.facts)
    # BY SOURCE reaches all rows of the target, whatever is known of the source's.
    written = _register(scope, level, node["relation"], Facts() if BY_SOURCE in kinds else on, "MergeStmt")
    written.on = on
    scope.from_clause(level, [node["sourceRelation"]], environment)
    scope.condition(level, node["joinCondition"], level.names, on, environment, None)
    source = written.source
    for body in clauses:
        scope.sublinks(level, body, environment, None)
        command = body.get("commandType", "")
        if command == "CMD_UPDATE":
            matched = body.get("matchKind", MATCHED) == MATCHED
            check_key_kept(context, written, body.get("targetList", ()), level, facts=on if matched else None)
        elif command == "CMD_INSERT":
            _merge_insert(scope, written, body, level)
    scope.sublinks(level, node.get("returningClause"), environment, None)
    # Those of reference tables are home's.
    defaults = _merge_defaults(written.relation, clauses) if source.place is not Place.REFERENCE else ()
    context.check_access(written.relation, write=True, defaults=defaults, at=source.location)
    return written


def _merge_defaults(relation: Relation | None, clauses: list[Node]) -> set[str]:
    """Return the columns that take their default in some clause of a MERGE."""
    found: set[str] = set()
    for body in clauses:
        if body.get("commandType") == "CMD_INSERT" and relation is not None:
            found.update(column.name for column in merge_defaulted(relation, body))
        else:
            found.update(name for name, _ in set_to_default(body))
    return found


def merge_defaulted(relation: Relation, body: Node) -> list[Column]:
    """Return the columns that take their default in the INSERT of a MERGE."""
    names = [t["ResTarget"]["name"] for t in body.get("targetList", ())] or [c.name for c in relation.columns]
    given = [name for name, value in zip(names, body.get("values", ()), strict=False) if "SetToDefault" not in value]
    return [column for column in relation.columns if column.name not in given and not column.generated]


def _merge_insert(scope: Scope, written: Written, body: Node, level: Level) -> None:
    """Register the inserted row as one more target, whose key is the value given for it."""
    context, key, relation = scope.context, written.source.key, written.relation
    if key is None or relation is None or context.survey:
        return
    at = written.source.location
    for column in merge_defaulted(relation, body) if context.many else ():
        if column.identity or column.sequence is not None:
            raise context.refuse("sequence-default", at, column=column.name, table=relation.name)
    names = [t["ResTarget"]["name"] for t in body.get("targetList", ())] or [c.name for c in relation.columns]
    values = body.get("values", [])
    inserted = scope.add(Place.SHARDED, Facts(level.facts), at, relation=relation, key_type=written.source.key_type)
    inserted.key = type(key)(inserted.index, key.name, key.family)
    position = names.index(key.name) if key.name in names else len(values)
    if position >= len(values) or "SetToDefault" in values[position]:
        raise context.refuse("merge-insert", at, detail="The inserted row does not give the key.")
    # Only the source is in sight of NOT MATCHED: the target's columns of the same name hide nothing.
    in_sight = Names(level.names.visible[1:], level.names.merged, level.names.outer)
    found = in_sight.column(values[position])
    own = relation.column(key.name)
    modifier = own.type_modifier if own is not None else -1
    term = value_term(context.reader, values[position], written.source.key_type, modifier)
    if found is not None and found.family == key.family:
        inserted.facts.equal.append((inserted.key, found))
    elif term is not None:
        inserted.facts.equal.append((inserted.key, term))
    written.inserted.append(Inserted(inserted, found, values[position]))
