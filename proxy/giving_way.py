"""How a client's transaction gives way in a deadlock over several shards: its wait is cancelled, its client told why.

Decided here: when a wait may be ended by a cancel, what becomes of cancels that are still on their way, and what the
client is told of the error that they make. Which transaction gives way is proxy.twophase.deadlock's; a commit of
several writers gives way by its machine (proxy.twophase.drive), without a cancel.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from proxy.errors import QUERY_CANCELED
from proxy.shards.errors import ShardError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from proxy.transaction import ClientTransaction
    from proxy.twophase.coordinator import Outcome
    from proxy.wire.fields import ErrorFields


async def end_wait(
    transaction: ClientTransaction,
    shards: Iterable[int],
    error: ErrorFields,
    cancel: Callable[[], Awaitable[bool]],
) -> None:
    """Have ``cancel`` end what waits on these shards; the client is told ``error`` for it.

    Nothing happens in a COMMIT of several writers: a cancel could make a success of what no standby has prepared. One
    of a single writer is Postgres's own COMMIT, which fails with 57014 where it waits, in its constraints or for a
    fence, and has rolled back. If that wait is over when the cancel arrives, it is as if a client had cancelled its
    COMMIT on one Postgres: committed, with a warning if the standbys were not waited for.
    """
    several = len(transaction.writers | transaction.must_commit.keys()) > 1
    if transaction.ending_wait is not None or (transaction.committing and several):
        return
    transaction.deadlock = error
    transaction.ending_wait = asyncio.get_running_loop().create_future()
    hit = True  # if that is not known, it may be
    try:
        with ExitStack() as stack:
            for shard in shards:
                if shard in transaction.links:
                    stack.enter_context(transaction.links[shard].being_cancelled())
            hit = await cancel()
    finally:
        transaction.ending_wait.set_result(None)
        transaction.ending_wait = None
        if not hit:
            transaction.deadlock = None


async def outlive_cancels(transaction: ClientTransaction) -> None:
    """Before a commit: see that no cancel of a statement that has ended by itself is still on its way."""
    while transaction.ending_wait is not None:
        await asyncio.wait([transaction.ending_wait])
    for link in transaction.links.values():
        if link.cancelled and not link.closed:
            with suppress(ShardError):  # the commit will see for itself how the link is
                await link.outlive_cancels()
    transaction.deadlock = None  # the statement that it was about has ended by itself


async def explained(transaction: ClientTransaction, outcome: Outcome) -> Outcome:
    """Return what to tell of a commit: the deadlock, if it failed by our own cancel; no such is left on its way."""
    while transaction.ending_wait is not None:  # until then nobody knows whether it was ours
        await asyncio.wait([transaction.ending_wait])
    error = outcome.error
    if transaction.deadlock is None or error is None or error.sqlstate != QUERY_CANCELED:
        return outcome
    return replace(outcome, error=transaction.deadlock, raw=None)
