"""Execute of a portal that no link has: a statement over several shards, or about the session itself.

Decides when such a portal is a transaction of its own and when it is part of what the next Sync ends, and what is left
of it afterwards. The order of messages, and portals on links, are ``extended``'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.errors import ProxyError
from proxy.executor.request import send
from proxy.isolation import runs_with_snapshot
from proxy.session import control, simple
from proxy.session.audit import Audit, errors_told
from proxy.session.copied import copied_shard
from proxy.session.meter import rows_of_tag
from proxy.session.preparing import relay_on_link, request_of
from proxy.session.run import needs_block, settle_before, shard_by_shard, shards_of, start, writes_of
from proxy.session.warning import warn
from proxy.session.watched import Watch
from proxy.transaction import Block
from router.plan import Ddl, ShardByShard, Statement
from router.plan_control import Control, Prepared, PreparedControl, Setting, SettingControl, TransactionControl

if TYPE_CHECKING:
    from proxy.executor.request import ResultStream
    from proxy.session.prepared import Portal
    from proxy.session.session import Session
    from router.plan import Plan

_SYNC: Final = ord("S")


def sync_is_next(session: Session) -> bool:
    """Whether the client has sent a Sync behind the message under way."""
    inbox = session.connection.inbox
    return bool(inbox) and inbox[0][0] == _SYNC


async def execute_on_shards(session: Session, portal: Portal, statement: Statement, row_limit: int) -> None:
    """Run a statement of several shards, or more of its rows."""
    if portal.executable is None:
        raise ProxyError("55000", "this portal was bound in a transaction that had failed")
    if isinstance(statement.plan, ShardByShard):
        session.write(await shard_by_shard(session, statement, portal.executable))
    else:
        await _execute_parted(session, portal, statement, max(row_limit, 0))


async def run_control(session: Session, portal: Portal, statement: Statement, *, outside: bool) -> bool:
    """Run what is about the session itself, if it is; settings and EXECUTE are part of what the next Sync ends.

    ``outside``: where Postgres has no block, also if we have one already.
    """
    plan = statement.plan
    if _is_part_of_pipeline(plan):
        goes_on = session.transaction.in_block or not sync_is_next(session)
        if outside and goes_on and (words := _local(plan)):  # alone it is the shard that says so
            await warn(session, "25P01", f"{words} can only be used in transaction blocks")
        if not session.transaction.in_block and (goes_on or not outside):
            session.begin(Block.IMPLICIT)
    queried = session.transaction.modes.queried or runs_with_snapshot(statement)
    answer = await simple.run_control(
        session, statement, held=True, describe=False, result_formats=portal.bind.result_formats
    )
    if answer is None:
        return False
    portal.answered(answer)
    session.write(answer)
    session.transaction.finish_statement()
    session.transaction.modes.queried = queried and not _ends_transaction(plan)  # up to Sync it is one transaction
    if _ends_transaction(plan):  # also where there was no block: what was bound before it is gone
        await drop_portals(session)
    return True


def _is_part_of_pipeline(plan: Plan) -> bool:
    if isinstance(plan, SettingControl):
        return plan.setting not in (Setting.SHOW, Setting.DISCARD_ALL)
    if isinstance(plan, TransactionControl):
        return plan.control is Control.SET_TRANSACTION
    return isinstance(plan, PreparedControl) and plan.prepared is Prepared.EXECUTE


def _local(plan: Plan) -> str:
    """Return the words for what ends with its transaction, and so does nothing outside; '' for what does not."""
    if isinstance(plan, TransactionControl):
        return "SET TRANSACTION"
    if not isinstance(plan, SettingControl) or not plan.local:
        return ""
    return "SET CONSTRAINTS" if plan.setting is Setting.SET_CONSTRAINTS else "SET LOCAL"


def _ends_transaction(plan: Plan) -> bool:
    """Whether a statement about the session ends the transaction that it is in."""
    if isinstance(plan, TransactionControl):
        return plan.control in (Control.COMMIT, Control.ROLLBACK)
    return isinstance(plan, SettingControl) and plan.setting is Setting.DISCARD_ALL


async def drop_portals(session: Session) -> None:
    """What was bound is gone with its transaction."""
    for bound in session.portals.values():
        await bound.close()
    session.portals.clear()


async def unfold(session: Session, portal: Portal, *, limited: bool) -> bool:
    """Make of a portal of EXECUTE one of the statement that it names, if it can be; False: it is none.

    ``limited``: it has a row limit, and must be one that can be suspended.
    """
    if not isinstance(portal.prepared.statement.plan, PreparedControl):
        return False
    unfolded = await control.executed_portal(session, portal, limited=limited)
    if unfolded is not None:
        session.portals[portal.name] = unfolded
    return unfolded is not None


async def _execute_parted(session: Session, portal: Portal, statement: Statement, row_limit: int) -> None:
    assert portal.executable is not None  # noqa: S101 - narrows the type
    session.running = (statement,)
    alone = not session.transaction.in_block
    if alone and (needs_block(session, statement, portal.executable) or row_limit or not sync_is_next(session)):
        session.begin(Block.IMPLICIT)
    if portal.result is None:
        if writes_of(portal.executable):
            await settle_before(session, shards_of(portal.executable))
        audit = None if statement.audit is None else await Audit.begin(session, statement, alone=alone)
        own_block = alone and sync_is_next(session)
        watch = await Watch.begin(session, statement, shards_of(portal.executable), own_block=own_block)
        if (shard := copied_shard(portal.executable, statement)) is not None:
            await _execute_copy(session, portal, shard, watch)
            return
        with errors_told(audit):
            portal.result = await start(session, portal.executable, request_of(portal))
            await _end_looks(portal.result, audit, watch)
    done = await send(portal.result, session.connection, max_rows=row_limit)
    if done:
        session.meter.rows += rows_of_tag(portal.result.tag)
        portal.ended = portal.result.tag
        await portal.close()
        session.note_effects(statement, shards_of(portal.executable))
        if isinstance(statement.plan, Ddl) and statement.plan.catalog_changes:
            await session.catalog_changed()


async def _end_looks(result: ResultStream, audit: Audit | None, watch: Watch | None) -> None:
    if audit is not None or watch is not None:
        await result.park()  # it runs to its end, whatever becomes of the portal
    if audit is not None:
        await audit.end()
    if watch is not None:
        await watch.end()


async def _execute_copy(session: Session, portal: Portal, shard: int, watch: Watch | None) -> None:
    """Pass a COPY FROM STDIN on as it came, between two looks at what it sets."""
    assert portal.executable is not None  # noqa: S101 - narrows the type
    answer = await relay_on_link(session, portal, portal.executable, shard, describe=False)
    if watch is not None:
        await watch.end()
    session.note_effects(portal.prepared.statement, [shard])
    portal.answered(answer)
    session.write(answer)
