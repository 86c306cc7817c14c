"""Rows of ``pg_prepared_statements`` and ``pg_cursors``: what the session has, and not what its links have.

Decides what these views show a client. Statements are on links under names of ours, and only from their first use on;
cursors over several shards are cursors of ours on each of them. Which names in a text mean these views is
router.planner.session_views's to say. How often a link has planned a statement anew nobody counts: NULL.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from router.planner.session_views import PREPARED
from router.resolve import KeyParameter

if TYPE_CHECKING:
    from proxy.session.prepared import PreparedStatement
    from proxy.session.session import Session

_JSON_OID: Final = 114
_TEXT: Final = 0
_CURSORS: Final = "SELECT pg_catalog.row_to_json(c) FROM pg_catalog.pg_cursors c"
_OURS: Final = "pgchorus_"  # and the unnamed ones are of statements that run


async def own_rows(session: Session, view: str) -> KeyParameter:
    """Return the rows of a view, as the parameter that a statement takes them by."""
    rows = _statements(session) if view == PREPARED else await _cursors(session)
    return KeyParameter(json.dumps(rows).encode("ascii"), _TEXT, _JSON_OID)


def moment(at_us: int) -> str:
    """Return a time in microseconds of Unix time as Postgres reads it under any DateStyle."""
    return datetime.fromtimestamp(at_us / 1_000_000, UTC).isoformat()


def _statements(session: Session) -> list[dict[str, Any]]:
    return [_statement(name, prepared) for name, prepared in session.statements.items() if name]


def _statement(name: bytes, prepared: PreparedStatement) -> dict[str, Any]:
    fields = prepared.description.fields
    text = prepared.query if prepared.source is None else prepared.source
    return {
        "name": name.decode("utf-8", "replace"),
        "statement": text.decode("utf-8", "replace"),
        "prepare_time": moment(prepared.made_at_us),
        "parameter_types": [str(oid) for oid in prepared.description.parameter_oids],
        "result_types": None if fields is None else [str(field.type_oid) for field in fields],
        "from_sql": prepared.source is not None,
    }


async def _cursors(session: Session) -> list[dict[str, Any]]:
    """Over several shards: those of the session, and those that one shard has, functions' own among them."""
    rows = [found.shown(name) for name, found in session.spread_cursors.items()]
    transaction = session.transaction
    for link in [*transaction.links.values()] or [*transaction.pinned.values()]:
        answer = await link.run(_CURSORS)
        for (value,) in answer.rows:
            row = json.loads(session.encoding.heard(value or b"null"))
            if row["name"] and not row["name"].startswith(_OURS):
                rows.append(row)
    return rows
