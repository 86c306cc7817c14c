"""The servers of one shard: which of them is the primary, by what each has said of itself.

Rules, each with what it prevents:

1. A primary is a server that is not in recovery and lets transactions write: ``pg_is_in_recovery()`` is false and
   ``transaction_read_only`` off.
2. None with a lower timeline than the highest that was ever seen, on a standby as well: an old primary that still runs,
   or runs again, after another one was promoted (split brain). What would be committed there is lost.
3. Of two on one timeline the one that is known stays; without that, none is taken: which of them the others follow
   cannot be told.
4. All servers have one system identifier. A server of another cluster in the list has other rows.

Decided here, without asking anybody. Asking is finder.py's; what a move means for links is left to those who hold them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class HostAddress(NamedTuple):
    """One server of a shard."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Said:
    """What a server has said. ``lsn``: up to where a primary's WAL is durable, or a standby has replayed it.

    ``timeline`` of a standby is the highest that it knows of; ``follows`` the one that is streamed to it, 0 if none is.
    """

    in_recovery: bool
    read_only: bool
    timeline: int
    system: int
    lsn: int
    follows: int = 0

    def __str__(self) -> str:
        kind = "a standby" if self.in_recovery else "read only" if self.read_only else "a primary"
        return f"{kind} on timeline {self.timeline}"


@dataclass(slots=True)
class Place:
    """Where a shard's primary is. ``address`` None: not known now, nobody may connect before it is found.

    ``last`` is where it was seen last, ``moves`` counts how often that has changed; ``timeline`` (the highest ever
    seen, 0: none) and ``system`` are remembered as long as the process lives.
    """

    address: HostAddress | None = None
    last: HostAddress | None = None
    moves: int = 0
    timeline: int = 0
    system: int = 0


class NoPrimaryError(Exception):
    """No server may be used as the primary; the text says why not, for each."""


def choose(said: Mapping[HostAddress, Said], place: Place) -> HostAddress:
    """Return the address of the primary among those who have answered. Raises NoPrimaryError."""
    systems = {one.system for one in said.values()}
    if place.system:
        said = {address: one for address, one in said.items() if one.system == place.system}
    elif len(systems) > 1:
        raise NoPrimaryError("they are not servers of one cluster: their system identifiers differ")
    newest = max([place.timeline, *(one.timeline for one in said.values())])
    fit = [
        address for address, one in said.items() if not one.in_recovery and not one.read_only and one.timeline >= newest
    ]
    if len(fit) == 1 or place.last in fit:
        return place.last if place.last in fit else fit[0]
    if fit:
        listed = " and ".join(map(str, fit))
        raise NoPrimaryError(f"{listed} both take writes on timeline {newest}")
    if any(not one.in_recovery and one.timeline < newest for one in said.values()):
        raise NoPrimaryError(f"timeline {newest} has been seen, and only an old primary is there")
    raise NoPrimaryError("none of those that answer takes writes")


def report(said: Mapping[HostAddress, Said], silent: Mapping[HostAddress, str], order: Sequence[HostAddress]) -> str:
    """Return for a person what each server has said, or why it has not."""
    return "; ".join(
        f"{address}: {said[address] if address in said else silent.get(address, 'not asked')}" for address in order
    )
