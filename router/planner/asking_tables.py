"""Tables of a write that a shard cannot see whole: their rows are asked first and stand in the tables' places.

Decides which tables these are, which of their columns and rows are asked, and the text in which lists, one for each
column, take the tables' places. The target's own rows stay where they are, and so do tables that are joined to it on
the sharding keys, and reference tables. Every shard then runs the statement over its own rows of the target and the
same rows of all others:

- All tables are asked by one statement on each shard, behind one snapshot, on the transaction's links and as the
  client's role: what it has written itself is among the rows, what its rights and policies keep from it is not. The
  target as its own source is read so as well: what the statement writes is not seen.
- A column comes back with its type, modifier and collation, by a cast to how the table defines it. Rows as values and
  system columns would not be the table's: refused.
- Which rows of a FROM, or of a subquery that refers to the target, meet a row of the target is found out on that row's
  shard. When another transaction changes the row meanwhile, the shard tries its new version against the same rows of
  the others: Postgres does no more, for it keeps the other tables' snapshot.
- A subquery that does not refer to the target has one answer for all its rows. Over the same rows shards could still
  answer differently, if it chooses (LIMIT, DISTINCT ON), depends on the order of rows, or is volatile: refused. (Most
  of these are asked whole: :mod:`router.planner.asking`.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from router.asked_types import travels
from router.errors import SyntaxFailure
from router.gathered import shard_text
from router.plan import Load, Statement
from router.plan_steps import Asked, ReadTables, Shape
from router.planner import asking_rows, dml, views
from router.planner.clauses import Edit, apply
from router.planner.gather import Occurrence
from router.planner.names import Place
from router.planner.pushed import Pushed
from router.planner.scope import Scope
from router.planner.spread import ORDERLESS
from router.planner.wanted import Wanted, tables
from router.printer import expression, quoted
from router.rewrite import group_end
from router.statement import parse
from router.tree import JSON_AGGREGATES, name_parts, same, strings, walk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from router.planner.context import Context
    from router.planner.names import Source
    from router.relation import Column
    from router.tree import Node

MAX_COLUMNS: Final = 1500  # of all tables together: a shard sends them as the columns of one SELECT, which has 1664
_SYSTEM: Final = frozenset({"ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"})
_PAIR: Final = 2


def rewritten(context: Context, *, keeps: bool) -> tuple[Context, Asked] | None:
    """Return the statement over lists, and what is asked for them; None where that is not the same.

    ``keeps``: tables that are joined to the target on the sharding keys stay. The lists are parameters behind those
    that there are.
    """
    known = views.expanded(context)
    current, expanded = known if known is not None else (context, ())
    found = _occurrences(current, keeps=keeps)
    if found is None or not (found or expanded):
        return None
    chosen = [item for item in found if item.table]
    if not _replaceable(current, chosen):
        return None
    _columns(current, found)
    loads = [load for item in chosen if (load := _load(current, item)) is not None]
    if len(loads) < len(chosen):
        return None
    # What is written twice reads the same lists: Postgres takes the two for one in GROUP BY and the select list.
    asked = [*dict.fromkeys(loads), *(views.permission_load(relation, 0) for relation in expanded)]
    if not asked:
        return None
    if sum(len(load.columns) for load in asked) > MAX_COLUMNS:
        raise context.refuse("too-complex")
    text = _text(current, chosen, loads)
    if text is None:
        return None
    read = Statement(
        shard_text(asked, range(len(asked))),
        ReadTables(tuple(asked)),
        "SELECT",
        returns_rows=True,
        parameters=current.parsed.parameters,
    )
    return current.rewritten(text), Asked(read, Shape.TABLES)


# --- which tables ----------------------------------------------------------------------------------------------------


def _occurrences(context: Context, *, keeps: bool) -> list[Occurrence] | None:
    """Return the tables that the statement names beside its target; those that are asked have a ``table``."""
    body, looking = context.body, context.surveyed()
    scope = Scope(looking)
    written = dml.build(scope, context.parsed.kind, body, None)
    if scope.modifying or "LockingClause" in context.parsed.kinds:
        return None
    scope.check_complete()
    sources: dict[int, list[Source]] = {}
    for source in scope.sources:
        if source.location is not None and source.place in {Place.SHARDED, Place.REFERENCE, Place.HOME}:
            sources.setdefault(source.location, []).append(source)
    found = []
    for kind, node in context.parsed.nodes:
        at = node.get("location", -1)
        mine = sources.pop(at, None) if kind == "RangeVar" and node is not body["relation"] else None
        if mine is None:  # no table of a shard, or one that stands in the tree twice: SET (a, b) = (SELECT ...)
            continue
        relation = mine[0].relation
        item = Occurrence(node, relation, mine) if relation is not None else None
        asks = _is_asked(mine, written.source, keeps=keeps)
        if item is None or not relation or not relation.columns:
            if asks:
                return None
            continue
        item.table = "asked" if asks else ""
        found.append(item)
    return found


def _is_asked(sources: list[Source], target: Source, *, keeps: bool) -> bool:
    if sources[0].place is Place.REFERENCE:
        return False
    if sources[0].place is Place.HOME:
        return target.place is Place.SHARDED
    joined = target.key is not None and all(
        source.key is not None and source.facts.same(source.key, target.key) for source in sources
    )
    return not (keeps and joined)


def _replaceable(context: Context, chosen: list[Occurrence]) -> bool:
    """Whether rows of lists can stand for these tables wherever the statement names them."""
    parsed = context.parsed
    aliases = {item.alias for item in chosen}
    bodies = {id(item.body) for item in chosen}
    spread = _spread_out(parsed.body)
    for kind, body in parsed.nodes:
        if kind == "RangeTableSample" and id(body["relation"].get("RangeVar")) in bodies:
            return False
        if kind != "ColumnRef":
            continue
        fields = strings(body["fields"])
        if fields[-1] in _SYSTEM and (len(fields) == 1 or fields[-2] in aliases):
            return False
        whole = fields[0] in aliases if len(fields) == 1 else fields[-1] == "*" and fields[-2] in aliases
        if whole and id(body) not in spread and not _is_column(chosen, fields):
            return False
        if len(fields) > 1 and fields[-1] != "*" and not _is_column_of(chosen, fields):
            return False
    named = [item for item in chosen if "alias" not in item.body]
    target = context.body["relation"]
    clash = {item.alias for item in named} & {target["relname"]} and "alias" not in target
    if clash and any(kind == "ColumnRef" and len(body["fields"]) > _PAIR for kind, body in parsed.nodes):
        return False  # schema.table.column may mean either
    leans = any(kind == "SelectStmt" and _leans_on_a_key(context, body, chosen) for kind, body in parsed.nodes)
    return not leans and all(_answers_alike(context, query, bodies) for query in _queries(parsed.body))


def _leans_on_a_key(context: Context, body: Node, chosen: list[Occurrence]) -> bool:
    """Whether columns stand beside GROUP BY because a primary key is grouped by, which lists do not have."""
    grouped = {strings(item.get("ColumnRef", {}).get("fields"))[-1:] for item in body.get("groupClause", ())}
    named = {id(node) for node in tables(body.get("fromClause", []))} if grouped else set()
    for item in chosen:
        key = item.relation.primary_key
        if id(item.body) not in named or not key or not grouped.issuperset((name,) for name in key):
            continue
        for fields in _ungrouped(context, [body.get(part) for part in ("targetList", "havingClause", "sortClause")]):
            mine = len(fields) == 1 or fields[-2] == item.alias
            if mine and fields[-1:] not in grouped and (fields[-1] == "*" or item.relation.column(fields[-1])):
                return True
    return False


def _ungrouped(context: Context, value: Any) -> Iterator[tuple[str, ...]]:
    """Yield the names of columns that are not in the arguments of an aggregate."""
    if isinstance(value, list):
        for part in value:
            yield from _ungrouped(context, part)
    elif isinstance(value, dict):
        if "ColumnRef" in value:
            yield strings(value["ColumnRef"]["fields"])
        elif "FuncCall" not in value or not context.call_effect(value["FuncCall"]).aggregate:
            for part in value.values():
                yield from _ungrouped(context, part)


def _is_column(chosen: list[Occurrence], fields: tuple[str, ...]) -> bool:
    """A name alone that is a table's alias means a column, where that table itself has one of the name."""
    return len(fields) == 1 and all(
        item.relation.column(fields[0]) is not None for item in chosen if item.alias == fields[0]
    )


def _is_column_of(chosen: list[Occurrence], fields: tuple[str, ...]) -> bool:
    """``t.f`` means a function of the whole row, where the table has no such column."""
    renamed = (item for item in chosen if item.alias == fields[-2] and "colnames" not in item.body.get("alias", {}))
    return all(item.relation.column(fields[-1]) is not None for item in renamed)


def _spread_out(node: Node) -> set[int]:
    """Return the ids of the references ``t.*`` that stand for columns one by one: in lists of output columns."""
    found = set()
    for _, body in walk({"Statement": node}):
        for target in (*body.get("targetList", ()), *body.get("returningClause", {}).get("exprs", ())):
            value = target.get("ResTarget", {}).get("val", {}) if isinstance(target, dict) else {}
            if "ColumnRef" in value:
                fields = strings(value["ColumnRef"]["fields"])
                if fields[-1] == "*":
                    found.add(id(value["ColumnRef"]))
    return found


# --- subqueries ------------------------------------------------------------------------------------------------------


def _queries(value: Any) -> Iterator[Node]:
    """Yield the outermost SELECTs."""
    if isinstance(value, list):
        for part in value:
            yield from _queries(part)
    elif isinstance(value, dict):
        if "SelectStmt" in value:
            yield value["SelectStmt"]
            return
        for part in value.values():
            yield from _queries(part)


def _answers_alike(context: Context, query: Node, bodies: set[int]) -> bool:
    """Whether a subquery has the same answer on every shard, or one for each row of the target."""
    nodes = list(walk({"SelectStmt": query}))
    if not any(id(body) in bodies for kind, body in nodes if kind == "RangeVar"):
        return True
    return not any(_chooses(context, kind, body) for kind, body in nodes) or refers_to_target(context, query)


def _chooses(context: Context, kind: str, body: Node) -> bool:
    if kind == "SelectStmt":
        return "limitCount" in body or "limitOffset" in body or any(body.get("distinctClause", ()))
    if kind != "FuncCall":
        return kind in JSON_AGGREGATES
    effect = context.call_effect(body)
    aggregate = effect.aggregate and strings(body.get("funcname"))[-1] not in ORDERLESS
    return effect.volatile or "over" in body or aggregate


def refers_to_target(context: Context, query: Node) -> bool:
    """Whether a subquery names a column of the target's, for certain."""
    target = context.body["relation"]
    relation = context.relation(target)
    label = target.get("alias", {}).get("aliasname", target["relname"])
    nodes = list(walk({"SelectStmt": query}))
    if label in _labels(nodes):
        return False
    inside = names_inside(context, nodes)
    others = names_inside(context, [(kind, body) for kind, body in context.parsed.nodes if body is not target])
    for kind, body in nodes:
        fields = strings(body.get("fields")) if kind == "ColumnRef" else ()
        if len(fields) == _PAIR and fields[0] == label:
            return True
        if len(fields) == 1 and inside is not None and others is not None and relation is not None:
            name = fields[0]
            if name not in inside and name not in others and relation.column(name) is not None:
                return True
    return False


def _labels(nodes: list[tuple[str, Node]]) -> set[str]:
    found = {body["relname"] for kind, body in nodes if kind == "RangeVar" and "alias" not in body}
    found |= {body.get("aliasname", "") for kind, body in nodes if kind == "Alias"}
    found |= {body["alias"].get("aliasname", "") for _, body in nodes if isinstance(body.get("alias"), dict)}
    return found | {body["ctename"] for kind, body in nodes if kind == "CommonTableExpr"}


def names_inside(context: Context, nodes: list[tuple[str, Node]]) -> set[str] | None:
    """Return the names that a column without a table can have in these nodes, too many rather; None: nobody knows."""
    found = set(_SYSTEM)
    ctes = {body["ctename"] for kind, body in nodes if kind == "CommonTableExpr"}
    for kind, body in nodes:
        if kind == "RangeVar" and not (body["relname"] in ctes and "schemaname" not in body):
            relation = context.relation(body)
            if relation is None or not relation.columns:
                return None
            found.update(column.name for column in relation.columns)
        elif kind in {"RangeFunction", "RangeTableFunc", "JsonTable"}:
            return None
        elif kind == "ResTarget" and "name" in body:
            found.add(body["name"])
        elif kind == "ResTarget":
            call = body.get("val", {}).get("FuncCall", {})
            found.update(strings(call.get("funcname"))[-1:])
        elif kind == "CommonTableExpr":
            found.update(strings(body.get("aliascolnames")))
        if isinstance(body.get("alias"), dict):
            found.add(body["alias"].get("aliasname", ""))
            found.update(strings(body["alias"].get("colnames")))
    return found


# --- what is asked ---------------------------------------------------------------------------------------------------


def _columns(context: Context, found: list[Occurrence]) -> None:
    """Note which columns of the tables count, and which conditions concern one of them alone."""
    body, nodes = context.body, context.parsed.nodes
    wanted = Wanted(nodes, {item.alias for item in found})
    known = {id(item.body): item.relation for item in found}
    target = context.relation(body["relation"])
    if target is not None:
        known[id(body["relation"])] = target
    pushed = Pushed(context, known)
    all_of_them = _returns_all(body)
    for item in found:
        everything = tuple(column.name for column in item.relation.columns)
        item.columns = everything if all_of_them else wanted.columns(item.body, item.relation)
        item.columns = item.columns or everything[:1]  # rows are counted by a column
        item.conditions = pushed.conditions(item.body)


def _returns_all(body: Node) -> bool:
    """Whether RETURNING is ``*``: the columns of everything in FROM."""
    values = [target["ResTarget"].get("val", {}) for target in body.get("returningClause", {}).get("exprs", ())]
    return any(strings(value.get("ColumnRef", {}).get("fields")) == ("*",) for value in values)


def _load(context: Context, item: Occurrence) -> Load | None:
    columns = [column for name in item.columns if (column := item.relation.column(name)) is not None]
    if not all(_travels(context, column) for column in columns):
        return None
    name = quoted(item.relation.name.schema, item.relation.name.name)
    source = f"{'' if item.body.get('inh') else 'ONLY '}{name} AS {quoted(item.alias)}"
    texts = [expression(condition) for condition in item.conditions]
    if texts:
        source += " WHERE " + " AND ".join(text for text in texts if text)
    return Load(
        item.target,
        "",
        tuple(column.name for column in columns),
        tuple(_definition(column) for column in columns),
        tuple(column.bare_type or quoted(column.type_schema, column.type_name) for column in columns),
        quoted(item.alias),
        source,
    )


def _travels(context: Context, column: Column) -> bool:
    return travels(column.type_oid, column.base_type_oid, enum=asking_rows.is_enum(context, column))


def _definition(column: Column) -> str:
    return column.definition or quoted(column.type_schema, column.type_name)


# --- the text --------------------------------------------------------------------------------------------------------


def _text(context: Context, chosen: list[Occurrence], loads: list[Load]) -> str | None:
    """Return the statement with lists in the places of tables, parsed again and compared."""
    parsed = context.parsed
    number = max(parsed.parameters, len(context.reader.parameter_oids)) + 1
    edits: list[Edit] = []
    replaced: dict[int, Node] = {}
    twins: dict[int, list[int]] = {}
    for kind, body in parsed.nodes:
        if kind == "RangeVar":
            twins.setdefault(body.get("location", -1), []).append(id(body))
    texts: dict[Load, str] = {}
    for item, load in zip(chosen, loads, strict=True):
        if load not in texts:
            columns = [column for name in item.columns if (column := item.relation.column(name)) is not None]
            texts[load] = _rows(columns, number)
            number += len(columns)
        rows = texts[load]
        edits += _table_edits(context, item, rows)
        (probe,) = parse(f"SELECT FROM {rows} AS x")
        node = dict(probe.body["fromClause"][0]["RangeSubselect"])
        node["alias"] = item.body.get("alias", {"aliasname": item.alias})
        replaced.update(dict.fromkeys(twins[item.body["location"]], node))
    shortened: dict[int, Edit] = {}
    names = {item.alias: item.relation for item in chosen if "alias" not in item.body}
    for kind, body in parsed.nodes:
        fields = strings(body.get("fields")) if kind == "ColumnRef" else ()
        if len(fields) > _PAIR and fields[-2] in names and names[fields[-2]].name.schema == fields[-3]:
            tokens = parsed.tokens
            first = parsed.token_at(parsed.place(body["location"]))
            behind = tokens[first + 2 * (len(fields) - _PAIR)].start
            shortened[first] = Edit(tokens[first].start, behind, "")
            replaced[id(body)] = {**body, "fields": body["fields"][-2:]}
    text = apply(parsed.text[: parsed.end], [*edits, *shortened.values()])
    try:
        again = parse(text)
    except (SyntaxFailure, ValueError):
        return None
    if len(again) != 1 or again[0].kind != parsed.kind or not same(again[0].body, _copy(parsed.body, replaced)):
        return None
    return text


def _rows(columns: list[Column], number: int) -> str:
    """Return a subquery over lists, whose columns are those of a table."""
    lists = ", ".join(f"pg_catalog.unnest(${number + at})" for at in range(len(columns)))
    names = ", ".join(quoted(column.name) for column in columns)
    shown = ", ".join(f"{quoted(column.name)}::{_definition(column)} AS {quoted(column.name)}" for column in columns)
    return f'(SELECT {shown} FROM ROWS FROM ({lists}) AS "pgchorus" ({names}))'  # noqa: S608 - quoted


def _table_edits(context: Context, item: Occurrence, rows: str) -> list[Edit]:
    """Put rows in the place of a table's name, and of ONLY or * beside it."""
    tokens = context.parsed.tokens
    first = context.parsed.token_at(context.parsed.place(item.body["location"]))
    last = first + 2 * len(name_parts(item.body)) - 2
    alias = "" if "alias" in item.body else f" AS {quoted(item.alias)}"
    before = tokens[first - 1].name
    if before == "ASCII_40" and tokens[first - 2].name == "ONLY":
        first, last = first - 2, group_end(tokens, first - 1) or last
    elif before == "ONLY":
        first -= 1
    elif last + 1 < len(tokens) and tokens[last + 1].name == "ASCII_42":
        last += 1
    edits = [Edit(tokens[first].start, tokens[last].end, rows + alias)]
    if tokens[first - 1].name == "TABLE":  # TABLE t, which is SELECT * FROM t
        edits.append(Edit(tokens[first - 1].start, tokens[first - 1].end, "SELECT * FROM"))
    return edits


def _copy(value: Any, replaced: dict[int, Node]) -> Any:
    """Return a copy of a tree with lists in the places of tables."""
    if isinstance(value, list):
        return [_copy(item, replaced) for item in value]
    if not isinstance(value, dict):
        return value
    if id(value) in replaced:
        return replaced[id(value)]
    table = value.get("RangeVar")
    if isinstance(table, dict) and id(table) in replaced:
        return {"RangeSubselect": replaced[id(table)]}
    return {key: _copy(item, replaced) for key, item in value.items()}
