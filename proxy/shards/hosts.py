"""The servers of one shard: which of them is the primary, by what each has said of itself.

Rules, each with what it prevents:

1. A primary is a server that is not in recovery and lets transactions write: ``pg_is_in_recovery()`` is false and
   ``transaction_read_only`` off.
2. None with a lower timeline than the highest that was ever seen, on a standby as well: an old primary that still runs,
   or runs again, after another one was promoted (split brain). What would be committed there is lost. Seen counts
   whoever has: other proxies' looks are noted on the other shards (timelines.py).
3. Of two on one timeline the one that is known stays; without that, none is taken: which of them the others follow
   cannot be told.
4. All servers have one system identifier. A server of another cluster in the list has other rows.

How far the standbys are is told by positions in the WAL alone, whatever their clocks say (``Progress``).

Decided here, without asking anybody. Asking is finder.py's; what a move means for links is left to those who hold them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

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
    seen, 0: none) and ``system`` are remembered as long as the process lives; ``noted`` is, by system identifier, the
    highest timeline that any proxy has noted on another shard.
    """

    address: HostAddress | None = None
    last: HostAddress | None = None
    moves: int = 0
    timeline: int = 0
    system: int = 0
    noted: dict[int, int] = field(default_factory=dict)


SAMPLES: Final = 3600  # of a primary's position that are remembered


class Progress:
    """What the standbys of a shard have, by looks at all of its servers.

    A standby that has replayed what was durable on the primary when it was asked has everything that was committed
    before that look began. So each look is a sample (when it began, the primary's position), and a standby is as good
    as the newest sample that it has passed. That counts only while it is known to follow this primary: one that has
    diverged may be further and have other things.
    """

    def __init__(self) -> None:
        #: By standby: the moment (the clock's of ``note``) of which it has everything, and its position.
        self.complete_at: dict[HostAddress, float] = {}
        self.replayed: dict[HostAddress, int] = {}
        self._samples: deque[tuple[float, int]] = deque(maxlen=SAMPLES)
        self._timeline = 0

    def clear(self) -> None:
        """Another server is the primary: nothing is known of how far the others are."""
        self._samples.clear()
        self.complete_at.clear()
        self.replayed.clear()

    def forget(self, address: HostAddress) -> None:
        """The connection to a server is a new one: after a restart a standby may be further back for a while."""
        self.complete_at.pop(address, None)
        self.replayed.pop(address, None)

    def note(self, at: float, primary: HostAddress, said: Mapping[HostAddress, Said]) -> None:
        """Take in what was said at a look that began ``at``."""
        head = said[primary]
        if head.timeline != self._timeline:
            self.clear()
            self._timeline = head.timeline
        self._samples.append((at, head.lsn))
        for address, one in said.items():
            if not one.in_recovery:
                self.forget(address)
            elif one.follows == head.timeline and one.system == head.system:
                self.replayed[address] = one.lsn
                passed = next((moment for moment, lsn in reversed(self._samples) if lsn <= one.lsn), None)
                if passed is not None:
                    self.complete_at[address] = passed


class NoPrimaryError(Exception):
    """No server may be used as the primary; the text says why not, for each."""


def choose(said: Mapping[HostAddress, Said], place: Place) -> HostAddress:
    """Return the address of the primary among those who have answered. Raises NoPrimaryError."""
    systems = {one.system for one in said.values()}
    if place.system:
        said = {address: one for address, one in said.items() if one.system == place.system}
    elif len(systems) > 1:
        raise NoPrimaryError("they are not servers of one cluster: their system identifiers differ")
    newest = newest_timeline(said, place)
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


def newest_timeline(said: Mapping[HostAddress, Said], place: Place) -> int:
    """Return the highest timeline that anybody knows of, 0 if nobody does. ``said`` are servers of one cluster."""
    noted = [place.noted.get(system, 0) for system in {one.system for one in said.values()}]
    return max([place.timeline, *noted, *(one.timeline for one in said.values())])


def report(said: Mapping[HostAddress, Said], silent: Mapping[HostAddress, str], order: Sequence[HostAddress]) -> str:
    """Return for a person what each server has said, or why it has not."""
    return "; ".join(
        f"{address}: {said[address] if address in said else silent.get(address, 'not asked')}" for address in order
    )
