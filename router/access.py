"""Whether a statement may touch a relation where it lives, given all that Postgres does on its own then.

Decides over a :class:`~router.catalog.Catalog`: triggers, rules, policies, defaults, checks, cascades, foreign keys,
unique constraints. A statement on one shard must not read or write, by any of them, what lives elsewhere.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from router.closure import CASCADING, Reach
from router.cluster import Home, Placement, Reference, Sharded, TableName
from router.effect import FunctionEffect, Runs, Unplaceable
from router.sharding import hash_family

if TYPE_CHECKING:
    from router.catalog import Catalog
    from router.relation import ForeignKey, Index, Relation


def access_problem(
    catalog: Catalog, relation: Relation, *, write: bool, defaults: frozenset[str] | None, audited: bool = False
) -> Unplaceable | None:
    """Return why reading (or writing) a relation where it lives would not be exact, None if it is.

    ``audited``: at home, not being able to tell is no reason.
    """
    if len(catalog.database.shards) == 1:
        return None
    placement = catalog.effective_placement(relation)
    if isinstance(placement, Unplaceable):
        return placement
    closure = catalog.closure
    pending, seen = [relation], {relation.name}
    set_default: dict[TableName, frozenset[str]] = {}  # columns that a cascade sets to their defaults
    while pending:
        current = pending.pop()
        wanted = defaults if current is relation else set_default.get(current.name, frozenset())
        reach = closure.follow(closure.direct(current, write=write, defaults=wanted))
        own = catalog.effective_placement(current)  # a table that a cascade reaches has a key of another name
        if isinstance(own, Unplaceable):
            return own
        problem = _reach_problem(catalog, current, reach, own, write=write, audited=audited)
        if problem is None and write:
            problem = _foreign_keys_problem(catalog, current, own)
        if problem is not None:
            return problem
        for name in [*current.children, *(_cascaded(current, set_default) if write else ())]:
            member = catalog.relation(name.schema, name.name)
            if member is not None and name not in seen:
                seen.add(name)
                pending.append(member)
    return _cast_problem(catalog)


def _cascaded(relation: Relation, set_default: dict[TableName, frozenset[str]]) -> list[TableName]:
    """Return the tables that a change of a row may change by foreign keys; notes the columns it sets to defaults."""
    for table, key in relation.referenced_by:
        if "d" in {key.on_delete, key.on_update}:
            set_default[table] = set_default.get(table, frozenset()) | frozenset(key.columns)
    return [table for table, key in relation.referenced_by if {key.on_delete, key.on_update} & CASCADING]


def _reach_problem(  # noqa: PLR0913 - what is judged, and how
    catalog: Catalog, relation: Relation, reach: Reach, placement: Placement, *, write: bool, audited: bool
) -> Unplaceable | None:
    """Judge what ``relation`` sets off when a statement touches it at ``placement``."""
    effect = catalog.effect_of(reach)
    audited = audited and isinstance(placement, Home) and effect.auditable
    if reach.unknown and not audited:
        reason = f"something that may touch sharded tables: {reach.unknown}"
    else:
        effect = replace(effect, runs=effect.if_audited) if audited else effect
        reason = _tables_reason(catalog, reach, placement) or _function_reason(effect, placement, write=write)
    return Unplaceable(f"{relation.name} sets off {reason}") if reason else None


def _tables_reason(catalog: Catalog, reach: Reach, placement: Placement) -> str:
    """Judge the tables. The relation itself is no exception: a trigger that counts it would see one shard's rows."""
    sharded = catalog.sharded_among(reach.tables)
    if sharded:
        return f"an access to the sharded table {min(sharded)}"
    references = {table for table in reach.tables if catalog.is_reference(table)}
    if references & reach.writes:
        return f"a write to one copy of the reference table {min(references & reach.writes)}"
    at_home = [table for table in reach.tables - references if not catalog.is_system(table)]
    if at_home and not isinstance(placement, Home):
        return f"an access to {min(at_home)}, which lives on the home shard only"
    return ""


def _function_reason(effect: FunctionEffect, placement: Placement, *, write: bool) -> str:
    at_home = isinstance(placement, Home)
    if effect.runs is Runs.NOWHERE or effect.runs is (Runs.LOCAL if at_home else Runs.HOME):
        return f"a function that cannot run there: {effect.reason}"
    if write and isinstance(placement, Reference) and (effect.volatile or effect.clock):
        return "a function that gives another value on each copy of a reference table"
    return ""


def _foreign_keys_problem(catalog: Catalog, relation: Relation, placement: Placement) -> Unplaceable | None:
    for key in relation.foreign_keys:
        problem = foreign_key_problem(catalog, relation.name, placement, key)
        if problem is not None:
            return problem
    for table, key in relation.referenced_by:
        other = catalog.table_placement(table)
        problem = other if isinstance(other, Unplaceable) else foreign_key_problem(catalog, table, other, key)
        if problem is not None:
            return problem
    return None


def foreign_key_problem(
    catalog: Catalog, table: TableName, placement: Placement, key: ForeignKey
) -> Unplaceable | None:
    """Return why no shard could enforce a foreign key of ``table``, which lives at ``placement``; None if one can."""
    target = catalog.table_placement(key.table)
    if isinstance(target, Unplaceable):
        return target
    if len(catalog.database.shards) == 1:
        return None
    reason = ""
    if isinstance(placement, Home):
        if isinstance(target, Sharded):
            reason = f"the rows of {key.table} are on several shards"
    elif isinstance(target, Home):
        reason = f"{key.table} lives on the home shard only"
    elif isinstance(target, Sharded):
        if isinstance(placement, Reference):
            reason = f"each shard has only a part of {key.table}"
        elif not _joins_keys(catalog, table, placement, key, target):
            reason = "it does not join their sharding keys, so the rows may be on different shards"
    return Unplaceable(f"foreign key {key.name} of {table} to {key.table}: {reason}") if reason else None


def _joins_keys(catalog: Catalog, table: TableName, placement: Sharded, key: ForeignKey, target: Sharded) -> bool:
    if (placement.key, target.key) not in set(zip(key.columns, key.referenced_columns, strict=True)):
        return False
    families = []
    for name, column_name in ((table, placement.key), (key.table, target.key)):
        relation = catalog.relation(name.schema, name.name)
        column = None if relation is None else relation.column(column_name)
        families.append("" if column is None else hash_family(column.type_name))
    return families[0] == families[1] != ""


def unique_problem(catalog: Catalog, index: Index, placement: Placement) -> Unplaceable | None:
    """Return why shards could not enforce a unique or exclusion constraint each on its own, None if they can.

    They can when rows that it calls equal have equal keys: the key itself is a column of it, with the
    default operator class and the column's own collation. (``unique (k collate ci)`` is coarser than the route.)
    """
    if not isinstance(placement, Sharded) or len(catalog.database.shards) == 1:
        return None
    for column in index.columns:
        if column.column == placement.key:
            if column.default_opclass and column.own_collation and column.equality:
                return None
            return Unplaceable(f"{index.name} compares the key {placement.key} otherwise than the routing does")
    return Unplaceable(f"{index.name} does not contain the sharding key {placement.key}, so no shard could enforce it")


def _cast_problem(catalog: Catalog) -> Unplaceable | None:
    """Return the problem of a user-defined implicit cast that may touch tables: no parse tree shows where it runs."""
    for cast in catalog.casts:
        if cast.context != "e" and cast.function is not None:
            effect = catalog.user_effect(cast.function)
            if effect.runs is not Runs.ANYWHERE:
                return Unplaceable(f"the implicit cast from {cast.source} to {cast.target}: {effect.reason}")
    return None
