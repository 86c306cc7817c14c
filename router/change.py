"""What would become of the rows, if a database were configured in another way while it is served.

Decides which changes no look at the shards could allow, because rows would be elsewhere afterwards, and what is to be
looked at for the others. Left to others: the looking, under locks (:mod:`proxy.shards.replacing`), and what of a
configuration concerns no rows (:mod:`proxy.reload`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from router.cluster import Home, Placement, Reference, Sharded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from router.cluster import Database, TableName


@dataclass(frozen=True, slots=True)
class Replaced:
    """A table that is to be placed in another way than before."""

    table: TableName
    before: Placement
    after: Placement

    @property
    def only_if_absent(self) -> bool:
        """Whether it must not exist yet, even without rows: what it has on the shards is not what it would need.

        A table of the home shard is on no other one; one that was placed leaves copies there, and its CHECK at home.
        """
        return not (isinstance(self.after, Sharded) and isinstance(self.before, Sharded | Home))

    def __str__(self) -> str:
        return f"{self.table} is {words(self.before)} and would be {words(self.after)}"


@dataclass(frozen=True, slots=True)
class Change:
    """From one configuration of a database to another: ``impossible`` says why not, one clause each."""

    replaced: tuple[Replaced, ...] = ()
    functions: bool = False
    impossible: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.replaced or self.functions or self.impossible)


def words(placement: Placement) -> str:
    """Say where a table's rows live."""
    if isinstance(placement, Sharded):
        return f"sharded by {placement.key}"
    return "a reference table" if isinstance(placement, Reference) else "on the home shard"


def difference(before: Database, after: Database) -> Change:
    """Compare two configurations of one database."""
    impossible = []
    if before.shards != after.shards:
        impossible.append(_of_shards(before.shards, after.shards))
    elif before.shards[before.home] != after.shards[after.home]:
        impossible.append(
            f"the home shard is {before.shards[before.home]} and would be {after.shards[after.home]}:"
            " the tables there do not move by themselves"
        )
    if before.slots != after.slots:
        impossible.append(
            f"slots are {before.slots} and would be {after.slots}: rows of every sharded table would move"
        )
    return Change(
        replaced=_replaced(before.placements, after.placements),
        functions=dict(before.functions) != dict(after.functions),
        impossible=tuple(impossible),
    )


def _of_shards(before: tuple[str, ...], after: tuple[str, ...]) -> str:
    gone = [name for name in before if name not in after]
    added = [name for name in after if name not in before]
    if gone:
        return f"shard {', '.join(gone)} would be gone, with its rows"
    if added:
        return f"shard {', '.join(added)} would be new, and rows of every sharded table would move there"
    return f"the shards are {', '.join(before)} and would be {', '.join(after)}: their order says where rows are"


def _replaced(before: Mapping[TableName, Placement], after: Mapping[TableName, Placement]) -> tuple[Replaced, ...]:
    home = Home()  # what is not named
    tables = sorted({*before, *after})
    pairs = ((table, before.get(table, home), after.get(table, home)) for table in tables)
    return tuple(Replaced(*pair) for pair in pairs if pair[1] != pair[2])
