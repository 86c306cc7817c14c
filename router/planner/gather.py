"""SELECT by gathering: the rows of all its tables are loaded to one place, where Postgres answers the statement.

Decides which tables are loaded, which of their columns and rows (:mod:`router.planner.pushed`), from which shards, and
the text that runs over what was loaded: the original, spliced where it names a table or a sample of
one. The result is parsed again and compared. What would mean something else over copies is refused:
row locks, system columns, functions that read tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from router.effect import EffectKind
from router.errors import SyntaxFailure
from router.plan import AnyShard, ByKeys, EveryShard, Gather, HomeShard, Load
from router.planner.clauses import Edit, apply
from router.planner.names import Place
from router.planner.placing import check_no_system_columns, locks, placed
from router.planner.pushed import Pushed, parameters_of
from router.planner.wanted import Wanted
from router.printer import expression, quoted
from router.rewrite import group_end
from router.server_values import of_one_link
from router.statement import parse
from router.tree import name_parts, same, strings, walk, without_places

if TYPE_CHECKING:
    from router.cluster import TableName
    from router.plan import Target
    from router.planner.context import Context
    from router.planner.names import Source
    from router.planner.scope import Scope
    from router.relation import Relation
    from router.tree import Node

MAX_COLUMNS: Final = 1500  # of all loads together: a shard sends them as the columns of one SELECT, which has 1664
_TEMPORARY: Final = "pgchorus_"
_SAMPLES: Final = frozenset({"bernoulli", "system"})


@dataclass(slots=True)
class Occurrence:
    """A place where the statement names a table. ``sources``: what the scope made of it (a CTE may be read twice)."""

    body: Node
    relation: Relation
    sources: list[Source]
    columns: tuple[str, ...] = ()
    conditions: tuple[Node, ...] = ()
    sample: Node | None = None
    table: str = ""  # the temporary table that stands for it

    @property
    def alias(self) -> str:
        """The name of the table in its own query level."""
        name: str = self.body.get("alias", {}).get("aliasname", self.body["relname"])
        return name

    @property
    def target(self) -> Target:
        """The shards whose rows may matter."""
        place = self.sources[0].place
        if place is not Place.SHARDED:
            return HomeShard() if place is Place.HOME else AnyShard()
        terms: dict[Any, None] = {}
        for source in self.sources:
            known = None if source.key is None else source.facts.terms(source.key)
            if known is None:
                return EveryShard()
            terms.update(dict.fromkeys(known))
        return ByKeys(self.sources[0].key_type, tuple(terms))


def plan(context: Context, scope: Scope, reason: str) -> Gather:
    """Plan a SELECT over the loaded rows of all its tables; ``reason`` as in the plan."""
    _check(context)
    found = _occurrences(context, scope)
    wanted = Wanted(context.parsed.nodes, {item.alias for item in found})
    _check_rows(context, found, wanted.rows & {item.alias for item in found})
    pushed = Pushed(context, {id(item.body): item.relation for item in found})
    for item in found:
        item.columns = wanted.columns(item.body, item.relation)
        item.conditions = pushed.conditions(item.body)
    _samples(context, found)
    loads = _loads(found, wanted)
    if sum(len(load.columns) for load in loads) > MAX_COLUMNS:
        raise context.refuse("too-complex")
    numbers = {number for item in found for condition in item.conditions for number in parameters_of(condition)}
    return Gather(tuple(loads), _text(context, found), reason, tuple(sorted(numbers)))


def _check(context: Context) -> None:
    """Refuse what would mean something else over copies of rows."""
    if locks(context):
        node = next(body for kind, body in context.parsed.nodes if kind == "LockingClause")
        raise context.refuse("gather-lock", node.get("location"))
    check_no_system_columns(context)
    placed(context, EveryShard(), many_rows=True)
    if context.reader.types_hidden:
        raise context.refuse("gather-path")
    for kind, body in context.parsed.nodes:
        called = strings(body.get("funcname"))[-1] if kind == "FuncCall" else ""
        if of_one_link(called, body.get("args", ())):
            detail = f"{called}() would tell of the link on which rows are combined."
            raise context.refuse("function-home", body.get("location"), detail=detail)
    effect = context.whole_effect
    if effect.touches or effect.kind is not EffectKind.CLOSED:
        # It would read with the snapshot of the scratch link, which does not see what this transaction has written.
        for kind, body in context.parsed.nodes:
            does = context.call_effect(body) if kind == "FuncCall" else None
            if does is not None and (does.touches or does.kind is not EffectKind.CLOSED):
                name = ".".join(strings(body.get("funcname")))
                raise context.refuse("gather-function", body.get("location"), name=name)
        raise context.refuse("gather-function", name="behind an operator or cast")


def _check_rows(context: Context, found: list[Occurrence], rows: frozenset[str]) -> None:
    """Refuse what tells the type of a row: that of the copy is another one, which is alike in all else."""
    columns = {(item.alias, column.name) for item in found for column in item.relation.columns}
    for kind, body in context.parsed.nodes if rows else ():
        if kind != "FuncCall":
            continue
        name = strings(body.get("funcname"))
        given = {strings(node["fields"]) for of, node in walk(body.get("args", ())) if of == "ColumnRef"}
        shown = name[-1] == "pg_typeof" and not given <= columns
        if shown or (rows & {fields[0] for fields in given} and context.call_effect(body).user_defined):
            raise context.refuse("gather-function", body.get("location"), name=".".join(name))


def _occurrences(context: Context, scope: Scope) -> list[Occurrence]:
    sources: dict[int, list[Source]] = {}
    for source in scope.sources:
        if source.place in {Place.SHARDED, Place.REFERENCE, Place.HOME} and source.location is not None:
            sources.setdefault(source.location, []).append(source)
    found = []
    for kind, body in context.parsed.nodes:
        known = sources.get(body.get("location", -1)) if kind == "RangeVar" else None
        if known is None:
            continue
        relation = known[0].relation
        if relation is None or not relation.columns:
            raise context.refuse("gather-relation", body.get("location"), table=".".join(name_parts(body)))
        found.append(Occurrence(body, relation, known))
    return found


def _samples(context: Context, found: list[Occurrence]) -> None:
    """Note TABLESAMPLE: rows are sampled where they are."""
    by_body = {id(item.body): item for item in found}
    for kind, body in context.parsed.nodes:
        if kind != "RangeTableSample":
            continue
        item = by_body.get(id(body["relation"].get("RangeVar")))
        if item is None or strings(body["method"])[-1] not in _SAMPLES or _sample_text(body) is None:
            raise context.refuse("sample", body.get("location"))
        if any(parameters_of(node) for node in (*body.get("args", ()), body.get("repeatable", {}))):
            raise context.refuse("sample", body.get("location"))
        item.sample = body


def _sample_text(body: Node) -> str | None:
    parts = [expression(node) for node in body.get("args", ())]
    repeatable = expression(body["repeatable"]) if "repeatable" in body else ""
    if None in parts or repeatable is None:
        return None
    seed = f" REPEATABLE ({repeatable})" if repeatable else ""
    return f" TABLESAMPLE {quoted(*strings(body['method']))} ({', '.join(part or '' for part in parts)}){seed}"


# --- loads -----------------------------------------------------------------------------------------------------------


def _loads(found: list[Occurrence], wanted: Wanted) -> list[Load]:
    """Make one load for each table that is needed whole, and one for each place where a part of it is enough."""
    whole = {
        _identity(item)
        for item in found
        if not item.conditions and item.sample is None and not isinstance(item.target, ByKeys)
    }
    groups: dict[object, tuple[bool, list[Occurrence]]] = {}
    for item in found:
        shared = item.sample is None and _identity(item) in whole
        key = (_identity(item),) if shared else _part(item)
        groups.setdefault(key, (shared, []))[1].append(item)
    loads = []
    for number, (shared, members) in enumerate(groups.values(), 1):
        for item in members:
            item.table = f"{_TEMPORARY}{number}"
        loads.append(_load(members, wanted, whole=shared))
    return loads


def _part(item: Occurrence) -> object:
    """Return what tells a part of a table from others: an expression that is written twice reads the same rows.

    (Postgres takes the two for one, in GROUP BY and the select list, only if they name the same table.)
    """
    if item.sample is not None:
        return id(item)
    return _identity(item), item.alias, repr(without_places(list(item.conditions))), item.target


def _identity(item: Occurrence) -> tuple[TableName, bool]:
    return item.relation.name, bool(item.body.get("inh"))


def _load(members: list[Occurrence], wanted: Wanted, *, whole: bool) -> Load:
    item = members[0]
    relation = item.relation
    names = {name for member in members for name in member.columns}
    columns = [column for column in relation.columns if column.name in names]
    key = relation.primary_key
    needed = bool(key) and names.issuperset(key) and wanted.groups_by(key)
    unique = not relation.children or relation.partition
    name = quoted(relation.name.schema, relation.name.name)
    source = f"{'' if item.body.get('inh') else 'ONLY '}{name} AS {quoted(item.alias)}"
    target = item.target
    if whole:
        target = next(member.target for member in members if not isinstance(member.target, ByKeys))
    else:
        if item.sample is not None:
            source += _sample_text(item.sample) or ""
        texts = [expression(condition) for condition in item.conditions]
        if texts:
            source += " WHERE " + " AND ".join(text for text in texts if text)
    return Load(
        target,
        item.table,
        tuple(column.name for column in columns),
        tuple(column.definition or quoted(column.type_schema, column.type_name) for column in columns),
        tuple(column.bare_type or quoted(column.type_schema, column.type_name) for column in columns),
        quoted(item.alias),
        source,
        key if needed and unique else (),
    )


# --- the text over the loads -----------------------------------------------------------------------------------------


def _text(context: Context, found: list[Occurrence]) -> str:
    """Return the statement over the temporary tables."""
    parsed = context.parsed
    edits: list[Edit] = []
    replaced: dict[int, Any] = {}
    for item in found:
        edits += _table_edits(context, item)
        replaced[id(item.body)] = {
            **{key: value for key, value in item.body.items() if key not in {"catalogname", "schemaname"}},
            "schemaname": "pg_temp",
            "relname": item.table,
            "alias": item.body.get("alias", {"aliasname": item.alias}),
        }
    for kind, body in parsed.nodes:
        if kind == "RangeTableSample":
            edits.append(_sample_edit(context, body))
            replaced[id(body)] = _UNSAMPLED
        elif kind == "ColumnRef" and len(body["fields"]) > 2:  # noqa: PLR2004 - schema, table and column
            edit, node = _shortened(context, body)
            edits.append(edit)
            replaced[id(body)] = node
    text = apply(parsed.text[: parsed.end], edits)
    try:
        again = parse(text)
    except SyntaxFailure:
        again = ()
    if len(again) != 1 or again[0].kind != parsed.kind or not same(again[0].body, _copy(parsed.body, replaced)):
        raise context.refuse("rewrite")
    return text


_UNSAMPLED: Final = object()


def _copy(value: Any, replaced: dict[int, Any]) -> Any:
    """Return a copy of a tree with some nodes replaced; a sample becomes its relation."""
    if isinstance(value, list):
        return [_copy(item, replaced) for item in value]
    if not isinstance(value, dict):
        return value
    sample = value.get("RangeTableSample")
    if sample is not None and replaced.get(id(sample)) is _UNSAMPLED:
        return _copy(sample["relation"], replaced)
    if id(value) in replaced:
        return replaced[id(value)]
    return {key: _copy(item, replaced) for key, item in value.items()}


def _table_edits(context: Context, item: Occurrence) -> list[Edit]:
    parsed = context.parsed
    tokens = parsed.tokens
    first = parsed.token_at(parsed.place(item.body["location"]))
    last = first + 2 * len(name_parts(item.body)) - 2
    if last >= len(tokens):
        raise context.refuse("rewrite")
    start, end = tokens[first].start, tokens[last].end
    name = f"pg_temp.{item.table}"
    if "alias" in item.body:
        return [Edit(start, end, name)]
    alias = f" AS {quoted(item.alias)}"
    before = first - 1
    if tokens[before].name == "ONLY" and tokens[before - 1].name == "TABLE":
        before -= 1
    if tokens[before].name == "TABLE":  # TABLE t, which takes no alias
        return [Edit(tokens[before].start, tokens[before].end, "SELECT * FROM"), Edit(start, end, name + alias)]
    behind = last + 1
    if behind < len(tokens) and tokens[behind].name == "ASCII_42":  # t *
        return [Edit(start, end, name), Edit(tokens[behind].end, tokens[behind].end, alias)]
    if tokens[before].name == "ASCII_40" and tokens[before - 1].name == "ONLY":  # ONLY (t)
        return [Edit(start, end, name), Edit(tokens[behind].end, tokens[behind].end, alias)]
    return [Edit(start, end, name + alias)]


def _sample_edit(context: Context, body: Node) -> Edit:
    """Cut TABLESAMPLE; its place is that of the method's name."""
    parsed = context.parsed
    tokens = parsed.tokens
    method = parsed.token_at(parsed.place(body["location"]))
    end = group_end(tokens, method + 2 * len(body["method"]) - 1)
    if end is not None and end + 1 < len(tokens) and tokens[end + 1].name == "REPEATABLE":
        end = group_end(tokens, end + 2)
    if end is None:
        raise context.refuse("rewrite")
    return Edit(tokens[method - 1].start, tokens[end].end, "")


def _shortened(context: Context, body: Node) -> tuple[Edit, Node]:
    """``schema.table.column`` names what an alias hides now: ``table.column`` is the same."""
    parsed = context.parsed
    tokens = parsed.tokens
    fields = body["fields"]
    first = parsed.token_at(parsed.place(body["location"]))
    kept = first + 2 * (len(fields) - 2)
    if kept >= len(tokens):
        raise context.refuse("rewrite")
    return Edit(tokens[first].start, tokens[kept].start, ""), {**body, "fields": fields[-2:]}
