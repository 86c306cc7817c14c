"""What a client sends during COPY FROM STDIN, and what Postgres says of the rest.

Postgres complains of a message that has no business there before it has read its body, and gives up on the connection:
an ERROR, then a FATAL.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.wire import backend
from proxy.wire.errors import PROTOCOL_VIOLATION, ProtocolViolation, UnknownMessageType, desynchronized
from proxy.wire.fields import ErrorFields

if TYPE_CHECKING:
    from proxy.executor.request import Client


async def receive_in_copy(client: Client) -> list[tuple[int, bytes]]:
    """Return messages that have arrived, at least one; raises ProtocolViolation for types that no client may send."""
    try:
        return await client.receive_many()
    except UnknownMessageType as unknown:
        raise out_of_place(client, unknown.kind) from unknown


def out_of_place(client: Client, kind: int) -> ProtocolViolation:
    """Tell the client what does not belong into a COPY; what is returned ends the connection."""
    text = f"unexpected message type 0x{kind:02X} during COPY from stdin"
    client.write(backend.error_response(ErrorFields.make("ERROR", PROTOCOL_VIOLATION, text)))
    return desynchronized("terminating connection because protocol synchronization was lost")
