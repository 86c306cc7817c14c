"""How a client's transaction gives way: to a deadlock over several shards, or, in COMMIT, to its client's cancel.

Decided here: when a wait may be ended by a cancel, what becomes of cancels that are still on their way, and what the
client is told of the error that they make. Which transaction gives way is proxy.twophase.deadlock's; a commit of
several writers gives way by its machine (proxy.twophase.drive), without a cancel.

A COMMIT with several writers is never cancelled: that could make a success of what no standby has prepared. One with a
single writer is Postgres's own. Where it waits, in its constraints or for a fence, a cancel has it fail with 57014, and
it has rolled back; behind that a cancel is ignored, or ends the wait for the standbys: committed, with a warning.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import structlog

from proxy.errors import IN_FAILED_SQL_TRANSACTION, QUERY_CANCELED
from proxy.shards.errors import ShardError
from proxy.tasks import spawn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator

    from proxy.shards.link import ShardLink
    from proxy.transaction import ClientTransaction
    from proxy.twophase.coordinator import Outcome
    from proxy.wire.fields import ErrorFields

log = structlog.get_logger("pgchorus.session")

READ_ONLY_SAVEPOINT: Final = "pgchorus_read_only"  # in which shards are told READ ONLY after writes


async def end_wait(
    transaction: ClientTransaction,
    shards: Iterable[int],
    error: ErrorFields,
    cancel: Callable[[], Awaitable[bool]],
) -> None:
    """Have ``cancel`` end what waits on these shards; the client is told ``error`` for it.

    Nothing happens in a COMMIT of several writers.
    """
    if transaction.ending_wait is not None or (transaction.committing and _has_several_writers(transaction)):
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


def cancel_commit(transaction: ClientTransaction) -> list[asyncio.Task[None]]:
    """A client wants its COMMIT cancelled: nothing happens to one of several writers."""
    if transaction.past_cancel or _has_several_writers(transaction):
        return []
    return [cancel_on(link) for link in transaction.links.values() if link.busy]


def cancel_on(link: ShardLink) -> asyncio.Task[None]:
    """Ask a shard to cancel what it runs on a link; the task is done when it has sent the signal, or cannot be told."""
    return spawn(_delivered(link.cancel()), name=f"cancel on shard {link.name}")


async def _delivered(cancel: Coroutine[Any, Any, None]) -> None:
    """See a cancel off; one that finds no way to the shard in time is nothing that a client would be told."""
    try:
        await cancel
    except ShardError as error:
        log.warning("cancel not delivered", error=str(error))


def _has_several_writers(transaction: ClientTransaction) -> bool:
    return len(transaction.writers | transaction.must_commit.keys()) > 1


@contextmanager
def deaf_behind(transaction: ClientTransaction) -> Iterator[None]:
    """Surround a commit and what belongs to it: behind the outcome cancels are ignored, up to here."""
    try:
        yield
    finally:
        transaction.past_cancel = False


@asynccontextmanager
async def past_cancels(transaction: ClientTransaction) -> AsyncIterator[None]:
    """Surround what links are asked behind a statement that has succeeded: a cancel comes too late for both.

    A signal that finds the server waiting for a message is lost, so it need only have been sent.
    """
    before, transaction.past_cancel, transaction.cancel_requested = transaction.past_cancel, True, False
    try:
        for link in [*transaction.links.values(), *transaction.pinned.values()]:
            await link.cancels_sent()
        yield
    finally:
        transaction.past_cancel = before


async def outlive_cancels(transaction: ClientTransaction) -> ShardError | None:
    """Before and behind a commit: see that no cancel of what has ended by itself is still on its way.

    Returns the error of what has failed the transaction instead (a timeout, say): COMMIT ends with that.
    """
    struck: ShardError | None = None
    while transaction.ending_wait is not None:
        await asyncio.wait([transaction.ending_wait])
    for link in transaction.links.values():
        if link.cancelled and not link.closed:
            with suppress(ShardError):  # the commit will see for itself how the link is
                struck = await link.outlive_cancels() or struck
    transaction.deadlock = None  # the statement that it was about has ended by itself
    return struck


async def before_commit(transaction: ClientTransaction) -> ShardError | None:
    """Have the links ready for a commit; returns the error of what has failed the transaction, as above."""
    struck = await outlive_cancels(transaction)
    if transaction.is_unlocked_by_release:
        try:
            await transaction.everywhere(f"RELEASE SAVEPOINT {READ_ONLY_SAVEPOINT}")
        except ShardError as error:  # a timeout, or a link that is lost: COMMIT does not succeed there
            struck = struck or error
    return struck


async def explained(transaction: ClientTransaction, outcome: Outcome, struck: ShardError | None = None) -> Outcome:
    """Return what to tell of a commit: the deadlock, if it failed by our own cancel; no such is left on its way.

    ``struck``: what had failed the transaction before. The shard has said ROLLBACK, or that it had failed, and no more.
    """
    while transaction.ending_wait is not None:  # until then nobody knows whether it was ours
        await asyncio.wait([transaction.ending_wait])
    said = "" if outcome.error is None else outcome.error.sqlstate
    if struck is not None and not outcome.committed and said in ("", IN_FAILED_SQL_TRANSACTION):
        return replace(outcome, error=struck.fields, raw=struck.raw, shard=struck.shard)
    error = outcome.error
    if transaction.deadlock is None or error is None or error.sqlstate != QUERY_CANCELED:
        return outcome
    return replace(outcome, error=transaction.deadlock, raw=None)
