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
# Where a node has a name that may be plain, and how it is written with its schema.
_NAMED: Final = {"FuncCall": "funcname", "A_Expr": "name"}
_IN_CATALOG: Final = {"FuncCall": "pg_catalog.{}", "A_Expr": "OPERATOR(pg_catalog.{})"}


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
    definition = _definition(context, body, relation)
    if definition is None:
        return None
    first = parsed.token_at(parsed.place(body["location"]))
    last = first + 2 * len(name_parts(body)) - 2
    if last >= len(tokens) or tokens[first - 1].name in {"ONLY", "TABLE"}:
        return None
    alias = "" if "alias" in body else f" AS {quoted(body['relname'])}"
    return Edit(tokens[first].start, tokens[last].end, f"({definition}){alias}")


def _definition(context: Context, body: Node, relation: Relation) -> str | None:
    """Return what stands for the view in the client's text; None: nothing that means the same there."""
    kinds = context.parsed.kinds
    if "LockingClause" in kinds or "RangeTableSample" in kinds or not body.get("inh"):
        return None
    if any(
        (kind == "CommonTableExpr" and item.get("ctename") == body["relname"])
        or (kind == "ColumnRef" and len(item["fields"]) > _PAIR)
        for kind, item in context.parsed.nodes
    ):
        return None
    reach = context.catalog.closure.follow(context.catalog.closure.direct(relation, write=False))
    tables = (context.catalog.relation(name.schema, name.name) for name in reach.tables)
    if reach.unknown or any(table is not None and table.row_security for table in tables):
        return None
    return _said_plainly(context, relation.query)


def _said_plainly(context: Context, query: str) -> str | None:
    """Return a definition so that its names mean the same under the client's path; None where that cannot be said.

    It was printed for pg_catalog alone, so a plain name is pg_catalog's; where the client's path shows another function
    or operator of that name as well (of citext, pg_trgm, intarray), its schema is written before it. Everything in a
    printed definition has its parentheses, so OPERATOR() binds as the plain symbol does.
    """
    if context.reader.types_hidden:
        return None
    try:
        (parsed,) = parse(query)
    except (SyntaxFailure, ValueError):
        return None
    edits = []
    for kind, body in walk({parsed.kind: parsed.body}):
        if kind == "LockingClause":
            return None
        names = strings(body.get(_NAMED[kind])) if kind in _NAMED else ()
        if len(names) == 1 and _has_others(context, kind, body, names[0]):
            token = parsed.tokens[parsed.token_at(parsed.place(body["location"]))]
            written = parsed.text[token.start : token.end]
            if written.strip('"') != names[0]:
                return None  # NULLIF, IS DISTINCT FROM: no symbol stands there
            edits.append(Edit(token.start, token.end, _IN_CATALOG[kind].format(written)))
    if whole_rows_renamed(parsed):
        return None
    return apply(parsed.text, edits).strip().removesuffix(";")


def _has_others(context: Context, kind: str, body: Node, name: str) -> bool:
    """Whether the client's path shows a user's function or operator of the name that a definition has plainly."""
    if kind == "FuncCall":
        return context.call_effect(body).user_defined
    return context.catalog.operator_shadowed(name, context.search_path)


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
