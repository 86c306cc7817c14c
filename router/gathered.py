"""How the rows of several loads come in one answer of a shard.

Decides the text by which a shard sends its parts of all loads, and where the columns of a load stand in it. One SELECT
has one snapshot, also where several would have several: so the loads of a shard are the arms of a UNION ALL, each row
with the number of its load first and NULLs in place of the columns of the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from router.printer import quoted

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from router.plan import Load


def shard_text(loads: Sequence[Load], wanted: Collection[int]) -> str:
    """Return the SELECT of a shard that has the loads of these indexes. One load alone comes as it is."""
    if len(loads) == 1:
        load = loads[0]
        return f"SELECT {', '.join(_columns(load))} FROM {load.source}"  # noqa: S608 - made of the router's own pieces
    arms = []
    for index in sorted(wanted):
        columns = [f"{index}::pg_catalog.int2"]
        for other, load in enumerate(loads):
            columns += _columns(load) if other == index else _nulls(load)
        arms.append(f"SELECT {', '.join(columns)} FROM {loads[index].source}")  # noqa: S608 - the same
    return " UNION ALL ".join(arms)


def named_text(loads: Sequence[Load], text: str) -> str:
    """Return a shard's SELECT with column names that are the same on all shards, whichever loads it has."""
    if len(loads) == 1:
        return text
    names = ", ".join(f"c{number}" for number in range(1 + sum(len(load.columns) for load in loads)))
    return f'SELECT * FROM ({text}) AS "pgchorus" ({names})'  # noqa: S608 - made of the router's own pieces


def _columns(load: Load) -> list[str]:
    return [f"{load.alias}.{quoted(name)}" for name in load.columns]


def _nulls(load: Load) -> list[str]:
    return [f"NULL::{name}" for name in load.types]


def offsets(loads: Sequence[Load]) -> list[tuple[int, int, int]]:
    """Return, for each load, how many columns of others stand before its own, its own, and those behind."""
    total = sum(len(load.columns) for load in loads)
    found, before = [], 0
    for load in loads:
        own = len(load.columns)
        found.append((before, own, total - before - own))
        before += own
    return found
