"""How a link that joins a transaction is brought to the session's settings and into the block, and noted afterwards.

Decided here: which settings a link must have when a statement of the block runs on it, whether they must have succeeded
first, and what a link that goes back is noted to have. Which links join, and when, is the transaction's
(proxy.transaction); the texts are proxy.settings' and proxy.links'.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.links import put_begin, put_settings
from proxy.settings import NOTHING_APPLIED, UNKNOWN, Applied, SessionSettings, Unsure, unsure
from proxy.shards.link import end_all

if TYPE_CHECKING:
    from proxy.shards.link import ShardLink
    from proxy.transaction import ClientTransaction

PROVEN_SETTINGS: Final = 10_000  # sets of settings that are remembered to have worked on a shard


def starting_settings(transaction: ClientTransaction) -> Applied:
    """Return the session's settings as they were at BEGIN; those made since are replayed inside the block."""
    settings = transaction.settings
    if not transaction.settings_changed:
        return settings.applied
    before = SessionSettings(startup=settings.startup, custom=settings.custom)
    before.restore(transaction.settings_at_begin)
    return before.applied


def bring_up(transaction: ClientTransaction, shard: int, link: ShardLink, then: str) -> None:
    """Put the session's settings, BEGIN, savepoints and ``then`` before the first exchange of a link that joins."""
    applied = starting_settings(transaction)
    if link.settings is not applied and (link.settings or NOTHING_APPLIED) != applied:
        # No statement may run with other settings than its session's: what has not been seen to work on this shard,
        # or could have stopped working (a role), must succeed first. The others go out in one packet.
        known = (shard, transaction.role, applied) in transaction.database.proven_settings
        put_settings(link, applied, gate=not known or applied.names_role)
        link.settings = applied
        transaction.settings_sent.add(shard)
    link.codec = transaction.settings.encoding.codec  # what it comes to with what is replayed
    if transaction.in_block:
        put_begin(link, transaction.modes.sql(), transaction.log, then)


def note_settings(transaction: ClientTransaction, shard: int, link: ShardLink) -> None:
    """Before a link goes back: what it is noted to have must be what it has."""
    link.trusted_s = transaction.settings.idle_limit_s / 2
    if link.dirty:
        left = unsure(link.settings)  # made by this session or before it, on this link
        link.washed_settings = left if isinstance(left, Unsure) else None
    unsaid = link.has_prefix or link.prefix_failed
    if unsaid:
        link.sequences = UNKNOWN
    if unsaid or transaction.settings_changed:
        # PREPARE keeps SETs that its ROLLBACK PREPARED does not undo, and a prefix that failed or never went out
        # has set nothing; applying settings anew costs less than knowing.
        link.settings = UNKNOWN
        link.prefix_failed = False
        if transaction.custom_settings or not transaction.settings.applied.resettable:
            link.resettable = False  # it is not NULL any more, whatever we do
    elif shard in transaction.settings_sent and isinstance(link.settings, Applied):
        proven = transaction.database.proven_settings
        if len(proven) >= PROVEN_SETTINGS:
            proven.clear()
        proven.add((shard, transaction.role, link.settings))


async def leave_links(transaction: ClientTransaction) -> None:
    """Let go of links that have joined, and on which no statement could begin: the next one joins anew."""
    await end_all(transaction.links.values(), "ROLLBACK")
    for shard, link in transaction.links.items():
        note_settings(transaction, shard, link)
        if shard not in transaction.pinned:
            transaction.database.release(link)
    transaction.links.clear()
    transaction.must_commit.clear()
