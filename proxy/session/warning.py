"""Warnings of the proxy's own, in Postgres's words.

Decides whether a client hears them: not where it has set client_min_messages to what is above a warning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from proxy.session.session import Session

_NAME: Final = "client_min_messages"


async def warn(session: Session, sqlstate: str, message: str) -> None:
    """Send a WARNING, if the client wants to hear of any."""
    if not _has_set(session) or await _level(session) not in (b"error", b"fatal", b"panic"):
        session.notice("WARNING", sqlstate, message)


def _has_set(session: Session) -> bool:
    """Whether the session has ever named the setting; what a role or a database has by default is not looked at."""
    made = (name for name, _ in session.settings.applied.statements)
    return _NAME in made or any(_NAME in (one.setting or "").lower() for one in session.transaction.log)


async def _level(session: Session) -> bytes | None:
    shard = session.settings_shard
    links = await session.transaction.join([shard], writes=False, reads=False)
    answer = await links[shard].run(f"SHOW {_NAME}")
    session.transaction.finish_statement()
    return answer.rows[0][0]
