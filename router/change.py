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

    @property
    def named(self) -> Placement | None:
        """Where the one of the two configurations places it that names it; None where both do."""
        if isinstance(self.before, Home):
            return self.after
        return self.before if isinstance(self.after, Home) else None

    def __str__(self) -> str:
        return f"{self.table} is {words(self.before)} and would be {words(self.after)}"


@dataclass(frozen=True, slots=True)
class Change:
    """From one configuration of a database to another: ``impossible`` says why not, one clause each.

    ``added``: the names of shards that come behind the others and have no slots.
    """

    replaced: tuple[Replaced, ...] = ()
    functions: bool = False
    added: tuple[str, ...] = ()
    impossible: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.replaced or self.functions or self.added or self.impossible)


def words(placement: Placement) -> str:
    """Say where a table's rows live."""
    if isinstance(placement, Sharded):
        return f"sharded by {placement.key}"
    return "a reference table" if isinstance(placement, Reference) else "on the home shard"


def difference(before: Database, after: Database) -> Change:
    """Compare two configurations of one database."""
    impossible = []
    added = after.shards[len(before.shards) :]
    if before.shards != after.shards[: len(before.shards)]:
        impossible.append(_of_shards(before.shards, after.shards))
    elif len(before.shards) == 1 and added:
        impossible.append(
            f"{before.shards[0]} is the only shard: everything is planned for one, and its rows have no CHECK"
        )
    elif before.holders != after.holders:
        impossible.append(
            f"rows are spread over {', '.join(before.holders)} and would be over {', '.join(after.holders)}"
            " (spread: says over which)"
        )
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
        added=added,
        impossible=tuple(impossible),
    )


def _of_shards(before: tuple[str, ...], after: tuple[str, ...]) -> str:
    gone = [name for name in before if name not in after]
    if gone:
        return f"shard {', '.join(gone)} would be gone, with its rows"
    return f"the shards are {', '.join(before)} and would be {', '.join(after)}: their order says where rows are"


def _replaced(before: Mapping[TableName, Placement], after: Mapping[TableName, Placement]) -> tuple[Replaced, ...]:
    home = Home()  # what is not named
    tables = sorted({*before, *after})
    pairs = ((table, before.get(table, home), after.get(table, home)) for table in tables)
    return tuple(Replaced(*pair) for pair in pairs if pair[1] != pair[2])
