"""Constraints that no shard enforces, and placements that contradict each other: by the catalog's own rules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.doctor.finding import FILE, Command
from router.cluster import Home, Sharded
from router.effect import Unplaceable
from router.own_schema import quote_identifier, quote_table

if TYPE_CHECKING:
    from proxy.doctor.look import Look
    from router.catalog import Catalog
    from router.relation import Index, Relation

# For each index: its constraint's type, and its definition.
INDEXES: Final = """SELECT coalesce(json_object_agg(i.indexrelid::regclass::text, json_build_array(k.contype,
        pg_get_indexdef(i.indexrelid))), '{}')::text
    FROM pg_index i LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.contype IN ('u', 'p', 'x')
    WHERE i.indrelid = to_regclass($1)"""


async def look_at_constraints(look: Look) -> None:
    """Look at every table of the home shard's catalog."""
    catalog = look.catalog
    if catalog is None or not look.many:
        return
    for relation in catalog.relations:
        if not relation.is_table:
            if relation.name in look.database.placements:
                _contradiction(look, relation, "it is not a table")
            continue
        placement = catalog.effective_placement(relation)
        if isinstance(placement, Unplaceable):
            _contradiction(look, relation, placement.reason)
            continue
        for index in relation.unique:
            problem = catalog.unique_problem(index, placement)
            if problem is not None and isinstance(placement, Sharded) and not relation.partition:
                await _unique(look, relation, index, placement, problem.reason)
        _foreign_keys(look, catalog, relation)


def _contradiction(look: Look, relation: Relation, reason: str) -> None:
    edit = Command(
        FILE, f"databases.{look.database.name}.tables.{relation.name}: take it out, or place it as its parent"
    )
    look.add("placement-contradicts", (), relation.name, reason, edit)


async def _unique(look: Look, relation: Relation, index: Index, placement: Sharded, reason: str) -> None:
    name = quote_identifier(index.name)
    table = quote_table(relation.name)
    known = await look.ask(look.home, INDEXES, table)
    kind, definition = next((row for key, row in known.items() if key.split(".")[-1] in {name, index.name}), (None, ""))
    columns = [column.column for column in index.columns]
    if kind in {"p", "u"} and None not in columns and placement.key not in columns:
        names = ", ".join(quote_identifier(column) for column in (*columns, placement.key) if column is not None)
        word = "PRIMARY KEY" if kind == "p" else "UNIQUE"
        text = f"ALTER TABLE {table} DROP CONSTRAINT {name}, ADD CONSTRAINT {name} {word} ({names})"
    elif kind is not None:
        text = f"ALTER TABLE {table} DROP CONSTRAINT {name}"
    else:
        plain = definition.replace("CREATE UNIQUE INDEX", "CREATE INDEX", 1)
        text = f"DROP INDEX {quote_identifier(relation.name.schema)}.{name}; {plain}"
    look.add("unique-not-enforced", (), relation.name, reason, *(look.sql(shard, text) for shard in look.up))


def _foreign_keys(look: Look, catalog: Catalog, relation: Relation) -> None:
    placement = catalog.table_placement(relation.name)
    if isinstance(placement, Unplaceable) or relation.partition:
        return
    for key in relation.foreign_keys:
        problem = catalog.foreign_key_problem(relation.name, placement, key)
        if problem is not None:
            shards = [look.home] if isinstance(placement, Home) else look.up
            drop = f"ALTER TABLE {quote_table(relation.name)} DROP CONSTRAINT {quote_identifier(key.name)}"
            look.add(
                "foreign-key-not-enforced", (), relation.name, problem.reason, *(look.sql(s, drop) for s in shards)
            )
