"""CALL and DO at the head of a pipeline, over one shard: their code may end transactions, as in Postgres.

Postgres has no block when the first Execute of a pipeline runs; what follows is in one with what that has left open.
So a pipeline that begins with CALL or DO, and of which nothing has been sent when its Sync comes, goes to the only
shard as it is, without a BEGIN of ours: Sync ends it there. Where something has to be sent before (Flush, a statement
about the session, 64 KiB), there is a block, and code that would end it is an error (2D000; nothing is done).

A Parse behind the CALL is no such reason: what a shard has to say of its text is asked before the CALL is sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.session.batch import may_end_transactions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.session.session import Session
    from proxy.shards.link import ShardLink
    from router.plan import Statement


def calls_alone(session: Session, statement: Statement) -> bool:
    """Whether a statement, which is the first of its pipeline, may find no block of ours."""
    transaction = session.transaction
    return may_end_transactions(statement) and transaction.shard_count == 1 and not transaction.in_block


async def describe_ahead(session: Session, link: ShardLink, text: str, oids: Sequence[int]) -> None:
    """Ask for what a Parse needs to know, if nobody has: on the link that waits for the pipeline's Sync.

    What is wrong with the text is told later: it may need what the CALL makes.
    """
    await session.database.descriptions.ask_on(session, link, text, tuple(oids))
