"""BEGIN on the only shard, and the block that AND CHAIN begins.

Decides what a block does whose BEGIN finds no shard that takes it. With one shard BEGIN goes out at once, for then
``now()`` must be its time. Behind COMMIT AND CHAIN, or ROLLBACK AND CHAIN, it must not fail: Postgres has ended the
block before and begun the next in one step, and what is committed must not be told as an error. So the next block
begins with its first statement then, as over several shards, and that statement meets what is wrong. A cancel comes too
late for both.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from proxy.bringing import leave_links
from proxy.giving_way import deaf_behind
from proxy.session.lost_roles import is_of_lost_role
from proxy.session.telling import CLIENT_ERRORS
from proxy.transaction import Block

if TYPE_CHECKING:
    from proxy.isolation import Modes
    from proxy.session.session import Session
    from proxy.transaction import ClientTransaction


async def begin_block(session: Session) -> None:
    """BEGIN has been noted; where it fails on the shard there is no block, as in Postgres."""
    try:
        await _on_the_only_shard(session.transaction)
    except CLIENT_ERRORS as error:
        if is_of_lost_role(session.transaction, error):
            # In Postgres no BEGIN fails for that, and the block may leave the role.
            await leave_links(session.transaction)
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
