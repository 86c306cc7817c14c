"""What a client's transaction asks of the database whose links it joins, and what it keeps for those that join late.

Protocols and values, nothing else: ``proxy.database`` is what stands behind ``Links``.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Protocol

from proxy.encodings import UTF_8, written
from proxy.errors import ProxyError
from proxy.shards.control import quote_identifier
from proxy.wire.frontend import Query
from router.plan import WITH_HOLD

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from proxy.settings import Applied
    from proxy.shards.link import ShardLink
    from proxy.twophase.coordinator import Draft, Outcome
    from proxy.twophase.deadlock import Identity, Waiter
    from proxy.twophase.fence import Held
    from proxy.twophase.gid import GlobalId
    from proxy.twophase.participant import Participant


class Links(Protocol):
    """Where links come from and go to, and how a group of them commits: the database of the session."""

    proven_settings: set[tuple[int, str, Applied]]  # what has been applied on (shard, role) before

    def take(self, shard: int, role: str, preferred: ShardLink | None = None) -> ShardLink | None:
        """Check a free link out, ``preferred`` if it is one; None when there is none: ``acquire`` waits."""

    async def acquire(self, shard: int, role: str, *, further: bool = False) -> ShardLink:
        """Check a link out; raises ShardError when it cannot connect, ProxyError 53300 when none is free in time.

        ``further``: one to another shard is held meanwhile.
        """

    def is_paused(self, shards: Collection[int]) -> bool:
        """Whether an operator lets no transaction begin on one of some shards."""

    def release(self, link: ShardLink) -> None:
        """Give a link back; one that is not idle is closed."""

    async def acquire_replica(self, shard: int, role: str, *, after: int, patient: bool, further: bool) -> ShardLink:
        """Check out a link to a replica that has what the primary had written up to ``after``; ``patient``: wait.

        Raises NoReplicaError when there is none, ShardError when the primary cannot be asked.
        """

    async def written(self, shard: int) -> tuple[int, int]:
        """Return how often the shard's primary has changed, and up to where it has written."""

    def moves(self, shard: int) -> int:
        """Return how often the shard's primary has changed."""

    def shard_name(self, shard: int) -> str:
        """Return the name of a shard."""

    @property
    def pending_sql(self) -> str:
        """What to ask a shard for before a statement that must be settled."""

    async def settle(self, shard: int, prepared: Sequence[str]) -> None:
        """Return when what was decided of ``prepared`` is visible on the shard."""

    def watch(self, waiter: Waiter) -> Identity:
        """A transaction has begun to use a second shard: deadlocks that lead over several are possible with it."""

    def draft(self, links: Mapping[int, ShardLink], writers: set[int], identity: Identity) -> Draft | None:
        """Make what a COMMIT of several writers begins with, ahead of it; None: that cannot be done yet."""

    def forget(self, waiter: Waiter) -> None:
        """It has ended."""

    def all_shards_fenced(self) -> AbstractAsyncContextManager[Held]:
        """Hold the fence, with everything that is decided visible on every shard."""

    async def commit(
        self,
        links: Mapping[int, Participant],
        writers: frozenset[int],
        must_commit: frozenset[int],
        identity: Identity | None,
        gid: GlobalId | None,
    ) -> Outcome:
        """Commit everywhere or nowhere; never raises for what a shard did."""

    def new_gid(self, commit_point: int, identity: Identity) -> GlobalId:
        """Make the id of a transaction, to be told to the client."""


@dataclass(frozen=True, slots=True)
class Replay:
    """A statement that shards joining later must see: a savepoint, or a setting made inside the block."""

    sql: str
    savepoint: str | None = None
    settings_before: dict[str, str] | None = None
    until_release: bool = False  # RELEASE ends it as well as ROLLBACK TO
    unlocked: bool = False  # by the release of its own savepoint before COMMIT
    read_only: bool | None = None  # what it chose for the block
    codec: str = UTF_8  # in which it was sent, and is sent again: what is replayed before it has set client_encoding
    setting: str = ""  # what it sets

    @property
    def message(self) -> bytes:
        """The statement as a Query message."""
        return Query(written(self.sql, self.codec)).encode()


def note_kept(link: ShardLink, reason: str) -> None:
    """Note why a session keeps a link, as far as Postgres refuses to PREPARE what runs there later.

    A cursor WITH HOLD keeps the block from that which declares it, and no other.
    """
    if reason != WITH_HOLD:
        link.unprepared = reason


def find_savepoint(log: Sequence[Replay], name: str) -> int:
    """Return where in the log the savepoint of that name is which counts: the last one."""
    for index in range(len(log) - 1, -1, -1):
        if log[index].savepoint == name:
            return index
    raise ProxyError("3B001", f'savepoint "{name}" does not exist')


def what_stays(log: Sequence[Replay]) -> list[Replay]:
    """Return what a RELEASE leaves of what came since its savepoint."""
    return [replay for replay in log if replay.savepoint is None and not replay.until_release]


def undoing(log: Sequence[Replay]) -> str:
    """Return what undoes all since the last savepoint, or since BEGIN."""
    savepoint = next((replay.savepoint for replay in reversed(log) if replay.savepoint is not None), None)
    return "ROLLBACK" if savepoint is None else f"ROLLBACK TO SAVEPOINT {quote_identifier(savepoint)}"


def read_only_after(log: Sequence[Replay], *, default: bool, before_savepoints: bool) -> bool:
    """Whether the block is read only: what was chosen last counts (``before_savepoints``: before the first of them)."""
    if before_savepoints:
        log = list(takewhile(lambda replay: replay.savepoint is None, log))
    return next((replay.read_only for replay in reversed(log) if replay.read_only is not None), default)


_BEGIN = Query(b"BEGIN").encode()


def put_settings(link: ShardLink, applied: Applied, *, gate: bool) -> None:
    """Put what brings a link to these settings before its next exchange; ``gate`` as for the link's prefix."""
    for query in applied.queries():
        link.prefix(Query(query).encode(), gate=gate)


def put_begin(link: ShardLink, modes: str, log: Sequence[Replay], then: str = "") -> None:
    """Put BEGIN with its modes, what is to be replayed, and ``then`` before a link's next exchange."""
    begin = "BEGIN" + modes
    if then and not log:
        begin += "; " + then  # a turn of the loop less: the answer to each message comes in a packet of its own
        then = ""
    link.prefix(_BEGIN if begin == "BEGIN" else Query(begin.encode()).encode())
    for replay in log:
        link.prefix(replay.message)
    if then:
        link.prefix(Query(then.encode()).encode())
