"""BEGIN on the only shard, and the block that AND CHAIN begins.

Decides what a block does whose BEGIN finds no shard that takes it. With one shard BEGIN goes out at once, for then
``now()`` must be its time. Where there is no link for it, or the link dies, the block begins with its first statement,
as over several shards, and that statement meets what is wrong: one Postgres never refuses BEGIN for that, and who sends
BEGIN, INSERT, INSERT, ROLLBACK without looking at each answer must not have the INSERTs committed one by one.

Behind COMMIT AND CHAIN, or ROLLBACK AND CHAIN, BEGIN must not fail for anything: Postgres has ended the block before
and begun the next in one step, and what is committed must not be told as an error. A cancel comes too late for both.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from proxy.bringing import leave_links
from proxy.errors import SHARD_DOWN, TOO_MANY_CONNECTIONS, ProxyError
from proxy.giving_way import deaf_behind
from proxy.session.lost_roles import is_of_lost_role
from proxy.session.telling import CLIENT_ERRORS
from proxy.shards.errors import ShardError
from proxy.transaction import Block

if TYPE_CHECKING:
    from proxy.isolation import Modes
    from proxy.session.session import Session
    from proxy.transaction import ClientTransaction

_NO_LINK: Final = SHARD_DOWN | {TOO_MANY_CONNECTIONS}


async def begin_block(session: Session) -> None:
    """BEGIN has been noted; where the shard itself says no, or it is cancelled, there is no block, as in Postgres."""
    transaction = session.transaction
    try:
        await _on_the_only_shard(transaction)
    except CLIENT_ERRORS as error:
        # In Postgres no BEGIN fails for a role that is gone, and the block may leave it.
        if is_of_lost_role(transaction, error) or (_is_without_link(error) and not transaction.pinned):
            await leave_links(transaction)
            return
        await session.rollback()
        raise


async def chain(session: Session, modes: Modes) -> None:
    """AND CHAIN: another block like the one that has ended."""
    transaction = session.transaction
    session.begin(Block.EXPLICIT)
    transaction.begin(Block.EXPLICIT, modes)
    transaction.inherited = replace(modes)
    with deaf_behind(transaction):
        transaction.past_cancel, transaction.cancel_requested = True, False
        try:
            await _on_the_only_shard(transaction)
        except CLIENT_ERRORS:
            await leave_links(transaction)


async def _on_the_only_shard(transaction: ClientTransaction) -> None:
    """With one shard now() must be the time of BEGIN, and its own errors (a bad mode) come now."""
    if transaction.shard_count == 1 and not transaction.links:
        links = await transaction.join([0], writes=False, reads=False)
        await links[0].run("")


def _is_without_link(error: Exception) -> bool:
    """Whether there is no link, or none any more. One that kept something of the session is another matter."""
    if isinstance(error, ShardError) and error.lost:
        return True
    return isinstance(error, (ShardError, ProxyError)) and error.sqlstate in _NO_LINK
