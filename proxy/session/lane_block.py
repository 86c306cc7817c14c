"""What the fast lane does to a transaction: joins and commits that need nobody's patience.

Each says what ``ClientTransaction`` would do for the usual case, and False or nothing for every other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.bringing import bring_up
from proxy.isolation import READ_COMMITTED

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.shards.link import ShardLink
    from proxy.transaction import ClientTransaction
    from proxy.twophase.coordinator import Coordinator, Outcome


def is_plain(transaction: ClientTransaction) -> bool:
    """Whether the block is a READ COMMITTED one that may write, by default."""
    modes = transaction.modes
    return (
        modes.isolation is None
        and modes.read_only is None
        and transaction.isolation_at_begin == READ_COMMITTED
        and not transaction.default_read_only
        and not (transaction.log and transaction.read_only)
    )


def joined(transaction: ClientTransaction, shard: int, link: ShardLink, look: str) -> None:
    """A link was taken for the block at once: as ``join`` does it, for a statement that takes a snapshot.

    ``look``: the look that goes before the statement, '' for none.
    """
    transaction.links[shard] = link
    bring_up(transaction, shard, link, look)
    if transaction.identity is None and len(transaction.links) > 1:
        transaction.identity = transaction.database.watch(transaction)


def must_settle(transaction: ClientTransaction, shard: int) -> bool:
    """Whether a statement of a plain block must be settled on a shard."""
    links = transaction.links
    return transaction.fenced and (len(links) > 1 or (bool(links) and shard not in links))


def may_commit_at_once(transaction: ClientTransaction) -> bool:
    """Whether a commit needs nothing but its messages: nobody is to be waited for or told of it, no link is odd."""
    if transaction.failed or transaction.ending_wait is not None or not transaction.links:
        return False
    if transaction.gid is not None:
        return False  # the client may ask for the outcome: there must be a record
    if transaction.must_commit or transaction.settings_changed or transaction.catalog_changed:
        return False
    if transaction.log and transaction.is_unlocked_by_release:
        return False
    for link in transaction.links.values():
        if link.closed or link.cancelled or link.has_prefix or link.prefix_failed:
            return False
    return True


def commit_together(
    transaction: ClientTransaction, coordinator: Coordinator, on_told: Callable[[Outcome | None], None]
) -> bool:
    """Begin to commit a block that wrote on several shards; False: nothing has happened, ``commit`` must see to it.

    ``on_told`` hears the outcome, and ``ClientTransaction.committed`` ends it.
    """
    links, writers = transaction.links, transaction.writers
    if links.keys() != transaction.touched | writers:
        return False  # some have only lent their snapshot, and take no part
    identity = transaction.identity
    random = None if identity is None else identity.random
    return coordinator.commit_at_once(links, writers, on_told, random=random)


def committed_at_once(transaction: ClientTransaction) -> None:
    """The only link has answered COMMIT."""
    transaction.committing = False
    transaction.ended_by_shard(rolled_back=False)
    if transaction.abandoned:
        transaction.abandon()
