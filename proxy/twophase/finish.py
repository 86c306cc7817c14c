"""Finishing a prepared part over a control connection: steps 3 and back, for the coordinator, recovery and the fence.

Decides nothing about outcomes: the caller has read the decision. Takes care of what Postgres asks (the owner's role,
the part's own database) and of what its answers mean: "does not exist" is not "finished", so the participant is asked
what became of the xid; "is busy" means that somebody else is at it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.twophase import record
from proxy.twophase.participant import ShardFailure, error_fields

if TYPE_CHECKING:
    from proxy.twophase.participant import Control, ControlConnection
    from proxy.wire.fields import ErrorFields

UNDEFINED_OBJECT = "42704"
BUSY = "55000"
INSUFFICIENT_PRIVILEGE = "42501"
FUTURE_XID = "22023"
FIRST_PAUSE_S = 0.005
LAST_PAUSE_S = 1.0
LOW_XID = (1 << 32) - 1
# A part whose PREPARE was under way when its link broke may appear a moment later.
LOOKS_FOR_A_LATE_PREPARE = 5


@dataclass(frozen=True, slots=True)
class Part:
    """A participant's prepared part: under which name, with which xid (None where nobody has heard it).

    ``seen``: it was in pg_prepared_xacts, so that, without an xid to ask for, being gone means that somebody finished
    it.
    """

    shard: int
    name: str
    xid: int | None
    seen: bool = False


@dataclass(frozen=True, slots=True)
class Finishing:
    """What came of it: ``done`` or a reason. ``torn``: gone, and not as decided. ``alarm``: for a person."""

    done: bool
    reason: str = ""
    torn: bool = False
    alarm: bool = False


DONE = Finishing(done=True)


async def finish(control: Control, part: Part, *, commit: bool, timeout_s: float) -> Finishing:
    """Commit or roll back a prepared part, whoever else tries the same; retries until the time is up.

    Never interrupts a COMMIT PREPARED under way: a cancel while it waits for standbys would make it look done.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    pause = FIRST_PAUSE_S
    absent = 0
    while True:
        try:
            async with control.connection(part.shard) as connection:
                result = await _try(connection, part, commit=commit)
        except Exception as error:
            fields = error_fields(error)
            if fields is None:
                raise
            result = _explain(fields)
        if result is None:
            absent += 1
            if part.seen or absent >= LOOKS_FOR_A_LATE_PREPARE:
                return DONE
            result = Finishing(done=False, reason="the prepared transaction is not there")
        if result.done or result.torn or loop.time() + pause > deadline:
            return result
        await asyncio.sleep(pause)
        pause = min(pause * 2, LAST_PAUSE_S)


def _explain(fields: ErrorFields) -> Finishing:
    if fields.sqlstate == INSUFFICIENT_PRIVILEGE:
        return Finishing(done=False, reason=f"the control role may not finish it: {fields.message}", alarm=True)
    if fields.sqlstate == BUSY:
        return Finishing(done=False, reason="another session is finishing it")
    return Finishing(done=False, reason=f"{fields.sqlstate} {fields.message}")


async def _try(connection: ControlConnection, part: Part, *, commit: bool) -> Finishing | None:
    """Return what came of one attempt; None: nothing is there and nobody knows its xid."""
    for row in await connection.fetch(record.LIST_PREPARED, part.name):
        if row["gid"] != part.name:
            continue
        if part.xid is not None and int(row["xid"]) != part.xid & LOW_XID:
            reason = f"transaction {row['xid']} is prepared under this name, not {part.xid & LOW_XID}"
            return Finishing(done=False, reason=reason, torn=True, alarm=True)
        return await _finish_as_owner(connection, part, owner=row["owner"], may=row["may_finish"], commit=commit)
    return await _what_became_of(connection, part, commit=commit)


async def _finish_as_owner(
    connection: ControlConnection, part: Part, *, owner: str, may: bool, commit: bool
) -> Finishing | None:
    verb = "COMMIT PREPARED" if commit else "ROLLBACK PREPARED"
    sql = f"{verb} '{part.name}'"
    try:
        tag = await (connection.execute(sql) if may else connection.execute_as(owner, sql))
    except Exception as error:
        if not isinstance(error, ShardFailure) or error.fields.sqlstate != UNDEFINED_OBJECT:
            raise
        tag = ""
    if not tag:
        return await _what_became_of(connection, part, commit=commit)
    return DONE if tag == verb else Finishing(done=False, reason=f"{verb} answered {tag}")


async def _what_became_of(connection: ControlConnection, part: Part, *, commit: bool) -> Finishing | None:
    if part.xid is None:
        return None
    try:
        status = await connection.fetchval(record.XACT_STATUS, str(part.xid))
    except Exception as error:
        if not isinstance(error, ShardFailure) or error.fields.sqlstate != FUTURE_XID:
            raise
        status = "not known to this server"
    if status == ("committed" if commit else "aborted"):
        return DONE
    if status == "in progress":
        return Finishing(done=False, reason="another session is finishing it")
    if status is None:
        return Finishing(done=False, reason="it is gone, and too old for its shard to know how it ended", alarm=True)
    return Finishing(done=False, reason=f"its transaction {part.xid} is {status}", torn=True, alarm=True)
