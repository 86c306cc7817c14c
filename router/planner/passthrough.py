"""A database with one shard: every statement goes out as it came; and what a statement is called.

Decides only what the session must know: whether it writes, changes the catalog, or cannot run in a transaction block.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from router.plan import WITH_HOLD, Ddl, HomeShard, Plan, ShardByShard, Single, Statement
from router.planner.sequences import sequence_use
from router.tree import constant, items, strings, walk

if TYPE_CHECKING:
    from router.planner.context import Context
    from router.statement import Parsed
    from router.tree import Node

_WRITING: Final = frozenset({"InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"})
_ROWS: Final = frozenset({"SelectStmt", "ExplainStmt", "CallStmt"})
_NO_BLOCK: Final = frozenset(
    {"CreatedbStmt", "DropdbStmt", "CreateTableSpaceStmt", "DropTableSpaceStmt", "AlterSystemStmt", "AlterDatabaseStmt",
     "CreateSubscriptionStmt", "DropSubscriptionStmt"}
)  # fmt: skip
_NO_CATALOG: Final = frozenset(
    {"TruncateStmt", "LockStmt", "CheckPointStmt", "LoadStmt", "CopyStmt", "DeclareCursorStmt"}
)
_TAGS: Final = {
    "CreateStmt": "CREATE TABLE",
    "CreateTableAsStmt": "CREATE TABLE AS",
    "IndexStmt": "CREATE INDEX",
    "ViewStmt": "CREATE VIEW",
    "DropStmt": "DROP",
    "AlterTableStmt": "ALTER TABLE",
    "RenameStmt": "ALTER",
    "TruncateStmt": "TRUNCATE TABLE",
    "CallStmt": "CALL",
    "DeclareCursorStmt": "DECLARE CURSOR",
    "CheckPointStmt": "CHECKPOINT",
    "ReindexStmt": "REINDEX",
    "DoStmt": "DO",
    "LockStmt": "LOCK TABLE",
    "CreateSeqStmt": "CREATE SEQUENCE",
    "AlterSeqStmt": "ALTER SEQUENCE",
    "CreateTrigStmt": "CREATE TRIGGER",
    "RefreshMatViewStmt": "REFRESH MATERIALIZED VIEW",
    "CreatedbStmt": "CREATE DATABASE",
    "DropdbStmt": "DROP DATABASE",
    "CreateEnumStmt": "CREATE TYPE",
    "CompositeTypeStmt": "CREATE TYPE",
    "CreateRangeStmt": "CREATE TYPE",
    "AlterEnumStmt": "ALTER TYPE",
}


def tag_of(parsed: Parsed) -> str:
    """Return what a statement is called; shards send the exact tags themselves."""
    body = parsed.body
    if parsed.kind == "VacuumStmt":
        return "VACUUM" if body.get("is_vacuumcmd") else "ANALYZE"
    if parsed.kind in {"DropStmt", "CommentStmt"}:
        what = str(body.get("removeType", body.get("objtype", ""))).removeprefix("OBJECT_").replace("_", " ")
        return f"{parsed.kind[:-4].upper()} {what}".strip()
    known = _TAGS.get(parsed.kind)
    if known is not None:
        return known
    words = re.findall(r"[A-Z][a-z]*|[A-Z]+(?![a-z])", parsed.kind.removesuffix("Stmt"))
    return " ".join(words).upper()


def one_shard_database(context: Context) -> Statement:
    """Plan for a database with one shard."""
    return replace(_as_it_came(context), sequences=sequence_use(context))


def _as_it_came(context: Context) -> Statement:
    parsed, body, kind = context.parsed, context.body, context.parsed.kind
    rows = kind in _ROWS or "returningClause" in body
    if kind in {"SelectStmt", "ExplainStmt", *_WRITING, "CallStmt"}:
        writes = kind in _WRITING or kind == "CallStmt" or writes_by_itself(context)
        plan: Plan = Single(HomeShard(), writes)
        flags = context.flags
        if _has_into(body):
            plan = Ddl(HomeShard())
            flags = {**flags, "pins": flags["pins"] or may_be_temporary(context)}
        return context.statement(plan, tag_of(parsed), returns_rows=rows, **flags)
    if no_block(kind, body):
        return context.statement(
            ShardByShard(HomeShard(), catalog_changes=kind != "VacuumStmt"), tag_of(parsed), transaction_block=False
        )
    if kind == "DeclareCursorStmt":
        held = holds(body)
        return context.statement(
            Single(HomeShard(), writes_by_itself(context)),
            "DECLARE CURSOR",
            declares=body.get("portalname", ""),
            pins=held or context.flags["pins"],
            must_commit=held or context.flags["must_commit"],
            dirties=context.whole_effect.sets,
        )
    if kind in _NO_CATALOG or (kind == "VacuumStmt"):
        return context.statement(Single(HomeShard(), writes=kind != "LockStmt"), tag_of(parsed))
    if kind == "DoStmt":
        return context.statement(Single(HomeShard(), writes=True), "DO", dirties=True)
    temporary = may_be_temporary(context)
    return context.statement(Ddl(HomeShard()), tag_of(parsed), pins=temporary, must_commit=temporary)


_MAKES: Final = re.compile("Create|Define|View|Composite|Select|Alter|Rename")


def may_be_temporary(context: Context) -> str:
    """Return why a definition over one shard keeps its link: what it makes is temporary, or may be.

    By the search_path it is where no schema before pg_temp exists, or none that the role may use: who knows.
    """
    parsed = context.parsed
    by_path = "pg_temp" in context.search_path and _MAKES.match(parsed.kind) is not None
    named = any(
        part.startswith("pg_temp")
        for _, body in parsed.nodes
        for value in body.values()
        if isinstance(value, dict | list)
        for part in strings([item for item in items(value) if "String" in item])
    )
    return "temporary table" if by_path or named or makes_temporary(parsed) else ""


def writes_by_itself(context: Context) -> bool:
    """Whether a statement may write although it is no INSERT and its like: locks, functions, WITH."""
    kinds = context.parsed.kinds
    if context.parsed.kind == "ExplainStmt" and not analyzes(context.body):
        return False
    return bool(kinds & (_WRITING | {"LockingClause"})) or context.whole_effect.writes


def analyzes(body: Node) -> bool:
    """Whether an EXPLAIN runs its statement."""
    for option in body.get("options", ()):
        element = option["DefElem"]
        if element["defname"] == "analyze":
            return option_is_on(element.get("arg"))
    return False


def option_is_on(argument: Node | None) -> bool:
    """Read a boolean option as Postgres does: absent means on."""
    if argument is None:
        return True
    literal = constant(argument)
    inner: Node = next(iter(argument.values()))
    value = literal[1] if literal is not None else inner.get("sval", inner.get("ival", inner.get("boolval", 0)))
    return str(value).lower() not in {"false", "off", "0", "no"}


def no_block(kind: str, body: Node) -> bool:
    """Whether Postgres refuses a statement inside a transaction block."""
    if kind == "VacuumStmt":
        return bool(body.get("is_vacuumcmd"))
    if kind == "ReindexStmt":
        whole = body.get("kind") in {"REINDEX_OBJECT_SCHEMA", "REINDEX_OBJECT_SYSTEM", "REINDEX_OBJECT_DATABASE"}
        concurrently = any(
            p["DefElem"]["defname"] == "concurrently" and option_is_on(p["DefElem"].get("arg"))
            for p in body.get("params", ())
        )
        return whole or concurrently
    if kind == "ClusterStmt":
        return "relation" not in body
    return kind in _NO_BLOCK or bool(body.get("concurrent") and kind in {"IndexStmt", "DropStmt"})


_HOLD: Final = 0x0020


def holds(body: Node) -> str:
    """Return why a cursor keeps its link ('' if it ends with the transaction)."""
    return WITH_HOLD if body.get("options", 0) & _HOLD else ""


def makes_temporary(parsed: Parsed) -> bool:
    """Whether a statement creates a temporary relation."""
    return any(kind == "RangeVar" and is_temporary(body) for kind, body in parsed.nodes)


def is_temporary(range_var: Node) -> bool:
    """Whether what is created by this name is temporary: a session may also call its schema pg_temp_3."""
    schema = range_var.get("schemaname", "")
    return range_var.get("relpersistence") == "t" or schema == "pg_temp" or schema.startswith("pg_temp_")


def _has_into(body: Node) -> bool:
    return any(kind == "IntoClause" for kind, _ in walk(body))
