"""What of a session may be read from replicas: whole transactions that are READ ONLY, if the session asked for it.

Asked for is ``pgchorus.read_from``: ``replica`` (an error where no replica can answer) or ``prefer_replica`` (then the
primary). Decided is once for a transaction, when it needs its first link:

- It is READ ONLY, by its own modes or the session's default_transaction_read_only; so it has written nothing, and
  Postgres itself sees to it that it does not.
- Nothing keeps it at the primary: a link that holds state of the session, SERIALIZABLE, a statement on its own that is
  no reading.
- At ``read_consistency = snapshot`` it is one statement on one shard, or there is only one shard: no fence holds
  standbys back, so one moment of several shards can be had from the primaries only.

With ``pgchorus.read_your_writes`` the session reads from replicas that have all that it may have committed: of every
shard that one of its transactions used it asks the primary, before it next reads there from a replica, how far it has
written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.errors import OBJECT_NOT_IN_PREREQUISITE_STATE, ProxyError
from proxy.isolation import SERIALIZABLE
from proxy.shards.errors import ShardError
from proxy.shards.replicas import NoReplicaError
from router.errors import refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from proxy.links import Links
    from proxy.shards.link import ShardLink
    from proxy.transaction import ClientTransaction

# What reads and leaves nothing, of statements outside a block. Within one the replica says what it does not do.
READINGS: Final = frozenset({"SELECT", "COPY", "EXPLAIN"})
_HINT: Final = "SET pgchorus.read_from = prefer_replica reads from the primary then."


class NotReplicatedError(ProxyError):
    """A session that wants replicas only has met a shard where none can be read from."""


class ReplicaReads:
    """The wishes of one session, and what it may have written."""

    def __init__(self, database: Links, *, strict: bool, reads_only: Callable[[], bool]) -> None:
        """``reads_only`` tells the session's default_transaction_read_only."""
        self._database = database
        self.strict = strict
        self.own_writes = False
        #: Whether the open transaction reads from replicas.
        self.chosen = False
        self._reads_only = reads_only
        #: By shard: on which primary (as a count of moves), and up to which position the session may have written.
        self._written: dict[int, tuple[int, int]] = {}
        self._known: set[int] = set()  # shards of which that is still true

    def joining(self, transaction: ClientTransaction, shards: Collection[int]) -> None:
        """Choose where a transaction reads that needs its first links. Raises Refused for what replicas cannot do."""
        if not transaction.links:
            self.chosen = self._choose(transaction, shards)
        elif self.chosen and transaction.fenced and len(transaction.links.keys() | set(shards)) > 1:
            raise refusal("replica-moment")

    def _choose(self, transaction: ClientTransaction, shards: Collection[int]) -> bool:
        if not (transaction.read_only if transaction.in_block else self._reads_only()):
            return False
        if not transaction.in_block and transaction.command not in READINGS:
            return False
        if transaction.preferred is not None or transaction.pinned:
            return self._refused("The session has state on a primary.")
        if transaction.isolation == SERIALIZABLE:
            return self._refused("Postgres has no SERIALIZABLE transactions there.")
        if transaction.fenced and transaction.shard_count > 1 and (transaction.in_block or len(shards) > 1):
            if self.strict:
                raise refusal("replica-moment")
            return False
        return True

    def _refused(self, why: str) -> bool:
        if self.strict:
            raise refusal("replica-transaction", detail=why)
        return False

    async def acquire(self, shard: int, role: str, *, further: bool) -> ShardLink | None:
        """Check out a link to a replica; None: the primary's is to be taken. Raises ProxyError and ShardError."""
        try:
            after = await self._own_position(shard)
            return await self._database.acquire_replica(shard, role, after=after, patient=self.strict, further=further)
        except NoReplicaError as error:
            if not self.strict:
                return None
            name = self._database.shard_name(shard)
            raise NotReplicatedError(
                OBJECT_NOT_IN_PREREQUISITE_STATE,
                f'no replica of shard "{name}" can be read from',
                detail=f"Shard {name}: {error}.",
                hint=_HINT,
            ) from error
        except ShardError:
            if self.strict:
                raise
            return None

    async def _own_position(self, shard: int) -> int:
        if not self.own_writes:
            return 0
        written = self._written.get(shard)
        if written is None or shard not in self._known or written[0] != self._database.moves(shard):
            written = self._written[shard] = await self._database.written(shard)
            self._known.add(shard)
        return written[1]

    def check_keeps(self, transaction: ClientTransaction, what: str) -> None:
        """Raise if a link is to be kept for what it holds, and leads to a replica: writes would go there, too."""
        if self.chosen:
            for link in transaction.links.values():
                link.abort()
            raise refusal("replica-state", what=what)

    def ended(self, shards: Iterable[int]) -> None:
        """A transaction has ended; one on primaries may have written on its shards."""
        if not self.chosen:
            self._known.difference_update(shards)
        self.chosen = False


async def matching_link(transaction: ClientTransaction, shard: int) -> ShardLink:
    """Check out a link for a transaction that can be brought to its session's settings; a cancel ends the wait."""
    role, further = transaction.role, bool(transaction.links)
    while True:
        link = None
        if transaction.elsewhere is not None and transaction.elsewhere.chosen:
            link = await transaction.unless_cancelled(transaction.elsewhere.acquire(shard, role, further=further))
        if link is None:
            link = transaction.database.take(shard, role, transaction.preferred)
        if link is None:
            link = await transaction.unless_cancelled(transaction.database.acquire(shard, role, further=further))
        if transaction.can_bring_up(link):
            return link
        link.abort()
        transaction.database.release(link)
