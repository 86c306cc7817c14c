"""What exists and where rows live: frozen values, made from the configuration.

Decides nothing about SQL. A shard is known here by name and index only; how to reach it (DSNs, passwords) is the
proxy's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_SLOTS = 4096


@dataclass(frozen=True, slots=True, order=True)
class TableName:
    """A table's schema and name, as stored in pg_class (case folded already, never quoted)."""

    schema: str
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True, slots=True)
class Sharded:
    """Rows are spread by the hash of one key column."""

    key: str


@dataclass(frozen=True, slots=True)
class Reference:
    """Every shard has a full copy."""


@dataclass(frozen=True, slots=True)
class Home:
    """Only the home shard has it: where a plain table lives that the configuration does not name."""


Placement = Sharded | Reference | Home


class Vouch(Enum):
    """What the configuration vouches for a user function that the catalog cannot see through."""

    PURE = "pure"  # touches no table at all
    HOME = "home"  # touches only home and reference tables: may run on the home shard
    LOCAL = "local"  # touches only rows of the shard it runs on, by the key of the statement that calls it


@dataclass(frozen=True, slots=True)
class Database:
    """One logical database: its shards in configuration order, and what is placed where.

    ``shards`` are names; everywhere else a shard is its index in this tuple. ``slots`` is a power of two. ``spread``:
    the shards that have rows of sharded tables; () for all. The others have copies of reference tables, and no slots.
    """

    name: str
    shards: tuple[str, ...]
    home: int
    placements: Mapping[TableName, Placement] = field(default_factory=dict)
    functions: Mapping[str, Vouch] = field(default_factory=dict)
    slots: int = DEFAULT_SLOTS
    spread: tuple[int, ...] = ()

    @property
    def holders(self) -> tuple[str, ...]:
        """The names of the shards that have rows of sharded tables, in the order of their slots."""
        return tuple(self.shards[shard] for shard in self.spread) or self.shards

    def shard_of_slot(self, slot: int) -> int:
        """Return the index of the shard that owns a slot: contiguous ranges, as even as they can be."""
        spread = self.spread
        return spread[slot * len(spread) // self.slots] if spread else slot * len(self.shards) // self.slots

    def slot_range(self, shard: int) -> tuple[int, int]:
        """Return the first and last slot (inclusive) of a shard; (0, -1) for one that has none."""
        if self.spread and shard not in self.spread:
            return 0, -1
        count = len(self.spread or self.shards)
        at = self.spread.index(shard) if self.spread else shard
        first = -(-at * self.slots // count)
        last = -(-(at + 1) * self.slots // count) - 1
        return first, last

    def placement(self, table: TableName) -> Placement:
        """Return where a plain table lives by configuration alone; the catalog closes it over views and children."""
        return self.placements.get(table, Home())


@dataclass(frozen=True, slots=True)
class Cluster:
    """All databases behind one proxy. ``name`` is part of every transaction id and never changes."""

    name: str
    databases: Mapping[str, Database]
