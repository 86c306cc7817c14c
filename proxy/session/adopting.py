"""What dynamic SQL has prepared or declared on the link of the only shard: the session's from then on.

Decides what is taken over when a link is asked what was done on it out of sight: statements of PREPARE become the
session's own, which can be prepared on any link, and are taken off this one; a cursor WITH HOLD keeps its link, and so
does an advisory lock that no transaction has any more. What a
function prepares under a name that the session has already is not seen, and functions do not see the session's.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from proxy.shards.errors import ShardError
from proxy.transaction import UNSEEN
from router.errors import Refused, SyntaxFailure
from router.plan import WITH_HOLD
from router.plan_control import Prepared, PreparedControl

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from proxy.session.prepared import PreparedStatement
    from proxy.session.session import Session

PREPARED: Final = b"prepared"
CURSOR: Final = b"cursor"
LOCK: Final = b"lock"
#: What of these a link has, by the last column of LEFT.
KINDS: Final = frozenset({PREPARED, CURSOR, LOCK})
_LOCKED: Final = "session advisory lock"
#: Rows (name, what is known of it, PREPARED, CURSOR or LOCK).
LEFT: Final = (
    "SELECT name, pg_catalog.json_build_object('text', statement, 'oids', parameter_types::pg_catalog.oid[])::text,"
    " 'prepared' FROM pg_catalog.pg_prepared_statements"
    " WHERE from_sql AND NOT pg_catalog.starts_with(name, 'pgchorus_')"
    " UNION ALL SELECT name, '', 'cursor' FROM pg_catalog.pg_cursors WHERE is_holdable"
    " UNION ALL (SELECT '', '', 'lock' FROM pg_catalog.pg_locks WHERE locktype = 'advisory'"
    " AND pid = pg_catalog.pg_backend_pid() LIMIT 1)"
)


async def look(session: Session, name: bytes) -> None:
    """Before a name that the session does not know is an error: a function may have prepared it in this block."""
    transaction = session.transaction
    if name in session.statements or transaction.shard_count > 1 or UNSEEN not in transaction.pins:
        return
    link = transaction.links.get(session.database.logical.home)
    if link is not None and not link.closed and not transaction.failed:
        answer = await link.run(LEFT)
        await adopt(session, [row for row in answer.rows if row[2] == PREPARED])


async def adopt(session: Session, rows: Iterable[Sequence[bytes | None]]) -> None:
    """Take over what rows of LEFT say that a link has."""
    for name_, known, kind in rows:
        name = session.encoding.heard(name_ or b"")
        if kind == LOCK:
            session.transaction.pins.add(_LOCKED)
        elif kind == CURSOR:
            if name not in session.cursors:
                session.cursors[name] = session.database.logical.home
            session.held_cursors.add(name)
            session.transaction.pins.add(WITH_HOLD)
        elif name.encode("utf-8", "surrogateescape") not in session.statements:
            found = json.loads(session.encoding.heard(known or b"{}"))
            await _adopt_statement(session, name, found["text"], tuple(int(oid) for oid in found["oids"]))


async def _adopt_statement(session: Session, name: str, text: str, oids: tuple[int, ...]) -> None:
    prepared = await _prepared(session, name, text, oids)
    if prepared is None:
        return
    session.statements[prepared.name] = prepared
    link = session.transaction.links.get(session.database.logical.home)
    link = link or session.transaction.pinned.get(session.database.logical.home)
    if link is not None and not link.closed:
        quoted = name.replace('"', '""')
        await link.run(f'DEALLOCATE "{quoted}"')


async def _prepared(session: Session, name: str, text: str, oids: tuple[int, ...]) -> PreparedStatement | None:
    """Prepare what a PREPARE in a text has prepared; None if it cannot be any more: then its name is unknown."""
    from proxy.session.preparing import prepare  # noqa: PLC0415 - it follows settings, too

    encoded = name.encode("utf-8", "surrogateescape")
    try:
        for statement in session.plan(text):
            plan = statement.plan
            if isinstance(plan, PreparedControl) and plan.prepared is Prepared.PREPARE and plan.name == name:
                found = await prepare(session, encoded, plan.body, oids)
                source = text.encode("utf-8", "surrogateescape")
                return replace(found, source=source, made_at_us=time.time_ns() // 1000)
    except (Refused, SyntaxFailure):
        return None
    except ShardError:
        if session.transaction.in_block:
            raise  # which it has failed
        return None
    return None
