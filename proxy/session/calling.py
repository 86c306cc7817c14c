"""FunctionCall: a message that runs one function by its OID, and has a ReadyForQuery of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.session import simple
from proxy.session.executing import drop_portals
from proxy.session.outcome import Reported
from proxy.session.relay import Relay
from proxy.session.telling import CLIENT_ERRORS, raise_if_fatal
from proxy.transaction import Block
from proxy.wire.frames import frame
from router.errors import refusal

if TYPE_CHECKING:
    from proxy.session.session import Session


async def call_function(session: Session, body: bytes) -> None:
    """Answer a FunctionCall."""
    try:
        await _call(session, body)
    except Reported as error:
        session.count_error(error)
        await simple.after_error(session)
    except CLIENT_ERRORS as error:
        raise_if_fatal(error)
        session.report_error(error)
        await simple.after_error(session)
    if not session.transaction.in_block:
        await drop_portals(session)
    session.ready()


async def _call(session: Session, body: bytes) -> None:
    """Pass a FunctionCall to the only shard: where there are several nobody can tell what a function's OID touches."""
    transaction = session.transaction
    session.check_not_failed()
    if transaction.shard_count > 1:
        raise refusal("function-message")
    transaction.command = "FUNCTION CALL"
    link = (await transaction.join([0], writes=True))[0]
    transaction.pin("a function called by its OID", [0])  # it may have left anything
    answer = Relay(session.connection, session.on_parameter)
    link.exchange(frame(b"F", body), answer)
    await answer.wait(link)
    if answer.failed:
        raise Reported(answer.sqlstate)
    if transaction.block is Block.IMPLICIT:
        await session.commit()
    transaction.finish_statement()
