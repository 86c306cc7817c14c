"""What a server says that nobody asked for: on a link without an exchange, or in the midst of one.

Decides what may come unasked: notices, notifications, parameters. What becomes of a link that says anything else is
relay.py's.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from proxy.wire import backend
from proxy.wire.frames import HEADER_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.shards.receiver import Chunk, Frame

_PARAMETER: Final = backend.PARAMETER_STATUS
_NOTICE: Final = backend.NOTICE_RESPONSE
_NOTIFICATION: Final = backend.NOTIFICATION_RESPONSE

_log = logging.getLogger(__name__)


def unsolicited(
    link: object, chunk: Chunk, index: list[Frame], notify: Callable[[Chunk, int, int], None]
) -> int | None:
    """Take frames between exchanges (parameters are noted already); returns the type of one that may not come then."""
    for kind, start, stop in index:
        if kind == _NOTIFICATION:
            notify(chunk, start, stop)
        elif kind == _NOTICE:
            _log.info("%r: %s", link, backend.decode_error(bytes(chunk[start + HEADER_BYTES : stop])))
        elif kind != _PARAMETER:
            return kind
    return None


def without_notifications(chunk: Chunk, index: list[Frame], notify: Callable[[Chunk, int, int], None]) -> list[Frame]:
    """Notifications are for whoever listens, not for whoever has an exchange under way; returns the rest."""
    rest = []
    for entry in index:
        if entry[0] == _NOTIFICATION:
            notify(chunk, entry[1], entry[2])
        else:
            rest.append(entry)
    return rest
