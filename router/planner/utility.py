"""DECLARE, LOCK, TRUNCATE, VACUUM, CALL: statements about other statements or about whole tables.

Decides their shards: those that have the tables. What cannot be seen through is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from router.cluster import Home
from router.effect import Runs
from router.plan import (
    Ddl,
    DeclareSpread,
    EveryShard,
    HomeShard,
    Same,
    Scatter,
    ShardByShard,
    Single,
    Statement,
    Target,
)
from router.planner import copies, mixed, select
from router.planner.context import Context
from router.planner.passthrough import holds
from router.statement import parse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from router.cluster import TableName
    from router.tree import Node

_BINARY, _SCROLL, _NO_SCROLL = 0x0001, 0x0002, 0x0004  # options of DeclareCursorStmt


def declare(context: Context) -> Statement:
    """DECLARE CURSOR: what one shard runs is its own; over several shards cursors go forward and hold nothing."""
    body = context.body
    text, found = _query_of_cursor(context)
    held = holds(body)
    if not isinstance(found.plan, Single):
        return _declare_spread(context, text, found, held)
    return context.statement(
        found.plan,
        "DECLARE CURSOR",
        declares=body.get("portalname", ""),
        pins=held or found.pins,
        must_commit=held or found.must_commit,
        dirties=found.dirties,
    )


def _query_of_cursor(context: Context) -> tuple[str, Statement]:
    """Return the query's own text, and its plan: what is spliced must not have DECLARE in it."""
    parsed = context.parsed
    names = [token.name for token in parsed.tokens]
    text = parsed.text[parsed.tokens[names.index("FOR", names.index("CURSOR"))].end : parsed.end]
    (query,) = parse(text)
    inner = Context(context.database, context.catalog, query, context.search_path, tuple(context.reader.parameter_oids))
    return text, select.plan(inner)


def _declare_spread(context: Context, text: str, found: Statement, held: str) -> Statement:
    body = context.body
    if held:
        raise context.refuse("declare-hold")
    options = body.get("options", 0)
    if options & _SCROLL:
        raise context.refuse("declare-scroll")
    if "LockingClause" in context.parsed.kinds:
        raise context.refuse("declare-lock")
    if not isinstance(found.plan, Scatter) or found.pins or found.must_commit:
        raise context.refuse("declare")
    plan = DeclareSpread(
        body.get("portalname", ""),
        found.plan,
        text,
        binary=bool(options & _BINARY),
        no_scroll=bool(options & _NO_SCROLL),
    )
    return context.statement(plan, "DECLARE CURSOR", dirties=found.dirties)


# --- tables as a whole -----------------------------------------------------------------------------------------------


def shards_of(context: Context, range_vars: Sequence[Node]) -> list[Target]:
    """Return the shards that have each of these tables."""
    targets: list[Target] = []
    for body in range_vars:
        placement = context.placement(context.relation(body), body.get("location"))
        targets.append(HomeShard() if isinstance(placement, Home) else EveryShard())
    return targets


def lock(context: Context) -> Statement:
    """LOCK TABLE on every shard that has it, home first."""
    targets = shards_of(context, [item["RangeVar"] for item in context.body["relations"]])
    if EveryShard() not in targets:
        return context.statement(Single(HomeShard(), writes=False), "LOCK TABLE")
    elsewhere = mixed.tables(context, "relations", targets) if mixed.is_mixed(targets) else None
    plan = Scatter(EveryShard(), Same(home_first=True), writes=False, elsewhere=elsewhere)
    return context.statement(plan, "LOCK TABLE")


def truncate(context: Context) -> Statement:
    """TRUNCATE on every shard that has the tables."""
    tables = [item["RangeVar"] for item in context.body["relations"]]
    targets = shards_of(context, tables)
    for body in tables:
        context.check_access(context.relation(body), write=True, defaults=(), at=body.get("location"))
    if EveryShard() not in targets:
        return context.statement(Single(HomeShard(), writes=True), "TRUNCATE TABLE")
    after = copies.spent_sequences(context, _emptied(context, tables)) if context.body.get("restart_seqs") else ()
    texts: mixed.Texts = ()
    if mixed.is_mixed(targets):
        texts = mixed.texts(context, mixed.tables(context, "relations", targets))
    return context.statement(Ddl(EveryShard(), after=after, texts=texts, catalog_changes=False), "TRUNCATE TABLE")


def _emptied(context: Context, range_vars: Sequence[Node]) -> list[TableName]:
    """Return the placed tables that a TRUNCATE empties: by name, and by CASCADE because they refer to one of these."""
    pending = [found.name for body in range_vars if (found := context.relation(body)) is not None]
    seen: list[TableName] = []
    while pending:
        name = pending.pop()
        relation = context.catalog.relation(name.schema, name.name)
        if name in seen or relation is None:
            continue
        seen.append(name)
        pending += relation.children
        if context.body.get("behavior") == "DROP_CASCADE":
            pending += [table for table, _ in relation.referenced_by]
    return [name for name in seen if not isinstance(context.catalog.table_placement(name), Home)]


def vacuum(context: Context) -> Statement:
    """VACUUM runs shard by shard, outside of transactions; ANALYZE on all in one."""
    body = context.body
    tables = [
        item["VacuumRelation"]["relation"] for item in body.get("rels", ()) if "relation" in item["VacuumRelation"]
    ]
    targets = shards_of(context, tables)
    target = EveryShard() if EveryShard() in targets or not targets else HomeShard()
    texts = mixed.texts(context, mixed.vacuumed(context, targets)) if mixed.is_mixed(targets) else ()
    if body.get("is_vacuumcmd"):
        return context.statement(ShardByShard(target, texts=texts), "VACUUM", transaction_block=False)
    if not tables:
        return context.statement(ShardByShard(target), "ANALYZE")
    return context.statement(Ddl(target, texts=texts, catalog_changes=False), "ANALYZE")


def checkpoint(context: Context) -> Statement:
    """CHECKPOINT on every shard."""
    return context.statement(ShardByShard(EveryShard()), "CHECKPOINT")


def load(context: Context) -> Statement:
    """LOAD changes one process: no link of the pool would know."""
    raise context.refuse("unknown-statement", name="LOAD")


def call(context: Context) -> Statement:
    """CALL of a procedure that touches the home shard's tables only, or none."""
    effect = context.whole_effect
    if effect.runs is Runs.LOCAL:
        raise context.refuse("function-home", detail=effect.reason)
    return context.statement(Single(HomeShard(), writes=True), "CALL", returns_rows=True, **context.flags)
