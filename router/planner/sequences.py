"""What a statement does with the sequence values that Postgres remembers for a server connection.

Decides, for a database with one shard, whether ``nextval`` may run on the statement's link (a default, a trigger, a
function) or ``currval`` and ``lastval`` may be asked. Unsure means that they may run: it costs the session little, and
a wrong no would tell a client of another one's values. Over several shards sequences are not the link's (see
:mod:`router.planner.context`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from router.effect import NO_EFFECT, EffectKind, FunctionEffect, merge
from router.plan import SequenceUse
from router.tree import name_parts

if TYPE_CHECKING:
    from router.planner.context import Context

_WRITING: Final = frozenset({"InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt", "CopyStmt"})
_FOLLOWED: Final = frozenset({"SelectStmt", "ExplainStmt", "DeclareCursorStmt", *_WRITING})
_NONE: Final = frozenset({"LockStmt", "CheckPointStmt", "LoadStmt", "VacuumStmt"})


def sequence_use(context: Context) -> SequenceUse:
    """Return what the statement does with the link's sequence values."""
    kind = context.parsed.kind
    if kind in _NONE:
        return SequenceUse.NONE
    effect = merge([context.whole_effect, _of_relations(context)]) if kind in _FOLLOWED else context.whole_effect
    if effect.asks_sequences:
        return SequenceUse.ASKS
    if kind not in _FOLLOWED or effect.advances_sequences or effect.kind is EffectKind.UNKNOWN:
        return SequenceUse.ADVANCES  # DDL may run defaults, a CALL or DO may run anything
    return SequenceUse.NONE


def _of_relations(context: Context) -> FunctionEffect:
    """Return what reading and writing the statement's relations sets off (views, defaults, triggers)."""
    writes = bool(context.parsed.kinds & _WRITING)
    effects = [NO_EFFECT]
    for kind, body in context.parsed.nodes:
        if kind != "RangeVar":
            continue
        relation = context.catalog.resolve(name_parts(body), context.search_path)
        if relation is not None:
            effects.append(context.catalog.sets_off(relation.name, write=writes))
        elif writes:  # made in this transaction, or temporary
            effects.append(FunctionEffect(advances_sequences=True))
    return merge(effects)
