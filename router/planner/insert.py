"""INSERT: one shard by the key, rows split by their keys, rows selected on their own shard, or every copy.

Decides where rows go. Rows are cut out of the original text at token positions, never printed anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from router.cluster import Reference, Sharded
from router.effect import Runs
from router.errors import Refused
from router.plan import EveryShard, HomeShard, Plan, Scatter, Single, SplitInsert, Statement, SumTags
from router.planner import dml, moving, reference
from router.planner.placing import check_reads, placed
from router.planner.scope import Scope
from router.planner.spread import Part, Spread, check_no_home, one_shard, sharded, target_of
from router.rewrite import cut_values
from router.tree import items

if TYPE_CHECKING:
    from router.planner.context import Context
    from router.planner.dml import Written
    from router.relation import Index, Relation
    from router.tree import Node


_WOULD_MOVE: Final = "insert-select"


def plan(context: Context) -> Statement:
    """Plan an INSERT; one whose rows one statement cannot put where they belong is done in two steps."""
    try:
        return _in_one_step(context)
    except Refused as refused:
        if context.stores_number(context.body).runs is Runs.NOWHERE:
            raise  # as rows they would be names
        try:
            moved = moving.insert_select(context)
        except Refused as moving_refused:
            raise (moving_refused if refused.refusal == _WOULD_MOVE else refused) from None
        if moved is None:
            raise
        return moved


def _in_one_step(context: Context) -> Statement:
    scope = Scope(context)
    body = context.body
    written = dml.build(scope, "InsertStmt", body, None)
    modifying = dml.modifying_levels(scope)
    scope.check_complete()
    check_reads(context, scope)
    flags = context.flags
    route = _route(context, scope, written, modifying=modifying)
    return context.statement(route, "INSERT", returns_rows="returningClause" in body, **flags)


def _route(context: Context, scope: Scope, written: Written, *, modifying: bool) -> Plan:
    placement = context.placement(written.relation)
    if isinstance(placement, Sharded):
        _check_conflict(context, written)
        return _sharded(context, scope, written, modifying=modifying)
    if isinstance(placement, Reference):
        if modifying:
            raise context.refuse("modifying-cte", written.source.location)
        return reference.plan(context, scope, written) if context.many else Single(HomeShard(), writes=True)
    if sharded(scope) and not modifying:
        raise context.refuse("home-and-sharded", written.source.location, table=_name(written))
    target = one_shard(scope)
    if target is None:
        raise context.refuse("modifying-cte", written.source.location)
    return Single(HomeShard(), writes=True)


def _name(written: Written) -> object:
    return written.relation.name if written.relation is not None else "the target"


def _sharded(context: Context, scope: Scope, written: Written, *, modifying: bool) -> Plan:
    lists = context.body.get("selectStmt", {}).get("SelectStmt", {}).get("valuesLists", ())
    if len({len(items(row)) for row in lists}) > 1:
        return Single(HomeShard(), writes=True)  # which says what is wrong; parted by their keys they might be equal
    if written.keys and any(term is None for term in written.keys):
        raise context.refuse("insert-key", written.source.location, key=written.source.key and written.source.key.name)
    target = one_shard(scope) if len(set(written.keys)) <= 1 else None
    if target is not None:
        return Single(placed(context, target), writes=True)
    if modifying:
        raise context.refuse("modifying-cte", written.source.location)
    if written.select is not None:
        return _push_down(context, scope, written)
    if len(set(written.keys)) > 1:
        return _split(context, scope, written)
    check_no_home(scope)
    raise context.refuse("insert-mixed", written.source.location)


def _split(context: Context, scope: Scope, written: Written) -> Plan:
    placed(context, EveryShard())
    if len(scope.sources) > 1 or "withClause" in context.body:
        raise context.refuse("insert-mixed", written.source.location)
    for nested in written.level.nested:
        Spread(scope).nested(nested, Part())
    cut = cut_values(context.parsed)
    if cut is None or len(cut.rows) != len(written.keys):
        raise context.refuse("insert-mixed", written.source.location)
    keys = tuple(term for term in written.keys if term is not None)
    return SplitInsert(written.source.key_type, cut.head, cut.rows, cut.tail, keys)


def _push_down(context: Context, scope: Scope, written: Written) -> Plan:
    """Each shard selects what it inserts: the key comes from the part's own key."""
    check_no_home(scope)
    placed(context, EveryShard())
    source, select = written.source, written.select
    if select is None or source.key is None or select.arms:
        raise context.refuse("insert-select", source.location)
    node = select.node
    if any(field in node for field in ("limitCount", "limitOffset", "distinctClause", "groupClause", "havingClause",
                                       "withClause", "lockingClause")):  # fmt: skip
        raise context.refuse("insert-select", source.location)
    effect = context.effect(node.get("targetList"))
    if effect.aggregate or effect.window or effect.volatile:
        raise context.refuse("insert-select", source.location)
    spread = Spread(scope)
    part = spread.level(select)
    # A key on the nullable side of an outer join is NULL in rows of every shard, and NULL has a shard of its own.
    keys = [key for key in part.keys if scope.sources[key.source].facts is select.facts]
    if not any(source.facts.same(source.key, key) for key in keys):
        raise context.refuse("insert-select", source.location)
    for nested in written.level.nested:  # of RETURNING and ON CONFLICT: they look at the row that is inserted
        if nested is not select:
            spread.nested(nested, Part((source.key,)))
    return Scatter(target_of(select, part, scope), SumTags(), writes=True)


def _contains(index: Index, key: str) -> bool:
    """Whether a unique index tells the key's values apart as the hash does."""
    return any(c.column == key and c.default_opclass and c.own_collation and c.equality for c in index.columns)


# --- ON CONFLICT -----------------------------------------------------------------------------------------------------


def _check_conflict(context: Context, written: Written) -> None:
    """An arbiter must contain the key, or rows of other shards could conflict unseen; DO UPDATE keeps the key."""
    clause: Node | None = context.body.get("onConflictClause")
    key, relation = written.source.key, written.relation
    if clause is None or key is None or relation is None or not context.many:
        return
    check_arbiter(context, relation, key.name)
    dml.check_key_kept(context, written, items(clause.get("targetList")), written.level, excluded=True)


def check_arbiter(context: Context, relation: Relation, key: str) -> None:
    """Refuse an ON CONFLICT whose arbiter does not contain the sharding key."""
    clause: Node | None = context.body.get("onConflictClause")
    if clause is None:
        return
    at = clause.get("location")
    infer = clause.get("infer")
    if infer is None:
        for index in relation.unique:
            if not _contains(index, key):
                raise context.refuse("on-conflict-any", at, key=key)
    elif "conname" in infer:
        named = next((index for index in relation.unique if index.name == infer["conname"]), None)
        if named is not None and not _contains(named, key):
            raise context.refuse("on-conflict", infer.get("location"), key=key)
    else:
        elements = [element["IndexElem"] for element in infer.get("indexElems", ())]
        if not any(e.get("name") == key and "collation" not in e and "opclass" not in e for e in elements):
            raise context.refuse("on-conflict", infer.get("location"), key=key)
