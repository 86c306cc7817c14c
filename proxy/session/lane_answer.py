"""The answer of a statement on the lane that is not plain: errors, notices and changed settings on their way.

Decides what the client is told of a shard's frames. When the statement is over is the lane's (proxy.session.lane).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.errors import QUERY_CANCELED
from proxy.wire import backend
from proxy.wire.backend import decode_error, decode_parameter_status
from proxy.wire.frames import HEADER_BYTES

if TYPE_CHECKING:
    from proxy.session.session import Session
    from proxy.shards.receiver import Chunk, Frame
    from router.plan import Statement

_READY: Final = backend.READY_FOR_QUERY
_ERROR: Final = backend.ERROR_RESPONSE
_PARAMETER: Final = backend.PARAMETER_STATUS


def is_outrun(session: Session, statement: Statement, chunk: Chunk, index: list[Frame], *, first: bool) -> bool:
    """Whether the first frames of an answer have an error of which the client need not hear (proxy.session.anew)."""
    for kind, start, end in index:
        if kind == _ERROR:
            error = decode_error(bytes(chunk[start + HEADER_BYTES : end]))
            return error.sqlstate == QUERY_CANCELED and session.anew.takes_in_lane(statement, first=first)
    return False


def pass_on(session: Session, chunk: Chunk, index: list[Frame]) -> tuple[bool, str | None]:
    """Write what a client gets of some frames, up to ReadyForQuery.

    Returns whether there was anything of which the session must hear at the end, and an error's SQLSTATE.
    """
    connection = session.connection
    special, sqlstate = False, None
    run_start = run_end = 0
    for kind, start, end in index:
        if kind == _READY:
            break
        if kind == _PARAMETER:
            special = True
            session.on_parameter(*decode_parameter_status(bytes(chunk[start + HEADER_BYTES : end])))
            continue
        if kind == _ERROR:
            error = decode_error(bytes(chunk[start + HEADER_BYTES : end]))
            instead = session.transaction.explain(error)
            special, sqlstate = True, (instead or error).sqlstate
            if instead is not None:
                if run_end > run_start:
                    connection.write(bytes(chunk[run_start:run_end]))
                run_start = run_end = end
                connection.write(backend.error_response(instead))
                continue
        if run_end != start:
            if run_end > run_start:
                connection.write(bytes(chunk[run_start:run_end]))
            run_start = start
        run_end = end
    if run_end > run_start:
        connection.write(bytes(chunk[run_start:run_end]))
    return special, sqlstate
