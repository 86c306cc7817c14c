"""Views over sharded tables: expanded in place, as Postgres itself does.

Decides which views of a statement are expanded and writes the statement with their definitions in the places of their
names; it is then planned like any other. A shard that runs the original text expands the view itself. Where our own
text runs instead, the role's right to read the view must be asked for: :func:`permission_load` reads no row of it.

Left out are views whose definition would mean something else in the client's text: names that its search path shows
otherwise, row-level security (a view reads with its owner's rights), row locks, and names that the text itself gives to
something else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from router.effect import Unplaceable
from router.errors import SyntaxFailure
from router.plan import AnyShard, Gather, Load, Scatter
from router.planner.clauses import Edit, apply
from router.printer import quoted
from router.statement import parse
from router.tree import name_parts, strings, walk

if TYPE_CHECKING:
    from router.plan import Statement
    from router.planner.context import Context
    from router.relation import Relation
    from router.statement import Parsed
    from router.tree import Node

_DEEPEST: Final = 16  # views of views
_PAIR: Final = 2


def expanded(context: Context) -> tuple[Context, tuple[Relation, ...]] | None:
    """Return the context of the statement with its views expanded, and these views; None when there are none."""
    found: dict[str, Relation] = {}
    current = context
    for _ in range(_DEEPEST):
        views = _views(current)
        if not views:
            return (current, tuple(found.values())) if found else None
        edits = []
        for body, relation in views:
            edit = _edit(current, body, relation)
            if edit is None:
                return None
            edits.append(edit)
            found[str(relation.name)] = relation
        parsed = current.parsed
        text = apply(parsed.text[: parsed.end], edits)
        try:
            current = context.rewritten(text)
        except (SyntaxFailure, ValueError):
            return None
    return None


def _views(context: Context) -> list[tuple[Node, Relation]]:
    found = []
    for kind, body in context.parsed.nodes:
        if kind != "RangeVar":
            continue
        relation = context.catalog.resolve(name_parts(body), context.search_path)
        if relation is None or not relation.is_view or not relation.query:
            continue
        if isinstance(context.catalog.effective_placement(relation), Unplaceable):
            found.append((body, relation))
    return found


def _edit(context: Context, body: Node, relation: Relation) -> Edit | None:
    parsed = context.parsed
    tokens = parsed.tokens
    if not _expandable(context, body, relation):
        return None
    first = parsed.token_at(parsed.place(body["location"]))
    last = first + 2 * len(name_parts(body)) - 2
    if last >= len(tokens) or tokens[first - 1].name in {"ONLY", "TABLE"}:
        return None
    alias = "" if "alias" in body else f" AS {quoted(body['relname'])}"
    definition = relation.query.strip().removesuffix(";")
    return Edit(tokens[first].start, tokens[last].end, f"({definition}){alias}")


def _expandable(context: Context, body: Node, relation: Relation) -> bool:
    kinds = context.parsed.kinds
    if "LockingClause" in kinds or "RangeTableSample" in kinds or not body.get("inh"):
        return False
    if any(
        (kind == "CommonTableExpr" and item.get("ctename") == body["relname"])
        or (kind == "ColumnRef" and len(item["fields"]) > _PAIR)
        for kind, item in context.parsed.nodes
    ):
        return False
    reach = context.catalog.closure.follow(context.catalog.closure.direct(relation, write=False))
    tables = (context.catalog.relation(name.schema, name.name) for name in reach.tables)
    if reach.unknown or any(table is not None and table.row_security for table in tables):
        return False
    return _reads_alike(context, relation.query)


def _reads_alike(context: Context, query: str) -> bool:
    """Whether the names of a definition, printed for pg_catalog alone, mean the same under the client's path."""
    if context.reader.types_hidden:
        return False
    try:
        (parsed,) = parse(query)
    except (SyntaxFailure, ValueError):
        return False
    for kind, body in walk({parsed.kind: parsed.body}):
        if kind == "FuncCall" and len(body.get("funcname", ())) == 1 and context.call_effect(body).user_defined:
            return False
        if kind == "A_Expr":
            names = strings(body.get("name"))
            if len(names) == 1 and context.catalog.operator_shadowed(names[0], context.search_path):
                return False
        if kind == "LockingClause":
            return False
    return not whole_rows_renamed(parsed)


def whole_rows_renamed(parsed: Parsed) -> bool:
    """Whether a printed definition takes the whole row of something whose columns Postgres may have renamed.

    Postgres prints a list of names behind an alias where a join has a name twice, or a column has another name by now;
    it cannot be told from a list that the view's author wrote. A row that is turned into JSON or text shows the names.
    """
    aliases: set[str] = set()
    for kind, body in parsed.nodes:
        alias = body.get("alias") if kind.startswith(("Range", "JoinExpr")) else None
        if alias and (kind == "JoinExpr" or "colnames" in alias):
            aliases.add(alias["aliasname"])
        if kind == "CommonTableExpr" and "aliascolnames" in body:
            aliases.add(body["ctename"])
    for kind, body in parsed.nodes if aliases else ():
        if kind != "ColumnRef":
            continue
        names = strings(body["fields"])
        if names[0] in aliases and (len(names) == 1 or "A_Star" in body["fields"][-1]):
            return True
    return False


def restored(context: Context, planned: Statement, views: tuple[Relation, ...]) -> Statement | None:
    """Return the plan of the expanded text as a plan of the original; None when it may not be run so."""
    plan = planned.plan
    if isinstance(plan, Gather):
        if any(load.columns and not load.types for load in plan.loads):
            return None
        first = len(plan.loads) + 1
        asked = tuple(permission_load(relation, first + number) for number, relation in enumerate(views))
        plan = Gather((*plan.loads, *asked), plan.text, plan.reason, plan.parameters)
    elif isinstance(plan, Scatter) and plan.text is not None:
        return None
    return context.like(planned, plan)


def permission_load(relation: Relation, number: int) -> Load:
    """Return a load of no rows that needs the right to read all columns of a view."""
    alias = quoted(relation.name.name)
    source = f"{quoted(relation.name.schema, relation.name.name)} AS {alias} WHERE false AND ROW({alias}.*) IS NULL"
    return Load(AnyShard(), f"pgchorus_{number}", (), (), (), alias, source)
