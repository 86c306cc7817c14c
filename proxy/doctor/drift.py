"""Schemas that have drifted apart: each shard's objects compared with the home shard's, by name.

Decides what is compared: of tables those that every shard has (sharded and reference tables, with their partitions), of
other objects all, but for functions, views and sequences that are rightly at home alone. The home shard is right, since
clients see its catalog; each finding's commands make the other shard like it.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from proxy.doctor.finding import FILE, HAND, SHELL, Command
from proxy.doctor.look import listed
from proxy.doctor.placements import init_command
from proxy.shards.drift_sql import OBJECTS, UNPLACED
from proxy.shards.types import READ_TYPES, type_map
from router.cluster import Reference, Sharded
from router.effect import Runs
from router.own_schema import quote_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from proxy.doctor.look import Look
    from router.catalog import Catalog
    from router.cluster import TableName
    from router.relation import Relation

_IN_A_LINE: Final = 60
_TRANSACTIONLESS: Final = "CONCURRENTLY"


class Thing(NamedTuple):
    """One object of a shard, as ``drift_sql`` reads it."""

    kind: str
    owner: str
    name: str
    shape: str
    definition: str
    create: str | None
    drop: str | None
    alter: str | None

    @property
    def key(self) -> tuple[str, str, str]:
        """What it has in common with itself elsewhere."""
        return self.kind, self.owner, self.name


def everywhere(catalog: Catalog) -> list[TableName]:
    """Return the tables that every shard has: placed ones, and what goes with them."""
    names = {table for table, place in catalog.database.placements.items() if isinstance(place, Sharded | Reference)}
    for relation in catalog.relations:
        if relation.is_table and isinstance(catalog.effective_placement(relation), Sharded | Reference):
            names.add(relation.name)
    return sorted(names)


async def look_at_schemas(look: Look) -> None:
    """Compare every shard's schema with home's, if there is more than one shard."""
    catalog = look.catalog
    if catalog is None or not look.many or look.home not in look.up:
        return
    tables = [quote_table(table) for table in everywhere(catalog)]
    answers = await look.ask_all(OBJECTS, tables)
    things = {shard: {thing.key: thing for thing in map(Thing._make, rows)} for shard, rows in answers.items()}
    at_home = things.pop(look.home)
    alone = _alone_at_home(catalog, at_home)
    for shard, here in things.items():
        _compare(look, shard, here, at_home, alone)
    for shard, rows in answers.items():
        for thing in map(Thing._make, rows):
            if thing.kind == "invalid":
                look.add("index-invalid", shard, thing.name, f"of {thing.owner}", look.sql(shard, thing.alter or ""))
    await _unplaced(look, tables)
    await _type_oids(look, catalog)


def _alone_at_home(catalog: Catalog, at_home: Mapping[tuple[str, str, str], Thing]) -> set[str]:
    """Return functions and views that are rightly at home only: they use tables of the home shard."""
    alone = set()
    for function in catalog.functions:
        if catalog.user_effect(function.name).runs not in {Runs.ANYWHERE, Runs.LOCAL}:
            prefix = f"{function.name.schema}.{function.name.name}("
            alone |= {
                name for kind, _, name in at_home if kind == "function" and name.replace('"', "").startswith(prefix)
            }
    for relation in catalog.relations:
        if relation.is_view and not _for_every_shard(catalog, relation):
            quoted = {f"{relation.name.schema}.{relation.name.name}", quote_table(relation.name)}
            alone |= {name for kind, _, name in at_home if kind == "view" and {name, name.replace('"', "")} & quoted}
    return alone


def _for_every_shard(catalog: Catalog, view: Relation) -> bool:
    """Whether a view is made on every shard: it reads placed tables, and none of the home shard."""
    tables = [name for name in catalog.closure.follow(view.read_uses).tables if name != view.name]
    places = [
        catalog.table_placement(name)
        for name in tables
        if (r := catalog.relation(name.schema, name.name)) and r.is_table
    ]
    return bool(places) and all(isinstance(place, Sharded | Reference) for place in places)


def _compare(
    look: Look,
    shard: int,
    here: Mapping[tuple[str, str, str], Thing],
    home: Mapping[tuple[str, str, str], Thing],
    alone: set[str],
) -> None:
    """Note what differs, one finding for each kind and owner."""
    tables = {thing.owner for thing in here.values() if thing.kind == "column-order"}
    tables_at_home = {thing.owner for thing in home.values() if thing.kind == "column-order"}
    missing_owners = (tables ^ tables_at_home) | {key[2] for key in here.keys() ^ home.keys() if not key[1]}
    details: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    commands: defaultdict[tuple[str, str], list[Command]] = defaultdict(list)
    for key in sorted(here.keys() | home.keys(), key=_order):
        mine, right = here.get(key), home.get(key)
        kind, owner, name = key
        if kind == "invalid" or owner in missing_owners or (mine is None and name in alone):
            continue
        if mine is not None and right is not None and (mine.shape, mine.definition) == (right.shape, right.definition):
            continue
        column = (kind, owner, name.partition(": ")[0])
        if column != key and (column in here) != (column in home):
            continue  # a column that is missing says it all
        if kind == "column-order" and mine is not None and right is not None and _other_columns(mine, right):
            continue  # those that are missing are said already
        group = (kind, owner or name)
        if mine is None:
            details[group].append(f"{name} is missing" if owner else "is missing")
        elif right is None:
            details[group].append(f"{name} is not at home" if owner else "is not at home")
        else:
            details[group].append(_differs(name if owner else "", mine, right))
        commands[group] += _mend(look, shard, mine, right)
    for (kind, thing), texts in details.items():
        look.add(f"drift-{kind}", shard, thing, listed(texts, 4), *commands[kind, thing])


def _other_columns(mine: Thing, right: Thing) -> bool:
    return {*mine.definition.split(", ")} != {*right.definition.split(", ")}


def _order(key: tuple[str, str, str]) -> tuple[int, tuple[str, str, str]]:
    """Sort so that what others need comes first."""
    first = ("schema", "extension", "type", "function", "table", "column", "constraint", "index", "sequence", "view")
    return (first.index(key[0]) if key[0] in first else len(first)), key


def _differs(name: str, mine: Thing, right: Thing) -> str:
    what = f"{name} differs" if name else "differs"
    if max(len(mine.definition), len(right.definition)) > _IN_A_LINE:
        return what
    return f"{what} ({mine.definition or 'nothing'}; at home {right.definition or 'nothing'})"


def _mend(look: Look, shard: int, mine: Thing | None, right: Thing | None) -> Iterable[Command]:
    """Return what makes a shard's object as it is at home."""
    if right is None:
        texts = [mine.drop if mine is not None else None]
    elif mine is None:
        texts = [right.create]
    elif right.alter is not None and mine.shape == right.shape:
        texts = [right.alter]
    else:
        texts = [mine.drop, right.create]
    if None in texts:
        found = right or mine
        return _made_anew(look, shard, found.owner if found is not None else "")
    wanted = [text for text in texts if text is not None]
    if any(_TRANSACTIONLESS in text for text in wanted):
        return [look.sql(shard, text) for text in wanted]
    return [look.sql(shard, "; ".join(wanted))]


def _made_anew(look: Look, shard: int, table: str) -> Iterable[Command]:
    """Return how a table is made again as it is at home, with its rows."""
    file = f"{table.replace(chr(34), '')}.{look.name(shard)}.sql"
    here, home = look.target(shard), look.target(look.home)
    return (
        Command(HAND, "let nobody write the table meanwhile (PAUSE in the console)"),
        Command(SHELL, f"pg_dump --data-only --column-inserts --table='{table}' --file='{file}' '{here}'"),
        Command(SHELL, f"psql -X -v ON_ERROR_STOP=1 '{here}' -c 'DROP TABLE {table} CASCADE'"),
        Command(SHELL, f"pg_dump --schema-only --table='{table}' '{home}' | psql -X -v ON_ERROR_STOP=1 '{here}'"),
        init_command(look),
        Command(SHELL, f"psql -X -v ON_ERROR_STOP=1 -1 '{here}' --file='{file}'"),
    )


async def _unplaced(look: Look, tables: list[str]) -> None:
    """Note tables that nobody has placed on shards other than home: their rows are never read."""
    for shard, rows in (await look.ask_all(UNPLACED, tables)).items():
        if shard == look.home:
            continue
        for table, has_pages in rows:
            async with look.link(shard) as connection:
                rows_there = has_pages and await connection.fetchval(f"SELECT EXISTS (SELECT FROM {table})")  # noqa: S608 - quoted by the server
            edit = Command(
                FILE, f"databases.{look.database.name}.tables.{table}: {{key: COLUMN}}, or reference; or else:"
            )
            target, file = look.target(shard), f"{table.replace(chr(34), '')}.{look.name(shard)}.sql"
            dump = Command(SHELL, f"pg_dump --table='{table}' --file='{file}' '{target}'")
            drop = look.sql(shard, f"DROP TABLE {table}")
            detail = "it has rows, which are never read" if rows_there else "it has no rows"
            look.add("table-not-placed", shard, table, detail, edit, *((dump,) if rows_there else ()), drop)


async def _type_oids(look: Look, catalog: Catalog) -> None:
    answers: dict[int, Any] = {shard: rows or [] for shard, rows in (await look.ask_all(READ_TYPES)).items()}
    home = answers.pop(look.home)
    by_name = {tuple(row[1:5]): row[0] for row in home}
    relations = {(one.name.schema, one.name.name) for one in catalog.relations}
    for shard, rows in answers.items():
        if type_map(home, rows) is None:
            continue
        # An array goes with its element, a row type with its table.
        names = [
            f"{row[1]}.{row[2]}"
            for row in rows
            if not row[3] and by_name.get(tuple(row[1:5]), row[0]) != row[0] and (row[1], row[2]) not in relations
        ]
        if names:
            look.add("type-oids-differ", shard, "", listed(sorted(names), 6))
