"""Rows on the wrong shard, and the CHECKs that keep them from there.

Decides which rows are looked at, and how gently: each table is read once, in batches of pages. The judge is Postgres's
own ``satisfies_hash_partition``, asked of an empty temporary table that is partitioned by hash: it must agree with the
slot that the proxy computes, and the slot must be this shard's.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from proxy.doctor import scripts
from proxy.doctor.finding import HAND, PSQL, SHELL, Command
from proxy.doctor.look import listed, words
from proxy.shards.errors import ShardError
from proxy.tasks import all_ended
from router.cluster import Sharded
from router.own_schema import SLOT_CONSTRAINT, guard_call, quote_identifier, quote_table, told
from router.sharding import hash_family, slot_check, slot_expression

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from proxy.doctor.look import Look
    from proxy.shards.control import ControlConnection
    from router.cluster import TableName

# A table with all below it: quoted name, pages, columns that can be written. $1: its name, $2: its key.
LEAVES: Final = """WITH RECURSIVE below AS (SELECT to_regclass($1)::oid AS oid
    UNION SELECT i.inhrelid FROM pg_inherits i JOIN below b ON i.inhparent = b.oid)
    SELECT json_build_object('type', (SELECT t.typname FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
            WHERE a.attrelid = to_regclass($1) AND a.attname = $2 AND NOT a.attisdropped),
        'slot', (SELECT json_build_object('valid', c.convalidated, 'enforced', coalesce((to_jsonb(c) ->>
            'conenforced')::boolean,
                true), 'expression', pg_get_expr(c.conbin, c.conrelid))
            FROM pg_constraint c WHERE c.conrelid = to_regclass($1) AND c.conname = 'pgchorus_slot' AND c.contype =
            'c'),
        'leaves', coalesce((SELECT json_agg(json_build_array(format('%I.%I', n.nspname, c.relname),
                pg_relation_size(c.oid) / current_setting('block_size')::int,
                (SELECT json_agg(a.attname ORDER BY a.attnum) FROM pg_attribute a WHERE a.attrelid = c.oid AND
                a.attnum > 0
                    AND NOT a.attisdropped AND a.attgenerated = '')) ORDER BY n.nspname, c.relname)
            FROM below b JOIN pg_class c ON c.oid = b.oid AND c.relkind = 'r' JOIN pg_namespace n ON n.oid =
            c.relnamespace),
            '[]'))::text"""
_JUDGE: Final = "CREATE TEMPORARY TABLE pgchorus_{0} (k pg_catalog.{0}) PARTITION BY HASH (k)"
_NUMBERS: Final = re.compile(r"[0-9]+")


class Leaf(NamedTuple):
    """A table that has rows of its own."""

    name: str
    pages: int
    columns: tuple[str, ...]


class Placed(NamedTuple):
    """What one shard says of one sharded table."""

    key_type: str | None
    slot: dict[str, Any] | None
    leaves: list[Leaf]


async def placed(connection: ControlConnection, table: TableName, key: str) -> Placed | None:
    """Ask a shard about a table; None when it is not there."""
    found = json.loads(await connection.fetchval(LEAVES, quote_table(table), key))
    if found["type"] is None and not found["leaves"]:
        return None
    return Placed(
        found["type"],
        found["slot"],
        [Leaf(name, pages, tuple(columns or ())) for name, pages, columns in found["leaves"]],
    )


async def batches(look: Look, connection: ControlConnection, leaf: Leaf, query: str) -> AsyncIterator[Any]:
    """Run a query (``{leaf}`` stands for FROM's item) for a portion of pages at a time; yield its JSON answers.

    The last portion has no end: rows may have come meanwhile.
    """
    step = look.options.batch_pages
    for first in range(0, leaf.pages + 1, step):
        until = f" AND ctid < '({first + step},0)'" if first + step <= leaf.pages else ""
        part = f"ONLY {leaf.name} WHERE ctid >= '({first},0)'{until}"
        yield json.loads(await connection.fetchval(query.replace("{leaf}", part)))
        done = min(100, (first + step) * 100 // max(1, leaf.pages))
        look.say(f"{look.database.name}: {look.name(connection.shard)}: {leaf.name}: {done} %")
        await look.pause()


async def look_at_slots(look: Look) -> None:
    """Look at the CHECKs of every sharded table, and at its rows if that is wanted; shards side by side."""
    if not look.many:
        return
    await all_ended([_shard(look, shard) for shard in look.up])


async def _shard(look: Look, shard: int) -> None:
    async with look.link(shard) as connection:
        made: set[str] = set()
        for table, placement in sorted(look.database.placements.items()):
            if not isinstance(placement, Sharded):
                continue
            here = await placed(connection, table, placement.key)
            if here is None or here.key_type is None or not hash_family(here.key_type):
                continue  # said with the placements
            misplaced = False
            if look.options.rows:
                if here.key_type not in made:
                    made.add(here.key_type)
                    await connection.execute(_JUDGE.format(here.key_type))
                misplaced = await _rows(look, connection, table, placement.key, here)
            if look.facts[shard]["own"] is not None:  # otherwise init makes it with the schema
                _check(look, shard, table, placement.key, here, misplaced=misplaced)
        if made:
            await connection.execute("DROP TABLE " + ", ".join(f"pg_temp.pgchorus_{name}" for name in sorted(made)))


def _check(  # noqa: PLR0913 - what is known of one table
    look: Look, shard: int, table: TableName, key: str, here: Placed, *, misplaced: bool
) -> None:
    """Compare the CHECK with what it should be, by its numbers: Postgres prints all else its own way.

    Where rows are on the wrong shard it could not be validated: moving them does it.
    """
    first, last = look.database.slot_range(shard)
    wanted = told(slot_check(here.key_type or "", quote_identifier(key), look.database.slots, first, last))
    moved = (Command(HAND, "mend rows-misplaced: its script makes the CHECK as well"),)
    guard = look.sql(shard, guard_call(look.database, table, key, shard))
    anew = moved if misplaced else (_dropped(look, shard, table), guard)
    if here.slot is None:
        look.add("slot-check-missing", shard, table, "is not there", *(moved if misplaced else (guard,)))
        return
    expression = here.slot["expression"]
    same = _NUMBERS.findall(expression) == _NUMBERS.findall(wanted.replace("::pg_catalog.int8", " "))
    if not same or "stray" not in expression:
        detail = f"is another one: slots {first} to {last} belong here" if first <= last else "lets rows in, of no slot"
        look.add("slot-check-missing", shard, table, detail, *anew)
    elif not here.slot["enforced"]:
        look.add("slot-check-disabled", shard, table, "is NOT ENFORCED", *anew)
    elif not here.slot["valid"]:
        text = f"ALTER TABLE {quote_table(table)} VALIDATE CONSTRAINT {SLOT_CONSTRAINT}"
        look.add(
            "slot-check-not-valid", shard, table, "is NOT VALID", *(moved if misplaced else (look.sql(shard, text),))
        )


def _dropped(look: Look, shard: int, table: TableName) -> Command:
    return look.sql(shard, f"ALTER TABLE {quote_table(table)} DROP CONSTRAINT {SLOT_CONSTRAINT}")


async def _rows(look: Look, connection: ControlConnection, table: TableName, key: str, here: Placed) -> bool:
    """Judge every row of a table on one shard; returns whether some belong elsewhere."""
    shard, slots = connection.shard, look.database.slots
    spread = look.database.spread or tuple(range(len(look.database.shards)))
    owner = f"(ARRAY[{', '.join(map(str, spread))}])[slot * {len(spread)} / {slots} + 1]"
    kind, column = here.key_type or "", quote_identifier(key)
    slot = slot_expression(kind, column, slots)
    judge = f"satisfies_hash_partition('pg_temp.pgchorus_{kind}'::regclass, {slots}, slot::integer, k)"
    query = (
        "SELECT json_build_object('rows', coalesce(sum(n), 0), 'wrong', coalesce(sum(n) FILTER (WHERE NOT hashed), 0),"  # noqa: S608 - names are quoted
        " 'by_shard', coalesce(json_object_agg(shard, n) FILTER (WHERE hashed), '{}'))::text FROM ("
        f"SELECT {owner} AS shard, {judge} AS hashed, count(*) AS n"
        f" FROM (SELECT {column} AS k, {slot} AS slot FROM {{leaf}}) r GROUP BY 1, 2) g"
    )
    elsewhere: dict[Leaf, Counter[int]] = {}
    wrong = 0
    for leaf in here.leaves:
        counts: Counter[int] = Counter()
        try:
            async for answer in batches(look, connection, leaf, query):
                look.rows_read += answer["rows"]
                wrong += answer["wrong"]
                counts.update({int(s): n for s, n in answer["by_shard"].items() if int(s) != shard})
        except ShardError as error:
            if error.lost:
                raise
            look.add("look-incomplete", shard, leaf.name, words(error), _longer(look))
        if counts:
            elsewhere[leaf] = counts
    if wrong:
        look.add("hash-differs", shard, table, f"{wrong} keys, by satisfies_hash_partition")
    if elsewhere:
        _misplaced(look, shard, table, key, here, elsewhere)
    return bool(elsewhere)


def _longer(look: Look) -> Command:
    gently = f"--timeout {look.options.timeout_s * 10:g} --batch-pages {max(1, look.options.batch_pages // 8)}"
    return Command(SHELL, f"pgchorus doctor -c {look.options.config} {gently}")


def _misplaced(  # noqa: PLR0913, PLR0917 - where what is
    look: Look, shard: int, table: TableName, key: str, here: Placed, elsewhere: dict[Leaf, Counter[int]]
) -> None:
    """Note rows that belong elsewhere. First no more may come, then they move, then the CHECK is validated."""
    total: Counter[int] = Counter()
    commands = [look.sql(shard, guard_call(look.database, table, key, shard, validate=False))]
    if here.slot is not None and not here.slot["enforced"]:
        commands.insert(0, _dropped(look, shard, table))
    for leaf, counts in elsewhere.items():
        total.update(counts)
        for target, count in sorted(counts.items()):
            first, last = look.database.slot_range(target)
            fits = slot_check(here.key_type or "", quote_identifier(key), look.database.slots, first, last)
            text = scripts.move_rows(look, leaf.name, leaf.columns, fits, shard, target, count)
            commands.append(Command(PSQL, text))
    commands.append(look.sql(shard, guard_call(look.database, table, key, shard)))
    detail = listed([f"{count} belong to {look.name(target)}" for target, count in sorted(total.items())])
    look.add("rows-misplaced", shard, table, f"{total.total()} rows: {detail}", *commands)
