"""Cancel keys: which session a CancelRequest means, and which worker has that.

A key is a process id and a secret; both are random, so that a guess costs a connection and finds nobody. Where several
workers serve one port, a CancelRequest arrives at any of them: the last bits of the process id are the worker's number,
and the worker that has the session compares the secret. Answers nothing to the client that asks, as Postgres does.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from typing import TYPE_CHECKING, Any, Protocol

from proxy.siblings.place import Place

if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Final

KEY_BYTES_3_0 = 4
KEY_BYTES_3_2 = 32
PID_BITS: Final = 31  # a process id is positive


class Cancellable(Protocol):
    """A session."""

    def cancel(self) -> Collection[asyncio.Future[Any]]:
        """Cancel what runs now; returns what is done when shards have been told."""


class CancelKeys:
    """The keys of all sessions of this process."""

    def __init__(self, place: Place = Place()) -> None:  # noqa: B008 - a frozen value
        self._place = place
        self._bits = (place.count - 1).bit_length()
        self._sessions: dict[int, tuple[bytes, Cancellable]] = {}

    def register(self, session: Cancellable, *, long_key: bool) -> tuple[int, bytes]:
        """Return a fresh (process id, secret) for a session."""
        secret = secrets.token_bytes(KEY_BYTES_3_2 if long_key else KEY_BYTES_3_0)
        while True:
            pid = secrets.randbits(PID_BITS - self._bits) << self._bits | (self._place.number - 1)
            if pid and pid not in self._sessions:
                self._sessions[pid] = (secret, session)
                return pid, secret

    def owner(self, pid: int) -> int:
        """Return the number of the worker whose session a process id may mean; it may be of no worker there is."""
        return (pid & ((1 << self._bits) - 1)) + 1

    def forget(self, pid: int) -> None:
        """The session ended."""
        self._sessions.pop(pid, None)

    async def cancel(self, pid: int, secret: bytes) -> bool:
        """Cancel the session of this key; False when there is none.

        Done when the shards have sent the signal: a client that waits for this, as it may with Postgres, must not find
        its next statement cancelled.
        """
        entry = self._sessions.get(pid)
        if entry is None or not hmac.compare_digest(entry[0], secret):
            return False
        if under_way := entry[1].cancel():
            await asyncio.wait(under_way)
        return True
