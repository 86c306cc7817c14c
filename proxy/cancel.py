"""Cancel keys: which session a CancelRequest means.

A key is a process id and a secret; both are random, so that a guess costs a connection and finds nobody. Answers
nothing to the client that asks, as Postgres does.
"""

from __future__ import annotations

import hmac
import secrets
from typing import Protocol

KEY_BYTES_3_0 = 4
KEY_BYTES_3_2 = 32


class Cancellable(Protocol):
    """A session."""

    def cancel(self) -> None:
        """Cancel what runs now."""


class CancelKeys:
    """The keys of all sessions of this process."""

    def __init__(self) -> None:
        self._sessions: dict[int, tuple[bytes, Cancellable]] = {}

    def register(self, session: Cancellable, *, long_key: bool) -> tuple[int, bytes]:
        """Return a fresh (process id, secret) for a session."""
        secret = secrets.token_bytes(KEY_BYTES_3_2 if long_key else KEY_BYTES_3_0)
        while True:
            pid = secrets.randbelow(2**31 - 1) + 1
            if pid not in self._sessions:
                self._sessions[pid] = (secret, session)
                return pid, secret

    def forget(self, pid: int) -> None:
        """The session ended."""
        self._sessions.pop(pid, None)

    def cancel(self, pid: int, secret: bytes) -> bool:
        """Cancel the session of this key; False when there is none."""
        entry = self._sessions.get(pid)
        if entry is None or not hmac.compare_digest(entry[0], secret):
            return False
        entry[1].cancel()
        return True
