"""What a client sends during COPY FROM STDIN, and what Postgres says of what does not belong there.

Postgres complains of a message that has no business there when it has read the data before it, and gives up on the
connection: an ERROR, then a FATAL. If that data holds an error, it says so, and the COPY is over: the message is then
one like others. So the shard is told CopyFail in the message's place, with ``MISPLACED``: its answer tells which of the
two it is. It is the same where the client says no more, and may still listen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.errors import CONNECTION_FAILURE, QUERY_CANCELED, ClientSaidAll
from proxy.wire.errors import PROTOCOL_VIOLATION, ProtocolViolation, UnknownMessageType, desynchronized
from proxy.wire.frontend import CopyFail

if TYPE_CHECKING:
    from proxy.executor.request import Client
    from proxy.wire.fields import ErrorFields

_MARK: Final = "pgchorus: a message that has no place in a COPY"
MISPLACED: Final = CopyFail(_MARK.encode()).encode()
_NOTHING_MORE: Final = -1  # in place of a message's type


async def receive_in_copy(client: Client) -> tuple[list[tuple[int, bytes]], int | None]:
    """Return messages that have arrived, at least one; or none, and the type of what has no place in a COPY.

    That is a message that no client may send, or that the client says no more.
    """
    try:
        return await client.receive_many(), None
    except ClientSaidAll:
        return [], _NOTHING_MORE
    except UnknownMessageType as unknown:
        return [], unknown.kind


def of_misplaced(error: ErrorFields, kind: int | None) -> ErrorFields | None:
    """Return what Postgres says of a message of this type, if that is what a shard's error means."""
    if kind is None or error.sqlstate != QUERY_CANCELED or _MARK not in error.message:
        return None
    if kind == _NOTHING_MORE:
        return error.replace(C=CONNECTION_FAILURE, M="unexpected EOF on client connection with an open transaction")
    return error.replace(C=PROTOCOL_VIOLATION, M=f"unexpected message type 0x{kind:02X} during COPY from stdin")


def out_of_place() -> ProtocolViolation:
    """Return what ends the connection when the client has been told of that."""
    return desynchronized("terminating connection because protocol synchronization was lost")
