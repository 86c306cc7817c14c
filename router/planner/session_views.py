"""Views of what a session has: on a shard they show what its link has, which is the proxy's and not the client's.

Decides which names in a statement mean such a view, and puts rows of the session's own in their places: a function over
one more parameter, whose rows have the view's own type. So everything around it (aliases, whole rows, columns) means
what it meant. Only what a client's own statement names is seen: views over these, and functions, show the link's.
What the rows are is the session's business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from router.cluster import TableName
from router.plan_steps import Filled, SessionRows
from router.tree import name_parts

if TYPE_CHECKING:
    from collections.abc import Callable

    from router.plan import Statement
    from router.planner.context import Context
    from router.tree import Node

PREPARED: Final = "pg_prepared_statements"
CURSORS: Final = "pg_cursors"
_TABLE: Final = "SELECT * FROM"  # what the command TABLE means
_VIEWS: Final = (PREPARED, CURSORS)
_READING: Final = frozenset({"SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"})
_COPYING: Final = frozenset({"CopyStmt", "CreateTableAsStmt", "DeclareCursorStmt"})
_TARGETS: Final = frozenset({"InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"})


def planned(context: Context, planner: Callable[[Context], Statement]) -> Statement:
    """Plan a statement, with the session's own rows in the places of such views."""
    text = context.parsed.text.lower()
    if not any(view in text for view in _VIEWS):
        return planner(context)
    found = _named(context)
    if not found or context.parsed.kind not in _READING | _COPYING:
        return planner(context)
    if context.parsed.kind in _COPYING or "IntoClause" in context.parsed.kinds:
        raise context.refuse("session-view", found[0][1].get("location"), name=found[0][0])
    views = tuple(dict.fromkeys(view for view, _ in found))
    first = max(context.parsed.parameters, len(context.reader.parameter_oids)) + 1
    rewritten = _rewritten(context, found, {view: first + number for number, view in enumerate(views)})
    inner = planner(context.rewritten(rewritten))
    values: tuple[SessionRows, ...] = tuple(SessionRows(view) for view in views)
    if isinstance(inner.plan, Filled):
        return context.like(inner, Filled(inner.plan.inner, (values, *inner.plan.values)))
    return context.like(inner, Filled(inner, (values,)))


def _named(context: Context) -> list[tuple[str, Node]]:
    """Return what means such a view where it can be read: the view, and the RangeVar."""
    written = {id(body["relation"]) for kind, body in context.parsed.nodes if kind in _TARGETS and "relation" in body}
    ctes = {body["ctename"] for kind, body in context.parsed.nodes if kind == "CommonTableExpr"}
    found = []
    for kind, body in context.parsed.nodes:
        if kind != "RangeVar" or body.get("relname") not in _VIEWS or id(body) in written:
            continue
        view = body["relname"]
        if view == CURSORS and not context.many:
            continue  # the only shard has all cursors, under the client's own names
        relation = context.catalog.resolve(name_parts(body), context.search_path)
        if relation is None or relation.name != TableName("pg_catalog", view):
            continue
        if "schemaname" not in body and view in ctes:
            continue
        found.append((view, body))
    return found


def _rewritten(context: Context, found: list[tuple[str, Node]], numbers: dict[str, int]) -> str:
    parsed = context.parsed
    tokens = parsed.tokens
    text = parsed.text[: parsed.end]
    for view, body in sorted(found, key=lambda one: one[1].get("location", 0), reverse=True):
        at = parsed.token_at(parsed.place(body.get("location", 0)))
        last = at + 2 * len(name_parts(body)) - 2
        star = last + 1 < len(tokens) and tokens[last + 1].name == "ASCII_42"
        if not body.get("inh") or star or "LockingClause" in parsed.kinds or _qualifies(context, body):
            raise context.refuse("session-view", body.get("location"), name=view)
        new = (
            f"pg_catalog.json_populate_recordset(NULL::pg_catalog.{view}, ${numbers[view]}::pg_catalog.json)"
            f"{'' if 'alias' in body else f' AS {view}'}"
        )
        start = tokens[at].start
        if at and tokens[at - 1].name == "TABLE":
            start, new = tokens[at - 1].start, f"{_TABLE} {new}"
        text = text[:start] + new + text[tokens[last].end :]
    return text


def _qualifies(context: Context, body: Node) -> bool:
    """Whether columns are named with the view's schema, which a function has not."""
    if "alias" in body:
        return False
    return any(
        kind == "ColumnRef"
        and [next(iter(part.values())).get("sval") for part in node.get("fields", ())][:2]
        == ["pg_catalog", body["relname"]]
        for kind, node in context.parsed.nodes
    )
