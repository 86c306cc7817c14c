"""Statements of the home shard that set off what nobody can see through: dynamic SQL, other languages, DO.

Decides which of them may be tried at home: all that can be seen of them, by their own text and by what the schema sets
off, is exact there. What else they touch is known when they have run: the shard is asked for it then, and a statement
that has touched rows of other shards as well is an error, which takes it back (:mod:`proxy.session.audit`). Functions
with a vouch are not looked at: whoever vouched for them has answered. What may call ``setval`` unseen is not tried:
that stays, whatever becomes of the transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from router import builtins
from router.cluster import Home, Reference
from router.effect import EffectKind, FunctionEffect, Runs, merge
from router.functions import SETVAL, names_of_plpgsql
from router.plan import HomeShard, Single, Statement
from router.printer import literal
from router.tree import name_parts, strings

if TYPE_CHECKING:
    from collections.abc import Callable

    from router.cluster import TableName
    from router.planner.context import Context
    from router.relation import Relation

_WRITING: Final = frozenset({"InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"})
_TAGS: Final = {"SelectStmt": "SELECT", "InsertStmt": "INSERT", "UpdateStmt": "UPDATE", "DeleteStmt": "DELETE",
                "MergeStmt": "MERGE", "CallStmt": "CALL", "TruncateStmt": "TRUNCATE TABLE"}  # fmt: skip
_READ: Final = "plpgsql"  # the language of DO
_AT_HOME: Final = frozenset({Runs.ANYWHERE, Runs.HOME})
_READERS: Final = builtins.READERS | builtins.TEXT_QUERY_READERS


def first(planner: Callable[[Context], Statement]) -> Callable[[Context], Statement]:
    """Return a planner that leaves to ``planner`` what needs no audit."""
    return lambda context: planned(context) or planner(context)


def planned(context: Context) -> Statement | None:
    """Return the plan of a statement that is to be audited; None when it need not be, or when that would not do."""
    kind = context.parsed.kind
    if not context.many or kind not in _TAGS or "IntoClause" in context.parsed.kinds or not _may_be_blind(context):
        return None
    written = [node["relation"] for name, node in context.nodes(context.body) if name in _WRITING]
    if kind == "TruncateStmt":
        written = [item["RangeVar"] for item in context.body["relations"]]
    effects = [context.every_effect]
    named: set[TableName] = set()
    for name, node in context.parsed.nodes:
        relation = context.catalog.resolve(name_parts(node), context.search_path) if name == "RangeVar" else None
        if relation is None or context.catalog.is_system(relation.name):
            continue
        writes = any(node is other for other in written)
        effect = context.catalog.sets_off(relation.name, write=writes)
        if not _is_exact_at_home(context, relation, effect, writes=writes):
            return None
        effects.append(effect)
        named |= {relation.name} | effect.touches
    effect = merge(effects)
    if not effect.auditable or effect.session_state:
        return None
    if effect.sets_sequences:
        raise context.refuse("setval-blind", detail=effect.reason)
    rows = kind in {"SelectStmt", "CallStmt"} or "returningClause" in context.body
    flags = {**context.flags_of(effect), "dirties": True}
    plan = Single(HomeShard(), writes=True)
    return context.statement(plan, _TAGS[kind], returns_rows=rows, audit=frozenset(named), **flags)


def _may_be_blind(context: Context) -> bool:
    """Whether there is anything at all that nobody can see through."""
    if context.catalog.has_unknown:
        return True
    return "FuncCall" in context.parsed.kinds and any(
        kind == "FuncCall" and strings(body.get("funcname"))[-1:] in {(name,) for name in _READERS}
        for kind, body in context.parsed.nodes
    )


def _is_exact_at_home(context: Context, relation: Relation, effect: FunctionEffect, *, writes: bool) -> bool:
    """Whether all that can be seen of a relation's use is exact at home."""
    if effect.if_audited not in _AT_HOME:
        return False
    if relation.is_view:
        return not writes
    placement = context.catalog.effective_placement(relation)
    if not isinstance(placement, Home) and not (isinstance(placement, Reference) and not writes):
        return False
    return context.catalog.access_problem(relation, write=writes, audited=True) is None


def do(context: Context) -> Statement:
    """DO may do anything: it is tried at home, unless it sets a sequence by what might be a part of some rows."""
    if context.many and _sets_blindly(context):
        raise context.refuse("setval-blind")
    plan = Single(HomeShard(), writes=True)
    return context.statement(plan, "DO", dirties=True, audit=frozenset())


def _sets_blindly(context: Context) -> bool:
    """Whether a DO may call setval, and not all that it reads is sure to be home's."""
    options = {item["DefElem"]["defname"]: item["DefElem"].get("arg", {}) for item in context.body["args"]}
    text: str = options.get("as", {}).get("String", {}).get("sval", "")
    language = options.get("language", {}).get("String", {}).get("sval", _READ)
    definition = f"CREATE FUNCTION pg_temp.f() RETURNS void LANGUAGE plpgsql AS {literal(text)}"
    names = names_of_plpgsql(definition)
    effects = [context.catalog.function_effect(parts, context.search_path) for parts in names.functions]
    if not SETVAL.search(text) and not any(effect.sets_sequences for effect in effects):
        return False
    for parts in names.reads | names.writes:
        relation = context.catalog.resolve(parts, context.search_path)
        writes = parts in names.writes
        if relation is None or context.catalog.is_system(relation.name):
            continue
        effects.append(context.catalog.sets_off(relation.name, write=writes))
        if not _is_exact_at_home(context, relation, effects[-1], writes=writes):
            return True
    effect = merge(effects)
    return language != _READ or bool(names.unknown) or effect.kind is EffectKind.UNKNOWN or effect.runs not in _AT_HOME
