"""FOR UPDATE and FOR NO KEY UPDATE of reference tables: the same rows are locked on every copy, home's first.

Each pair of row locks that exclude each other has one of these two in it. As they lock every copy, a FOR SHARE or a
foreign key's check meets them on whichever copy it looks at; two of them meet at home, before either has another copy.
Decides which rows these are: those of tables that stand in FROM themselves and have a primary key, which the statement
returns as hidden columns. Others are refused: home's copy alone would be locked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from router.cluster import Reference
from router.plan import HomeShard, Single
from router.plan_steps import CopyLock, LockCopies
from router.planner.clauses import Clauses, apply, verified
from router.planner.moving import quoted, sql_type
from router.planner.names import Place
from router.planner.placing import EXCLUSIVE
from router.tree import unwrap, walk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from router.planner.context import Context
    from router.planner.names import Source
    from router.planner.scope import Scope
    from router.tree import Node

_STRONGEST = "LCS_FORUPDATE"
_SKIP, _NOWAIT = "LockWaitSkip", "LockWaitError"


def plan(context: Context, scope: Scope) -> LockCopies | None:
    """Plan a SELECT that the home shard answers; None when it locks no row of a reference table exclusively."""
    node = context.body
    if not context.many or "LockingClause" not in context.parsed.kinds:
        return None
    locked = list(_locked(context, scope))
    if not locked:
        return None
    own = [clause["LockingClause"] for clause in node.get("lockingClause", ())]
    direct = [alias for item in node.get("fromClause", ()) for alias in _direct(item)]
    clauses = Clauses.of(context.parsed, node) if "larg" not in node else None
    inside = sum(kind == "LockingClause" for kind, _ in context.parsed.nodes) > len(own)
    if clauses is None or inside or any(direct.count(source.alias) != 1 for source in locked):
        raise _refused(context, locked[0])
    tables, texts = [], []
    for source in locked:
        table, keys = _table(context, source, own)
        tables.append(table)
        texts += keys
    text = apply(context.parsed.text[: context.parsed.end], [clauses.append_targets(texts)])
    if not verified(context.parsed, text, len(texts)):
        raise _refused(context, locked[0])
    home = context.rewritten(text).statement(Single(HomeShard(), writes=True), "SELECT", returns_rows=True)
    skips = any(clause.get("waitPolicy") == _SKIP for clause in own)
    return LockCopies(home, tuple(tables), skips)


def _locked(context: Context, scope: Scope) -> Iterator[Source]:
    """Yield the reference tables whose rows are locked exclusively: not those of WITH, nor of expressions."""
    outside = {key: value for key, value in context.body.items() if key not in {"fromClause", "lockingClause"}}
    elsewhere = {body.get("location") for kind, body in walk(outside) if kind == "RangeVar"}
    for source in scope.sources:
        if source.location in elsewhere or not (source.place is Place.REFERENCE or _is_view_of_copies(context, source)):
            continue
        for kind, body in context.parsed.nodes:
            if kind == "LockingClause" and body.get("strength") in EXCLUSIVE and _means(body, source):
                yield source
                break


def _is_view_of_copies(context: Context, source: Source) -> bool:
    """Whether locking rows of a view locks those of a reference table."""
    relation, catalog = source.relation, context.catalog
    if relation is None or not relation.is_view:
        return False
    reach = catalog.closure.follow(catalog.closure.direct(relation, write=False))
    tables = (catalog.relation(name.schema, name.name) for name in reach.tables)
    return any(table is not None and isinstance(catalog.effective_placement(table), Reference) for table in tables)


def _means(clause: Node, source: Source) -> bool:
    named = {item["RangeVar"]["relname"] for item in clause.get("lockedRels", ())}
    return not named or source.alias in named


def _direct(item: Node) -> list[str]:
    """Return what the tables are called that stand in FROM themselves."""
    kind, body = unwrap(item)
    if kind == "JoinExpr":
        return _direct(body["larg"]) + _direct(body["rarg"])
    return [body.get("alias", {}).get("aliasname", body["relname"])] if kind == "RangeVar" else []


def _table(context: Context, source: Source, clauses: list[Node]) -> tuple[CopyLock, list[str]]:
    """Return how rows of a table are locked on a copy, and the columns that tell which."""
    relation = source.relation
    if relation is None or not relation.is_table or not relation.primary_key:
        raise _refused(context, source)
    keys = [column for name in relation.primary_key if (column := relation.column(name)) is not None]
    mine = [clause for clause in clauses if _means(clause, source)]
    strength = "UPDATE" if any(clause.get("strength") == _STRONGEST for clause in mine) else "NO KEY UPDATE"
    policies = {clause.get("waitPolicy") for clause in mine}
    policy = " NOWAIT" if _NOWAIT in policies else " SKIP LOCKED" if _SKIP in policies else ""
    names = [f"k{number}" for number in range(len(keys))]
    same = " AND ".join(
        f"pgchorus_t.{quoted(column.name)} {'OPERATOR(pg_catalog.=)' if column.type_schema == 'pg_catalog' else '='}"
        f" pgchorus_v.{name}"
        for column, name in zip(keys, names, strict=True)
    )
    table = f"{quoted(relation.name.schema)}.{quoted(relation.name.name)}"
    after = f") AS pgchorus_v (n, {', '.join(names)}) JOIN {table} AS pgchorus_t ON {same}"
    after += f" ORDER BY pgchorus_v.n FOR {strength} OF pgchorus_t{policy}"
    lock = CopyLock(tuple(sql_type(column) for column in keys), "SELECT pgchorus_v.n FROM (", after)
    return lock, [f"{quoted(source.alias)}.{quoted(column.name)}" for column in keys]


def _refused(context: Context, source: Source) -> Exception:
    name = source.relation.name if source.relation is not None else ""
    return context.refuse("reference-lock", source.location, table=name)
