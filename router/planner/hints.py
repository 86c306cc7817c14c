"""Hints: ``/* pgchorus: shard=s1 */`` sends a statement to one shard by hand.

Decides what a hint may do: a statement goes where the client says if that can harm nothing. Rows of sharded tables on
the wrong shard are kept out by the CHECK of their table; a copy of a reference table is never written alone; a table of
the home shard is not looked for elsewhere. What a SELECT does not see on the other shards is what its author asked for.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from router.cluster import Home, Reference
from router.effect import Runs
from router.plan import AtShard, Single, Statement
from router.planner.placing import locks
from router.tree import walk

if TYPE_CHECKING:
    from router.planner.context import Context
    from router.tree import Node

_MARK: Final = "pgchorus:"
_COMMENT: Final = re.compile(r"/\*\s*pgchorus:(?P<words>.*?)\*/", re.DOTALL)
_SHARD: Final = re.compile(r"\s*shard\s*=\s*(?P<name>[\w.-]+)\s*", re.ASCII)
_CATALOGS: Final = frozenset({"pg_catalog", "information_schema"})
_WRITING: Final = frozenset({"InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"})
_TAGS: Final = {"SelectStmt": "SELECT", "InsertStmt": "INSERT", "UpdateStmt": "UPDATE", "DeleteStmt": "DELETE",
                "MergeStmt": "MERGE"}  # fmt: skip


def hinted(context: Context) -> int | None:
    """Return the index of the shard that a comment of the statement names; refuses hints that say something else."""
    if _MARK not in context.parsed.text:
        return None
    for comment in context.parsed.comments:
        found = _COMMENT.match(comment)
        if found is None:
            continue
        word = _SHARD.fullmatch(found["words"])
        names = context.database.shards
        if word is None or word["name"] not in names:
            raise context.refuse("hint", name=found["words"].strip() or "''", shards=", ".join(names))
        return names.index(word["name"])
    return None


def plan(context: Context, shard: int) -> Statement:
    """Plan a statement for the shard that its hint names."""
    kind, body = context.parsed.kind, context.body
    if kind not in _TAGS or "IntoClause" in context.parsed.kinds:
        raise context.refuse("hint-statement")
    written = [node["relation"] for kind, node in walk({kind: body}) if kind in _WRITING]
    for name, node in context.parsed.nodes:
        if name == "RangeVar":
            _check_table(context, node, shard, written=any(node is other for other in written))
    effect = context.whole_effect
    if effect.runs is Runs.HOME and shard != context.database.home:
        raise context.refuse("function-home", detail=effect.reason)
    writes = bool(written) or effect.writes or locks(context)
    rows = kind == "SelectStmt" or "returningClause" in body
    return context.statement(Single(AtShard(shard), writes), _TAGS[kind], returns_rows=rows, **context.flags)


def _check_table(context: Context, node: Node, shard: int, *, written: bool) -> None:
    relation = context.relation(node)
    if relation is None or relation.name.schema in _CATALOGS:
        return  # each shard has catalogs of its own, and they may be what is looked for
    at = node.get("location")
    placement = context.placement(relation, at)
    context.check_access(relation, write=written, at=at)
    if isinstance(placement, Home) and shard != context.database.home:
        raise context.refuse("hint-table", at, shard=context.database.shards[shard], table=relation.name)
    if isinstance(placement, Reference) and (written or locks(context)):
        raise context.refuse("hint-reference", at, table=relation.name)
