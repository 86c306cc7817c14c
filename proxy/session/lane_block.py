"""What the fast lane does to a transaction: joins and commits that need nobody's patience.

Each says what ``ClientTransaction`` would do for the usual case, and False or nothing for every other.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from proxy.bringing import bring_up
from proxy.isolation import READ_COMMITTED
from proxy.session.encoded import escapes
from proxy.session.filling import moment_literal
from proxy.session.lane_ahead import put_begin, put_begin_and_look
from proxy.settings import NOTHING_APPLIED
from proxy.transaction import IN_BLOCK, Block
from proxy.twophase.settling import LOOK_UNDONE
from proxy.wire import backend
from proxy.wire.frontend import Query

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.session.session import Session
    from proxy.shards.link import ShardLink
    from proxy.shards.pool import LinkPool
    from proxy.transaction import ClientTransaction
    from proxy.twophase.coordinator import Coordinator, Outcome
    from proxy.twophase.settling import Settler
    from router.plan import Statement
    from router.shortcut import Shortcut

_BEGIN: Final = backend.command_complete(b"BEGIN") + backend.ready_for_query(IN_BLOCK)
_START: Final = backend.command_complete(b"START TRANSACTION") + backend.ready_for_query(IN_BLOCK)


def is_ordinary(session: Session) -> bool:
    """Whether nothing about a session is out of the ordinary, so that its lane may look at what comes next."""
    transaction = session.transaction
    return not (
        transaction.pinned
        or transaction.failed
        or transaction.elsewhere is not None
        or not session.encoding.is_utf8
        or escapes(session)
        or transaction.block is Block.IMPLICIT
        or (transaction.block is Block.NONE and (transaction.links or session.portals))
        or session.planner_in_block is not None
        or transaction.reads_otherwise
        or session.has_changed_parameters
        or session.database.definitions.changing
        or session.database.misplaced
    )


def begin_at_once(session: Session, statement: Statement, answers: bytes) -> bool:
    """BEGIN is noted and answered, behind ``answers``; it goes to a shard with the first statement there."""
    transaction, connection = session.transaction, session.connection
    if transaction.block is not Block.NONE or transaction.shard_count == 1:
        return False
    transaction.cancel_requested = False
    transaction.command = statement.tag
    session.begin(Block.EXPLICIT)
    answers += _START if statement.tag == "START TRANSACTION" else _BEGIN
    connection.send(answers)
    if session.clocks is not None:
        session.clocks.rested(in_block=True)
    return True


def filled_in(session: Session, shortcut: Shortcut, message: bytes) -> bytes:
    """Return the message with the clock's values in it: a block has one time, whatever the shards' clocks say."""
    match = shortcut.pattern(message) if shortcut.pattern is not None else None
    assert match is not None  # noqa: S101 - it has matched before
    parts = []
    for part in shortcut.filled:
        if isinstance(part, bytes):
            parts.append(part)
        elif isinstance(part, int):
            parts.append(match[part])
        else:
            parts.append(moment_literal(session, part))
    return Query(b"".join(parts)).encode()


def can_bring_up(transaction: ClientTransaction, link: ShardLink, pool: LinkPool) -> bool:
    """Whether a link that was taken can be brought to the session's settings; else it goes back."""
    if link.settings is None:
        link.settings = NOTHING_APPLIED
    if transaction.can_bring_up(link):
        return True
    pool.release(link)
    return False


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


def joined(
    transaction: ClientTransaction, shard: int, link: ShardLink, settler: Settler | None, *, at_once: bool
) -> bytes:
    """A link was taken for the block: as ``join`` does it, for a statement that takes a snapshot.

    ``settler``: of the look that goes before the statement, None for none; returns what undoes that when it fails.
    ``at_once``: the statement follows, and nothing else can be put before it.
    """
    transaction.links[shard] = link
    link.watcher = transaction.watcher
    undone = b""
    if at_once and _begins_alone(transaction, link):
        link.codec = transaction.settings.encoding.codec
        if settler is None:
            put_begin(link)
        else:
            undone = put_begin_and_look(link, settler)
    elif settler is None:
        bring_up(transaction, shard, link, "")
    else:
        bring_up(transaction, shard, link, settler.look(shard))
        undone = LOOK_UNDONE
    if len(transaction.links) > 1:
        asyncio.get_running_loop().call_soon(_begin_to_wait, transaction)
    return undone


def _begin_to_wait(transaction: ClientTransaction) -> None:
    """The statement with which a shard joined has been sent: do what nobody needs to wait for while that runs.

    What the transaction's COMMIT will begin with, unless another writer joins. The transaction may have ended.
    """
    links, writers = transaction.links, transaction.writers
    if len(links) < 2:  # noqa: PLR2004 - several
        return
    if transaction.identity is None:
        transaction.identity = transaction.database.watch(transaction)
    if transaction.draft is None and transaction.block is Block.EXPLICIT and not transaction.committing:
        transaction.draft = transaction.database.draft(links, writers, transaction.identity)


def _begins_alone(transaction: ClientTransaction, link: ShardLink) -> bool:
    """Whether a link lacks nothing but a plain BEGIN to be in a block."""
    return (
        transaction.in_block
        and link.settings is transaction.settings.applied
        and not transaction.settings_changed
        and not transaction.log
        and not link.has_prefix
        and not transaction.modes.sql()
    )


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
    identity, draft = transaction.identity, transaction.draft
    transaction.draft = None
    random = None if identity is None else identity.random
    return coordinator.commit_at_once(links, writers, on_told, random=random, draft=draft)


def committed_at_once(transaction: ClientTransaction) -> None:
    """The only link has answered COMMIT."""
    transaction.committing = False
    transaction.ended_by_shard(rolled_back=False)
    if transaction.abandoned:
        transaction.abandon()
