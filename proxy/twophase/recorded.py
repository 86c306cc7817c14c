"""A commit of one writer whose client has asked for its id: plain, but with a record, so that its outcome can be told.

Two messages on the writer's link, the machine's steps 1 and 2 for a commit point without participants::

    1. lock; SET CONSTRAINTS ALL IMMEDIATE; limits; xid
    2. SELECT pgchorus.decide(gid, xid, no participants); COMMIT

Decides what the answers mean, by the machine's rules: believe tags; a link that is lost in step 2 is no answer, so the
record is asked by offering an abort. That asking is here for the machine's driver as well.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

from proxy.errors import TRANSACTION_RESOLUTION_UNKNOWN
from proxy.twophase import record
from proxy.twophase.events import Outcome, Result
from proxy.twophase.messages import ready_commit_point_sql, unconfirmed
from proxy.twophase.participant import STATUS_BLOCK, STATUS_IDLE, ShardFailure, error_fields
from proxy.wire.fields import ErrorFields

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.twophase.events import Limits
    from proxy.twophase.gid import GlobalId
    from proxy.twophase.participant import Answer, Control, Participant

PAUSE_S = 0.1
_GIVEN_UP = "23505"


async def ask_by_writing(
    control: Control, shard: int, gid: GlobalId, *, retention_s: float, timeout_s: float
) -> tuple[bool | None, str]:
    """Offer an abort record at the commit point; return whether what stands there is a commit.

    None, and the reason, if the commit point could not be asked in time.
    """
    reason = "no answer in time"
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    async with control.connection(shard) as connection:
                        outcome = await connection.fetchval(record.ABANDON, str(gid), retention_s)
                except Exception as error:
                    fields = error_fields(error)
                    if fields is None:
                        raise
                    reason = f"{fields.sqlstate} {fields.message}"
                    await asyncio.sleep(PAUSE_S)
                    continue
                return outcome == "commit", ""
    except TimeoutError:
        return None, reason


def unknown(gid: GlobalId, name: str, reason: str) -> ErrorFields:
    """Make the error for an outcome that cannot be found out now."""
    return ErrorFields.make(
        "ERROR",
        TRANSACTION_RESOLUTION_UNKNOWN,
        f"nobody knows yet whether transaction {gid} is committed",
        detail=f"Shard {name}, which knows, could not be asked: {reason}",
        hint=f"Ask later with SHOW pgchorus.transaction '{gid}'.",
    )


def given_up(fields: ErrorFields, gid: GlobalId) -> ErrorFields:
    """Make a retry of it when an abort record of our own gid stood there: recovery was faster."""
    if fields.sqlstate != _GIVEN_UP or fields.get("s") != "pgchorus":
        return fields
    message = "the transaction was given up because its commit took too long"
    return ErrorFields.make("ERROR", "40001", message, detail=f"Transaction {gid}.")


async def commit_recorded(  # noqa: PLR0913 - what it is made of
    link: Participant,
    gid: GlobalId,
    control: Control,
    *,
    key: bytes,
    epoch: int,
    limits: Limits,
    retention_s: float,
) -> Outcome:
    """Commit the only writer together with the record of it. Never raises for what the shard did."""
    told = await _commit(link, gid, key, epoch, limits)
    if told is not None:
        return told
    committed, reason = await ask_by_writing(
        control, link.shard, gid, retention_s=retention_s, timeout_s=limits.settle_timeout_s
    )
    if committed is None:
        return Outcome(Result.UNKNOWN, gid=str(gid), error=unknown(gid, link.name, reason), shard=link.shard)
    message = f"the link to shard {link.name} was lost, and the transaction was rolled back"
    error = None if committed else ErrorFields.make("ERROR", "40000", message, detail=f"Transaction {gid}.")
    return Outcome(Result.COMMITTED if committed else Result.ABORTED, gid=str(gid), error=error, shard=link.shard)


async def _commit(link: Participant, gid: GlobalId, key: bytes, epoch: int, limits: Limits) -> Outcome | None:
    """Run both steps; None when only the record can tell what came of the second."""
    deciding = False
    try:
        with _limited(link, limits.prepare_timeout_s):
            ready = await link.run(ready_commit_point_sql(gid, limits))
        xid = record.parse_xid(ready.rows[0][0]) if ready.rows and ready.status == STATUS_BLOCK else 0
        if not xid:
            message = f"the transaction on shard {link.name} is not one that can commit"
            return await _undone(link, gid, ErrorFields.make("ERROR", "25P02", message))
        deciding = True
        with _limited(link, limits.decide_timeout_s):
            answer = await link.run(f"{record.decide_sql(gid, xid, (), epoch, key)}; COMMIT")
    except Exception as failure:
        if not isinstance(failure, ShardFailure):
            raise
        if deciding and (failure.lost or link.closed):
            return None
        return await _undone(link, gid, given_up(failure.fields, gid), failure.raw)
    certain = {b"COMMIT": Result.COMMITTED, b"ROLLBACK": Result.ABORTED}.get(answer.tags[-1] if answer.tags else b"")
    if certain is None or _doubtful(answer):
        return None
    return Outcome(certain, gid=str(gid), shard=link.shard, notices=tuple(answer.notices))


def _doubtful(answer: Answer) -> bool:
    return unconfirmed(answer.notices) or any(notice.sqlstate == "25P01" for notice in answer.notices)


async def _undone(link: Participant, gid: GlobalId, error: ErrorFields, raw: bytes | None = None) -> Outcome:
    """Nothing was decided, nor can be: end what is open."""
    if not link.closed and link.status != STATUS_IDLE:
        try:
            await link.run("ROLLBACK")
        except Exception as failure:
            if not isinstance(failure, ShardFailure):
                raise
            link.abort()
    return Outcome(Result.ABORTED, gid=str(gid), error=error, raw=raw, shard=link.shard)


@contextmanager
def _limited(link: Participant, seconds: float) -> Iterator[None]:
    """Close the link if it does not answer in time: a cancel could make a lie of the answer."""
    timer = asyncio.get_running_loop().call_later(seconds, link.abort)
    try:
        yield
    finally:
        timer.cancel()
