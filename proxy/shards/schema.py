"""The schema ``pgchorus`` on every shard: who the shard is, what is placed how, and what keeps rows where they belong.

Decides what ``install`` may change and what ``check`` refuses. The configuration declares placements; every shard keeps
them with an *epoch*, which is the same on all shards and goes up with every change. A change is allowed for tables that
are not there yet or are empty everywhere, because rows do not move by themselves. The decision record and the fence are
:mod:`proxy.twophase.record`'s; how a slot is computed is :mod:`router.sharding`'s.

What is where, on every shard, beside what twophase keeps:

- ``meta``            one row: cluster, shard, all shards in order, slots.
- ``placement``       a row for each table that the configuration places.
- ``catalog_change``  a row for each DDL transaction (used on the home shard): their number is the catalog's version.
                      Rows are only added, so that two DDL transactions do not wait for each other.
- ``proxy_version``   a row for each proxy (used on the home shard): by which version it plans (versions).
- ``timeline``        the highest timeline that was seen of each shard of several servers (timelines).
- ``guard``           gives a table the CHECK on its slots. Runs as the caller: only a table's owner can.
- ``note_change``     adds a row to ``catalog_change``. Anybody can, with no harm but a reading of the catalog.
- ``hold_view``, ``fill_view``  fill a materialized view with rows that were read over several shards (view_sql).
- ``note_ddl``        the same by event triggers, for all DDL, also behind the proxies' back. Only a superuser can make
                      event triggers: without them, DDL that does not call ``note_change`` is not noticed.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from proxy.errors import ProxyError
from proxy.shards.errors import ShardError
from proxy.shards.kin import placed_by_kin
from proxy.shards.schema_sql import FACTS, GRANTS, GUARD, NAME_KEY_TYPES, NOTE_CHANGE, NOTE_DDL, STORED, STRAY, TABLES
from proxy.shards.view_sql import FILL_VIEW, HOLD_VIEW
from proxy.shards.view_sql import GRANTS as VIEW_GRANTS
from proxy.twophase import record
from router.cluster import Reference, Sharded, TableName
from router.own_schema import (
    CATALOG_BUMP,
    guard_call,
    quote_identifier,
    quote_literal,
    quote_table,
)
from router.sharding import hash_family, slot_check

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from proxy.shards.control import ControlConnection
    from router.cluster import Database, Placement

    _Rows = Mapping[TableName, tuple[Any, ...]]

__all__ = [
    "PlacementMismatch",
    "ShardLook",
    "admit",
    "catalog_bump_sql",
    "catalog_version",
    "check",
    "check_reachable",
    "declared",
    "differences",
    "ensure_slot_checks",
    "expected_meta",
    "foreign",
    "install",
    "install_on",
    "kept",
    "look_at",
    "look_everywhere",
    "store_sql",
    "stored_otherwise",
    "table_problems",
    "unfit",
]

INSTALL_LOCK: Final = 0x706763686F727573  # "pgchorus": two installations at once take turns
_BAD_CONFIGURATION: Final = "F0000"
_CHECK_VIOLATION: Final = "23514"


class PlacementMismatch(ProxyError):  # noqa: N818 - named for what was found
    """The configuration and the shards do not agree. ``problems`` says where, one clause each."""

    def __init__(self, problems: Sequence[str], hint: str) -> None:
        super().__init__(
            _BAD_CONFIGURATION,
            "configuration and shards do not agree: " + "; ".join(problems),
            detail="\n".join(problems),
            hint=hint,
        )
        self.problems = tuple(problems)


class Control(Protocol):
    """What this file needs of :class:`proxy.shards.control.ControlLinks`."""

    def connection(self, shard: int) -> AbstractAsyncContextManager[ControlConnection]:
        """Lend a connection."""
        ...


@dataclass(frozen=True, slots=True)
class ShardLook:
    """What one shard says of itself. ``tables``: relkind, the key's type, whether that compares by bytes; by name."""

    encoding: str
    prepared: int
    identity: str
    installed: bool
    tables: Mapping[str, tuple[str, str | None, bool]]
    meta: Mapping[str, Any] | None = None
    epoch: int | None = None
    placements: Mapping[TableName, tuple[Any, ...]] | None = None


def catalog_bump_sql() -> str:
    """Return the statement for the home shard that makes a DDL transaction's commit known to other proxies."""
    return CATALOG_BUMP


async def catalog_version(connection: ControlConnection) -> int:
    """Return the catalog's version: how many DDL transactions home has committed. Raises ShardError."""
    version: int = await connection.fetchval("SELECT count(*) FROM pgchorus.catalog_change")
    return version


# --- looking -----------------------------------------------------------------------------------------------------


def declared(database: Database) -> dict[TableName, tuple[Any, ...]]:
    """Return placements as pgchorus.placement has them: (kind, key, slots)."""
    rows: dict[TableName, tuple[Any, ...]] = {}
    for table, placement in database.placements.items():
        if isinstance(placement, Sharded):
            rows[table] = ("sharded", placement.key, database.slots)
        elif isinstance(placement, Reference):
            rows[table] = ("reference", None, None)
    return rows


async def look_at(control: Control, database: Database, shard: int, tables: Iterable[TableName]) -> ShardLook:
    """Ask one shard what it says of itself and of some tables. Raises ShardError."""
    keys = {quote_table(table): _key(database.placements.get(table)) for table in tables}
    async with control.connection(shard) as connection:
        facts = json.loads(await connection.fetchval(FACTS, json.dumps(keys)))
        stored = json.loads(await connection.fetchval(STORED)) if facts["installed"] else {}
    placements = {TableName(row[0], row[1]): tuple(row[2:]) for row in stored.get("placements") or ()}
    found = {name: tuple(row) for name, row in (facts.pop("tables") or {}).items()}
    return ShardLook(**facts, tables=found, meta=stored.get("meta"), epoch=stored.get("epoch"), placements=placements)


def _key(placement: Placement | None) -> str | None:
    return placement.key if isinstance(placement, Sharded) else None


async def look_everywhere(control: Control, database: Database) -> list[ShardLook]:
    """Ask all shards. Raises ShardError."""
    wanted = declared(database)
    return await asyncio.gather(*(look_at(control, database, s, wanted) for s in range(len(database.shards))))


def unfit(database: Database, shards: Sequence[ShardLook]) -> list[str]:
    """Return what makes the servers themselves unfit, whatever is placed where."""
    problems = []
    for name, shard in zip(database.shards, shards, strict=True):
        if shard.encoding != "UTF8":
            problems.append(f"shard {name} has encoding {shard.encoding}, and keys are hashed in UTF8")
        if shard.prepared == 0 and len(shards) > 1:
            problems.append(f"shard {name} has max_prepared_transactions = 0, and commits over shards need it")
    by_identity: dict[str, str] = {}
    for name, shard in zip(database.shards, shards, strict=True):
        other = by_identity.setdefault(shard.identity, name)
        if other != name:
            problems.append(f"shards {other} and {name} are the same database of the same server")
    return problems


def table_problems(database: Database, shards: Sequence[ShardLook]) -> list[str]:
    """Return tables that are not on every shard, or not as their placement needs them."""
    problems = []
    for table, (kind, key, _) in sorted(declared(database).items()):
        found = [shard.tables.get(quote_table(table)) for shard in shards]
        missing = [name for name, one in zip(database.shards, found, strict=True) if one is None]
        present = [one for one in found if one is not None]
        if missing and present:
            problems.append(f"{kind} table {table} is missing on shard {', '.join(missing)}")
        for relkind, key_type, deterministic in present[:1] if len(set(present)) == 1 else present:
            if relkind not in {"r", "p"}:
                problems.append(f"{table} is not a table")
            elif kind == "sharded" and not hash_family(key_type or ""):
                what = "is missing" if key_type is None else f"is of type {key_type}, which is no key type"
                problems.append(f"the key {key} of {table} {what}")
            elif kind == "sharded" and not deterministic:
                problems.append(f"the key {key} of {table} has a nondeterministic collation")
        if kind == "sharded" and len({one[1] for one in present}) > 1:
            problems.append(f"the key {key} of {table} is not of one type on all shards")
    return problems


def expected_meta(database: Database, cluster_name: str, shard: int) -> dict[str, Any]:
    """Return the row that a shard's pgchorus.meta should have."""
    return {
        "one": True,
        "cluster": cluster_name,
        "shard": database.shards[shard],
        "shard_index": shard,
        "shards": list(database.shards),
        "home": database.shards[database.home],
        "slots": database.slots,
        "spread": list(database.holders),
    }


def foreign(cluster_name: str, shards: Sequence[ShardLook], database: Database) -> list[str]:
    """Return shards that belong to somebody else, or that are mixed up: never to be changed by an installation."""
    problems = []
    for name, shard in zip(database.shards, shards, strict=True):
        if shard.meta is None:
            continue
        if shard.meta["cluster"] != cluster_name:
            problems.append(f"shard {name} belongs to cluster {shard.meta['cluster']}, not {cluster_name}")
        elif shard.meta["shard"] != name:
            problems.append(f"shard {name} says that it is {shard.meta['shard']}: are two DSNs mixed up?")
    return problems


def kept(meta: Mapping[str, Any], what: str) -> Any:
    """Return what a shard's row in pgchorus.meta says; one of an earlier version says nothing of the spread."""
    return meta.get(what) or meta["shards"] if what == "spread" else meta[what]


def differences(
    database: Database, cluster_name: str, shards: Sequence[ShardLook], *, rows_stay: bool = False
) -> tuple[list[str], set[TableName]]:
    """Return in what the shards differ from the configuration, and the tables whose rows would be misplaced by it.

    ``rows_stay``: other shards, with the same spread, have been seen to misplace none (proxy.shards.joining).
    """
    placed = declared(database)
    problems: list[str] = []
    touched: set[TableName] = set()
    for index, (name, shard) in enumerate(zip(database.shards, shards, strict=True)):
        stored = shard.placements or {}
        if shard.meta is None:
            problems.append(f"shard {name} has no pgchorus schema")
        wanted = expected_meta(database, cluster_name, index)
        for what in ("shards", "home", "slots", "spread"):
            there = wanted[what] if shard.meta is None else kept(shard.meta, what)
            if there != wanted[what]:
                problems.append(f"shard {name} has {what} = {there}, the configuration {wanted[what]}")
                if what != "shards" or not rows_stay:
                    touched |= set(placed) | set(stored)
        for table in sorted(placed.keys() | stored.keys()):
            if placed.get(table) != stored.get(table):
                has, want = _words(stored.get(table)), _words(placed.get(table))
                problems.append(f"on shard {name} {table} is {has}, in the configuration {want}")
                touched.add(table)
    epochs = {shard.epoch for shard in shards}
    if len(epochs) > 1:
        listed = ", ".join(f"{name} {shard.epoch}" for name, shard in zip(database.shards, shards, strict=True))
        problems.append(f"the shards have different epochs: {listed}")
    return problems, touched


def _words(row: tuple[Any, ...] | None) -> str:
    if row is None:
        return "not placed"
    return "a reference table" if row[0] == "reference" else f"sharded by {row[1]} in {row[2]} slots"


async def stored_otherwise(control: Control, database: Database) -> str:
    """Return in what home's placements differ from the configuration, '' for nothing. Raises ShardError.

    For a proxy that serves: another one may have been told of new ones.
    """
    async with control.connection(database.home) as connection:
        stored = json.loads(await connection.fetchval(STORED))
    ours = expected_meta(database, "", database.home)
    for what in ("shards", "home", "slots", "spread"):
        if (there := kept(stored["meta"], what)) != ours[what]:
            return f"{what}: {there}, in the configuration {ours[what]}"
    found = {TableName(row[0], row[1]): tuple(row[2:]) for row in stored["placements"] or ()}
    wanted = declared(database)
    return "; ".join(
        f"{table} is {_words(found.get(table))}, in the configuration {_words(wanted.get(table))}"
        for table in sorted(found.keys() | wanted.keys())
        if found.get(table) != wanted.get(table)
    )


async def check(control: Control, database: Database, cluster_name: str) -> int:
    """See that every shard is who the configuration says and places every table alike; return the epoch.

    Raises PlacementMismatch with everything that differs, ShardError when a shard cannot be asked.
    """
    shards = await look_everywhere(control, database)
    hint = "Run pgchorus init with this configuration, or mend the configuration."
    _raise_problems(database, cluster_name, shards, hint)
    return shards[0].epoch or 0


async def check_reachable(control: Control, database: Database, cluster_name: str) -> tuple[int, dict[int, ShardError]]:
    """See that the shards that can be asked are as the configuration says; return the epoch, and why others cannot.

    For a start while a shard is down: then nothing is installed or changed. Raises PlacementMismatch, and ShardError
    when no shard can be asked at all.
    """
    wanted = declared(database)
    looks = await asyncio.gather(
        *(look_at(control, database, shard, wanted) for shard in range(len(database.shards))), return_exceptions=True
    )
    missing = {}
    for shard, look in enumerate(looks):
        if isinstance(look, ShardError):
            missing[shard] = look
        elif isinstance(look, BaseException):
            raise look
    known = [look for look in looks if isinstance(look, ShardLook)]
    if not known:
        raise missing[0]
    shards = [
        look if isinstance(look, ShardLook) else _stand_in(known[0], database, cluster_name, shard)
        for shard, look in enumerate(looks)
    ]
    _raise_problems(database, cluster_name, shards, "All shards have to be up for their schema to be made or changed.")
    return known[0].epoch or 0, missing


async def admit(control: Control, database: Database, cluster_name: str, shard: int, epoch: int) -> None:
    """See that a shard that was down at the start is as the configuration says, and renew what is ours there.

    Raises PlacementMismatch, and ShardError when it cannot be asked.
    """
    look = await look_at(control, database, shard, declared(database))
    shards = [
        look if index == shard else replace(_stand_in(look, database, cluster_name, index), epoch=epoch)
        for index in range(len(database.shards))
    ]
    _raise_problems(database, cluster_name, shards, "Run pgchorus init with this configuration, and start again.")
    await install_on(control, shard)
    await ensure_slot_checks(control, database, [shard])


def _stand_in(known: ShardLook, database: Database, cluster_name: str, shard: int) -> ShardLook:
    """Return what a shard that cannot be asked would say if it were like another one."""
    return replace(known, identity=f"{known.identity} {shard}", meta=expected_meta(database, cluster_name, shard))


def _raise_problems(database: Database, cluster_name: str, shards: Sequence[ShardLook], hint: str) -> None:
    problems = unfit(database, shards) + foreign(cluster_name, shards, database)
    problems += differences(database, cluster_name, shards)[0] or table_problems(database, shards)
    if problems:
        raise PlacementMismatch(problems, hint)


# --- changing ----------------------------------------------------------------------------------------------------


async def install(control: Control, database: Database, cluster_name: str) -> int:
    """Create or renew the schema on every shard, store the placements, and return the epoch.

    Can be run as often as you like, also after it was interrupted. Raises PlacementMismatch when rows would be in the
    wrong place afterwards, and ShardError.
    """
    async with control.connection(database.home) as turn:
        await turn.execute(f"SELECT pg_advisory_lock({INSTALL_LOCK})")
        try:
            return await _install(control, database, cluster_name)
        finally:
            await turn.execute(f"SELECT pg_advisory_unlock({INSTALL_LOCK})")


async def _install(control: Control, database: Database, cluster_name: str) -> int:
    shards = await look_everywhere(control, database)
    problems = unfit(database, shards) + foreign(cluster_name, shards, database) + table_problems(database, shards)
    at_home = shards[database.home].meta
    # Home is told last when a shard joins: where it has not been told, the others were told in vain (replacing).
    rows_stay = at_home is not None and at_home["shards"] == list(database.shards)
    found, touched = differences(database, cluster_name, shards, rows_stay=rows_stay)
    if not problems:
        for table, name in await _with_rows(control, database, touched, shards):
            of_table = [difference for difference in found if f" {table} is " in difference] or found
            problems.append(f"{table} has rows on shard {name}, which do not move by themselves, and {of_table[0]}")
    if problems:
        hint = "Empty or drop the table, or give it back the placement that it had."
        if at_home is not None and at_home["shards"] != list(database.shards):
            hint = "A shard joins by RELOAD of a proxy that serves the others (docs/operations.md), not by a start."
        raise PlacementMismatch(problems, hint)
    done = await asyncio.gather(
        *(install_on(control, shard) for shard in range(len(database.shards))), return_exceptions=True
    )
    for outcome in done:
        if outcome is not None:  # told when all are done: none of them may go on while what follows is under way
            raise outcome
    known = [shard.epoch for shard in shards if shard.epoch is not None]
    fresh = all(shard.meta is None for shard in shards)
    epoch = max(known, default=1) + (1 if found and not fresh else 0)
    if found:
        for index in (*(one for one in range(len(database.shards)) if one != database.home), database.home):
            await _store(control, database, cluster_name, index, epoch, announced=index == database.home and not fresh)
    return epoch


async def _with_rows(
    control: Control, database: Database, tables: Iterable[TableName], shards: Sequence[ShardLook]
) -> list[tuple[TableName, str]]:
    """Return tables that have rows which would be misplaced, each with a shard where it has."""
    found = []
    placed = declared(database)
    for name, look, shard in zip(database.shards, shards, range(len(shards)), strict=True):
        stored = look.placements or {}
        async with control.connection(shard) as connection:
            for table in sorted(tables):
                quoted = quote_table(table)
                if not await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", quoted):
                    continue
                if await _only_named(connection, table, stored, placed):
                    continue
                if await connection.fetchval(f"SELECT EXISTS (SELECT FROM {quoted})"):  # noqa: S608 - quoted
                    found.append((table, name))
    return found


async def _only_named(connection: ControlConnection, table: TableName, stored: _Rows, placed: _Rows) -> bool:
    """Whether all that changes for a table is that it is named, or is no more, and it is placed as its parent."""
    one = placed.get(table) or stored.get(table)

    def placed_so(root: TableName) -> bool:
        return stored.get(root) == placed.get(root) == one

    return (table in stored) != (table in placed) and await placed_by_kin(connection, table, is_so=placed_so)


async def install_on(control: Control, shard: int) -> None:
    """Create or renew our schema on a shard. Raises ShardError."""
    statements = [*record.install_sql(), *TABLES, STRAY, NOTE_CHANGE, GUARD, *NOTE_DDL, *GRANTS]
    statements += [HOLD_VIEW, FILL_VIEW, *VIEW_GRANTS]
    async with control.connection(shard) as connection:
        await connection.execute("BEGIN; SET LOCAL client_min_messages = warning")
        try:
            for statement in statements:
                await connection.execute(statement)
            await connection.execute("COMMIT")
        except ShardError as error:
            if not error.lost:
                await connection.execute("ROLLBACK")
            raise


def store_sql(database: Database, cluster_name: str, shard: int, epoch: int) -> list[str]:
    """Return the statements that write on a shard what the configuration says, under EXCLUSIVE on the fence."""
    rows = [
        _insert("placement", table_schema=table.schema, table_name=table.name, kind=kind, key=key, slots=slots)
        for table, (kind, key, slots) in declared(database).items()
    ]
    return [
        "DELETE FROM pgchorus.meta",
        _insert("meta", **expected_meta(database, cluster_name, shard)),
        "DELETE FROM pgchorus.placement",
        *rows,
        NAME_KEY_TYPES,
        f"UPDATE pgchorus.epoch SET epoch = {epoch}",  # noqa: S608 - a number
    ]


async def _store(  # noqa: PLR0913 - what is stored, and where
    control: Control, database: Database, cluster_name: str, shard: int, epoch: int, *, announced: bool
) -> None:
    """Write what the configuration says, all at once; deciders with the old epoch are waited for, and fail after it.

    ``announced``: proxies that serve already are to see that they go by others.
    """
    stored = store_sql(database, cluster_name, shard, epoch)
    if announced:
        stored.append(CATALOG_BUMP)
    statements = ["BEGIN", "LOCK TABLE pgchorus.fence IN EXCLUSIVE MODE", *stored, "COMMIT"]
    async with control.connection(shard) as connection:
        try:
            await connection.execute("; ".join(statements))
        except ShardError:
            await connection.execute("ROLLBACK")
            raise


def _insert(table: str, **values: object) -> str:
    names = ", ".join(quote_identifier(name) for name in values)
    return f"INSERT INTO pgchorus.{table} ({names}) VALUES ({', '.join(_literal(v) for v in values.values())})"  # noqa: S608


def _literal(value: object) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, list):
        return f"ARRAY[{', '.join(_literal(item) for item in value)}]"
    return quote_literal(str(value))


# --- slot checks -------------------------------------------------------------------------------------------------


async def ensure_slot_checks(control: Control, database: Database, on: Sequence[int] | None = None) -> None:
    """Give every sharded table that is there the CHECK on its slots, and validate it (on all shards, or on some).

    Cheap where all is well. Raises PlacementMismatch for rows on the wrong shard; new ones are held off even then.
    """
    if len(database.shards) == 1:
        return
    problems = await asyncio.gather(
        *(_ensure_on(control, database, s) for s in (range(len(database.shards)) if on is None else on))
    )
    listed = [problem for of_shard in problems for problem in of_shard]
    if listed:
        raise PlacementMismatch(listed, "Move these rows to the shards where they belong, or delete them.")


async def _ensure_on(control: Control, database: Database, shard: int) -> list[str]:
    problems = []
    async with control.connection(shard) as connection:
        for table, placement in sorted(database.placements.items()):
            if not isinstance(placement, Sharded):
                continue
            if not await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", quote_table(table)):
                continue
            await connection.execute(guard_call(database, table, placement.key, shard, validate=False))
            try:
                await connection.execute(guard_call(database, table, placement.key, shard))
            except ShardError as error:
                if error.fields.sqlstate != _CHECK_VIOLATION:
                    raise
                count = await _misplaced(connection, database, table, placement.key, shard)
                problems.append(f"{count} rows of {table} on shard {database.shards[shard]} belong to other shards")
    return problems


async def _misplaced(connection: ControlConnection, database: Database, table: TableName, key: str, shard: int) -> int:
    """Count the rows whose slots are not this shard's."""
    key_type = await connection.fetchval(
        "SELECT t.typname FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid"
        " WHERE a.attrelid = $1::text::regclass AND a.attname = $2",
        quote_table(table),
        key,
    )
    first, last = database.slot_range(shard)
    condition = slot_check(key_type, quote_identifier(key), database.slots, first, last)
    count: int = await connection.fetchval(f"SELECT count(*) FROM {quote_table(table)} WHERE NOT ({condition})")  # noqa: S608
    return count
