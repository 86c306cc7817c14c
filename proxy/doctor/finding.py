"""What was found, and the commands that mend it: values without behaviour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from proxy.doctor.kinds import KINDS

if TYPE_CHECKING:
    from proxy.doctor.kind import Kind

SHELL: Final = "shell"
PSQL: Final = "psql"
FILE: Final = "configuration"
HAND: Final = "by hand"


@dataclass(frozen=True, slots=True)
class Command:
    """One step of a mend.

    ``on`` is a shard's name (``text`` is SQL to be run in its database, by its DSN's role), ``shell``, ``psql`` (a
    script that connects where it has to), ``configuration`` (what the file should say), or ``by hand``.
    """

    on: str
    text: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be. ``shards`` are those concerned, by name; empty: all, or none."""

    kind: Kind
    database: str
    shards: tuple[str, ...]
    thing: str
    detail: str
    mend: tuple[Command, ...] = ()

    def __str__(self) -> str:
        where = " ".join(part for part in (self.database, ",".join(self.shards)) if part)
        return ": ".join(part for part in (where, self.thing, self.detail) if part)


def found(
    name: str, database: str, shards: tuple[str, ...] | str = (), thing: object = "", detail: str = "", *mend: Command
) -> Finding:
    """Make a finding of a kind by its name."""
    of = (shards,) if isinstance(shards, str) else tuple(shards)
    return Finding(KINDS[name], database, tuple(shard for shard in of if shard), str(thing), detail, mend)
