"""The message loop of one session: one message handled to its end, then the next."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from proxy.errors import ClientGone
from proxy.session import keepers, own_portals
from proxy.session.anew import Outrun
from proxy.session.extended import ExtendedProtocol
from proxy.session.lane_quick import QuickLane
from proxy.session.simple import simple_query
from proxy.wire import backend
from proxy.wire.errors import ProtocolViolation
from proxy.wire.fields import ErrorFields

if TYPE_CHECKING:
    from proxy.session.session import Session

log = structlog.get_logger("pgchorus.session")

#: Messages of one client that are handled before the others get a turn, if none of them has to wait for anything.
TURN_MESSAGES: Final = 64
_UNIT_ENDS: Final = frozenset(b"QSF")
_QUERY, _TERMINATE, _COPY_LEFTOVERS = ord("Q"), ord("X"), frozenset(b"dcf")


async def serve_session(session: Session) -> None:
    """Handle messages until the client leaves; the session is closed on return."""
    connection = session.connection
    extended = ExtendedProtocol(session)
    lane = connection.lane = QuickLane(session, extended)
    connection.on_lost = session.client_lost
    session.in_lane, session.planned_ahead = lane.statement_under_way, extended.planned_ahead
    own_portals.follow(session)
    session.database.sessions.add(session)
    session.transaction.shard_count = len(session.database.logical.shards)  # one may have joined since the log-in
    handled = 0
    try:
        while True:
            if not connection.has_more:
                lane.arm()
            kind, body = await connection.receive()
            handled += 1
            if not handled % TURN_MESSAGES:
                # What has arrived is received without a pause: a client that keeps its inbox full has the loop alone.
                await asyncio.sleep(0)
            session.in_query = True
            if session.clocks is not None:
                session.clocks.woken()
            session.running = ()
            session.meter.arrived()
            session.transaction.cancel_requested = False
            if kind == _TERMINATE:
                return
            await _handle(session, extended, kind, body)
            session.anew.over(kind)
            if kind in _UNIT_ENDS:
                session.meter.over()
                session.transaction.refused = None
            session.in_query = False
            keepers.look(session)
    except ClientGone:
        log.debug("client gone", client=connection.peer)
    except ProtocolViolation as violation:
        fields = ErrorFields.make("FATAL", violation.sqlstate, violation.message, detail=violation.detail)
        connection.write(backend.error_response(fields))
    except Exception:
        # A bug of ours: the task's end logs it, the client learns that it was not its own doing.
        fields = ErrorFields.make("FATAL", "XX000", "internal error of the proxy; its log has the details")
        connection.write(backend.error_response(fields))
        raise
    finally:
        session.database.session_ended(session)
        lane.leave()
        await session.close()


async def _handle(session: Session, extended: ExtendedProtocol, kind: int, body: bytes) -> None:
    if session.anew.pending:
        await session.anew.undo()
    session.anew.comes(kind, body)
    try:
        await _handle_once(session, extended, kind, body)
    except Outrun:
        extended.forget()
        await session.anew.again()


async def _handle_once(session: Session, extended: ExtendedProtocol, kind: int, body: bytes) -> None:
    if kind == _QUERY:
        if not extended.skipping and await extended.ready_for_simple_query():
            await simple_query(session, body)
            await extended.unnamed.query_is_over()
    elif kind not in _COPY_LEFTOVERS:  # what is left of a COPY that failed on the shard's side is ignored
        await extended.handle(kind, body)
