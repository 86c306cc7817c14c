"""Copies of what the home shard has: sequences on other shards, and tables that become partitions of placed ones.

Decides what runs beside a definition so that every shard has what it needs: the copies of sequences away from home are
spent, so that they raise when touched; a table that was made at home, and is attached to a placed table, is made on the
other shards first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from router.cluster import Home, Placement, Sharded, TableName
from router.plan import Ddl, EveryShard

if TYPE_CHECKING:
    from collections.abc import Iterable

    from router.planner.context import Context
    from router.relation import Relation
    from router.tree import Node

Texts = tuple[tuple[str, ...], ...]

_OWNED: Final = """q.seqrelid IN (SELECT d.objid FROM pg_catalog.pg_depend d
  WHERE d.refobjid = '{name}'::pg_catalog.regclass AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
    AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype IN ('a', 'i'))"""
_SPEND: Final = """SELECT pg_catalog.setval(q.seqrelid, CASE WHEN q.seqincrement > 0 THEN q.seqmax ELSE q.seqmin END)
FROM pg_catalog.pg_sequence q WHERE {where}"""


def quoted(*parts: str) -> str:
    """Return a dotted name as SQL."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)


# --- sequences -------------------------------------------------------------------------------------------------------


def spent_sequences(context: Context, tables: Iterable[TableName], after: Texts = ()) -> Texts:
    """Return what follows a definition on each shard: ``after``, and the sequences of these tables are spent."""
    names = [quoted(table.schema, table.name).replace("'", "''") for table in tables]
    return _away_from_home(context, after, [_SPEND.format(where=_OWNED.format(name=name)) for name in names])


def spent_sequence(context: Context, sequence: Node) -> Texts:
    """Return what follows the definition of a sequence (its RangeVar) on each shard."""
    name = quoted(*range_name(sequence))
    literal = name.replace("'", "''")
    texts = [_SPEND.format(where=f"q.seqrelid = '{literal}'::pg_catalog.regclass")]
    if any(option["DefElem"]["defname"] == "cycle" for option in context.body.get("options", ())):
        texts.append(f"ALTER SEQUENCE {name} NO CYCLE")  # it would begin again instead of raising
    return _away_from_home(context, (), texts)


def range_name(range_var: Node) -> tuple[str, ...]:
    """Return a RangeVar's name as it was written."""
    return tuple(range_var[key] for key in ("schemaname", "relname") if range_var.get(key))


def _away_from_home(context: Context, after: Texts, texts: list[str]) -> Texts:
    shards = range(len(context.database.shards))
    before = after or tuple(() for _ in shards)
    return tuple(before[shard] if shard == context.database.home else (*before[shard], *texts) for shard in shards)


def respent(context: Context, sequence: Node, before: str) -> Ddl:
    """Plan ALTER SEQUENCE everywhere: on shards other than home ``before`` makes the copy fit for it."""
    shards, home = range(len(context.database.shards)), context.database.home
    return Ddl(
        EveryShard(),
        before=tuple(() if shard == home else (before,) for shard in shards),
        after=spent_sequence(context, sequence),
    )


def unspent_identities(context: Context, range_var: Node, columns: list[str]) -> Texts:
    """Return what goes before a change of identity columns: a spent sequence would not fit into a smaller range."""
    table = quoted(*range_name(range_var))
    texts = [f"ALTER TABLE {table} ALTER COLUMN {quoted(column)} RESTART" for column in columns]
    return _away_from_home(context, (), texts) if texts else ()


def given_away(context: Context, sequence: Node) -> Ddl:
    """Plan ALTER SEQUENCE ... OWNED BY a table of the home shard: the copies elsewhere are of no use any more.

    They go in two steps, since every shard must answer with the same tag.
    """
    name = quoted(*range_name(sequence))
    shards = range(len(context.database.shards))
    home = context.database.home
    return Ddl(
        EveryShard(),
        texts=tuple(None if shard == home else f"ALTER SEQUENCE {name} OWNED BY NONE" for shard in shards),
        after=tuple(() if shard == home else (f"DROP SEQUENCE {name}",) for shard in shards),
    )


# --- partitions ------------------------------------------------------------------------------------------------------


def can_attach(context: Context, kind: str, child_var: Node, parent: Placement) -> bool:
    """Whether a table of the home shard can be made on the others as the parent is, to be attached to it."""
    child = context.relation(child_var)
    above = context.relation(context.body["relation"])
    if kind != "AT_AttachPartition" or not isinstance(parent, Sharded) or child is None or above is None:
        return False
    if not isinstance(context.catalog.effective_placement(child), Home) or child.kind is not above.kind.TABLE:
        return False
    plain = not (child.triggers or child.rules or child.indexes or child.foreign_keys or child.row_security)
    plain = plain and not any(column.identity for column in child.columns)
    return plain and not child.children and _columns(child) == _columns(above) and _checks(child) <= _checks(above)


def _columns(relation: Relation) -> list[tuple[object, ...]]:
    return [
        (
            c.name,
            c.type_schema,
            c.type_name,
            c.type_modifier,
            c.not_null,
            c.default,
            c.generated,
            c.identity,
            c.collation,
        )
        for c in relation.columns
    ]


def _checks(relation: Relation) -> frozenset[str]:
    return frozenset(definition for name, definition in relation.checks)


def attached(context: Context, parent: Placement) -> Ddl | None:
    """Plan ATTACH PARTITION of a table that only the home shard has; None when it is something else.

    Elsewhere it is made like the parent. At home it gets the parent's CHECK, which looks at the rows that it has.
    """
    for item in context.body.get("cmds", ()):
        command = item["AlterTableCmd"]
        child = command.get("def", {}).get("PartitionCmd", {}).get("name")
        if child is None or not can_attach(context, command.get("subtype", ""), child, parent):
            continue
        from router.planner.tables import slot_texts  # noqa: PLC0415 - that file asks this one

        name = quoted(*range_name(child))
        like = f"CREATE TABLE {name} (LIKE {quoted(*range_name(context.body['relation']))} INCLUDING DEFAULTS"
        like += " INCLUDING CONSTRAINTS INCLUDING GENERATED INCLUDING STORAGE INCLUDING COMPRESSION)"
        relation = context.relation(context.body["relation"])
        column = relation.column(parent.key) if relation is not None and isinstance(parent, Sharded) else None
        if column is None:
            return None
        checks = slot_texts(context, name, column.type_name, column.name)
        home = context.database.home
        shards = range(len(context.database.shards))
        return Ddl(EveryShard(), before=tuple(checks[shard] if shard == home else (like,) for shard in shards))
    return None
