"""Golden vectors of the hash: made by Postgres, never by us.

``python tests/support/hash_vectors.py DSN`` asks a PostgreSQL server and rewrites ``tests/golden/hash_vectors.tsv``:
type, value as JSON (integers as numbers, the rest as text), slot of 4096. Every line is confirmed by
``satisfies_hash_partition`` on a table that Postgres partitions by hash itself. The same seed makes the same values.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import uuid
from pathlib import Path

import asyncpg

VECTORS = Path(__file__).parents[1] / "golden" / "hash_vectors.tsv"
SLOTS = 4096
SEED = 20261122
PER_TYPE = 2000

SLOT_OF = """
WITH v AS (SELECT n, x::{type} AS k FROM unnest($1::text[]) WITH ORDINALITY AS t(x, n)),
     h AS (SELECT n, k, (({hash}(k, 8816678312871386365) & {mask}) + 2275) & {mask} AS slot FROM v)
SELECT slot::int, satisfies_hash_partition('vector_{type}'::regclass, {slots}, slot::int, k) AS confirmed
FROM h ORDER BY n
"""
HASH = {
    "int2": "hashint2extended",
    "int4": "hashint4extended",
    "int8": "hashint8extended",
    "text": "hashtextextended",
    "varchar": "hashtextextended",
    "uuid": "uuid_hash_extended",
    "bpchar": "hashbpcharextended",
}
ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyz0123456789 _-.",
    "äöüßéèñçøÅ",
    "日本語漢字仮名交",
    "🐘🦣🎶👩‍👩‍👧",
    "\t\n\\'\"%,",
)


def integers(bits: int, rng: random.Random) -> list[int]:
    """Extremes, neighbours of powers of two, and random ones of every size."""
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    found = {0, low, high, low + 1, high - 1}
    for power in range(bits - 1):
        found.update((sign * (1 << power)) + step for sign in (1, -1) for step in (-1, 0, 1))
    while len(found) < PER_TYPE:
        size = rng.randrange(1, bits)
        found.add(rng.choice((1, -1)) * rng.getrandbits(size))
    return sorted(value for value in found if low <= value <= high)


def texts(rng: random.Random, count: int) -> list[str]:
    """Empty, of every length around lookup3's twelve bytes, long, and of several alphabets."""
    found = {"", " ", "a", "a ", "\u0301e", "e\u0301", "x" * 2_000, "é" * 601}
    found.update("k" * length for length in range(140))
    while len(found) < count:
        alphabet = rng.choice(ALPHABETS)
        found.add("".join(rng.choice(alphabet) for _ in range(rng.choice((1, 3, 5, 8, 11, 12, 13, 24, 37, 90)))))
    return sorted(found)


def values() -> dict[str, list[int] | list[str]]:
    """Return the values of each type."""
    rng = random.Random(SEED)
    return {
        "int2": integers(16, rng),
        "int4": integers(32, rng),
        "int8": integers(64, rng),
        "text": texts(rng, PER_TYPE),
        "varchar": texts(rng, 300),
        "uuid": [str(uuid.UUID(int=0)), str(uuid.UUID(int=(1 << 128) - 1))]
        + [str(uuid.UUID(int=rng.getrandbits(128))) for _ in range(PER_TYPE - 2)],
        "bpchar": [text + " " * (number % 4) for number, text in enumerate(texts(rng, 400))],
    }


async def ask(connection: asyncpg.Connection[asyncpg.Record], type_name: str, keys: list[int] | list[str]) -> list[int]:
    """Return the slots that Postgres gives the keys, each confirmed by its own partitioning."""
    await connection.execute(f"CREATE TEMP TABLE vector_{type_name} (k {type_name}) PARTITION BY HASH (k)")
    query = SLOT_OF.format(type=type_name, hash=HASH[type_name], mask=SLOTS - 1, slots=SLOTS)
    rows = await connection.fetch(query, [str(key) for key in keys])
    unconfirmed = [key for key, row in zip(keys, rows, strict=True) if not row["confirmed"]]
    if unconfirmed:
        msg = f"{type_name}: satisfies_hash_partition says no to {unconfirmed[:5]}"
        raise AssertionError(msg)
    return [row["slot"] for row in rows]


async def compute(dsn: str) -> str:
    """Return the file's text as this server computes it."""
    connection = await asyncpg.connect(dsn)
    try:
        lines = []
        for type_name, keys in values().items():
            slots = await ask(connection, type_name, keys)
            lines += [
                f"{type_name}\t{json.dumps(key, ensure_ascii=True)}\t{slot}\n"
                for key, slot in zip(keys, slots, strict=True)
            ]
        return "".join(lines)
    finally:
        await connection.close()


def load() -> list[tuple[str, int | str, int]]:
    """Return the stored vectors."""
    lines = VECTORS.read_text(encoding="ascii").splitlines()
    return [(kind, json.loads(value), int(slot)) for kind, value, slot in (line.split("\t") for line in lines)]


if __name__ == "__main__":
    VECTORS.write_text(asyncio.run(compute(sys.argv[1])), encoding="ascii")
