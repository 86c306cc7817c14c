"""What a prepared statement's literals mean: what they meant when the client's Parse, or PREPARE, was read.

Postgres reads '01/02/2020' when it parses a statement and keeps the day, whatever DateStyle is when it runs. A link may
parse the statement much later. Decided here: which settings are read then, which texts may be concerned, and how a link
is made to read one under settings that are no longer the session's; what cannot be done is refused. Parameters are not
concerned: Postgres reads them at Bind.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from proxy.bringing import starting_settings
from proxy.session.altering import check_rows
from proxy.settings import RESET_ALL, reading_of
from proxy.shards.errors import ShardError
from proxy.wire import backend, frontend
from proxy.wire.frames import frame
from router.errors import refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from proxy.session.prepared import Portal, PreparedStatement
    from proxy.session.session import Session
    from proxy.settings import Reading
    from proxy.shards.link import ShardLink

_CYCLES: Final = 3
# What quotes are around: names, comments, literals.
_PIECES: Final = re.compile(r"\"[^\"]*\"|--[^\n]*|'([^']*)'")
# Where nobody counts quotes, or where a literal is in pieces; and XML, of which every text can be one.
_UNSURE: Final = re.compile(
    r"/\*|\\|\$\w*\$|(?<!\w)u&|'[^\S\n]*(?:--[^\n]*)?\n\s*'|xml",
    re.IGNORECASE,
)
#: Every date, time, interval and amount has a digit, or is one of these words.
_READ: Final = re.compile(r"[0-9]|null|now|today|tomorrow|yesterday", re.IGNORECASE)
_IS_NULL: Final = re.compile(r"=\s*\(*\s*null|null\s*\)*\s*=", re.IGNORECASE)  # transform_null_equals
_SAVEPOINT: Final = "SAVEPOINT pgchorus_read"
_ROLLBACK_TO: Final = "ROLLBACK TO SAVEPOINT pgchorus_read; RELEASE SAVEPOINT pgchorus_read"
_NAME: Final = b"pgchorus_read"


def reading(session: Session) -> Reading:
    """Return the settings by which a literal is read now."""
    transaction = session.transaction
    if not transaction.reads_otherwise:
        return session.settings.reading
    made = list(starting_settings(transaction).statements)
    for replay in transaction.log:
        if replay.setting == RESET_ALL:
            made = list(session.settings.startup.items())
        elif replay.setting:
            made.append((replay.setting, replay.sql))
    return reading_of(made)


def may_be_read(text: str) -> bool:
    """Whether a literal in a text, or what else these settings concern, may mean something else under others."""
    if _IS_NULL.search(text):
        return True
    if "'" not in text and "$" not in text:
        return False
    if _UNSURE.search(text):
        return True
    return any(_READ.search(piece[1]) for piece in _PIECES.finditer(text) if piece[1])


def has_changed(session: Session, prepared: PreparedStatement) -> bool:
    """Whether a statement was parsed under settings by which it may have meant something else than it would now."""
    now = reading(session)
    return prepared.reading is not now and prepared.reading != now and may_be_read(prepared.statement.text)


def check_reading(session: Session, prepared: PreparedStatement) -> None:
    """Refuse a statement that would be read by the settings of now, if that may be wrong."""
    if has_changed(session, prepared):
        raise refusal("literals-read")


async def before_bind(
    session: Session, portal: Portal, shard: int, flush: Callable[[], Awaitable[None]], *, told: bool
) -> None:
    """Before a Bind on a link: check what its rows are; ``flush`` is awaited when the link must be free for a Parse.

    ``told``: as of ``check_rows``.
    """
    portal.prepared = await check_rows(session, portal.prepared, shard, flush, told=told)
    if has_changed(session, portal.prepared):
        await flush()


async def parse_as_then(session: Session, link: ShardLink, prepared: PreparedStatement) -> bytes:
    """Return the name on a link under which a statement is parsed by the settings of its Parse.

    They are set for that alone, and a rollback takes them back. It is parsed for each use: when a table has changed in
    any way (TRUNCATE, ANALYZE), Postgres reads a statement that is there anew, by the settings of now.
    """
    changed = dict.fromkeys([*dict(reading(session)), *dict(prepared.reading)])
    sets = [*(f"RESET {setting}" for setting in changed), *(sql for _, sql in prepared.reading)]
    begin, end = (_SAVEPOINT, _ROLLBACK_TO) if session.transaction.in_block else ("BEGIN", "ROLLBACK")
    # A rollback takes no named statement with it, but the unnamed one goes with the next simple query.
    frames = (
        frontend.Query(link.encode("; ".join([begin, *sets]))).encode()
        + frontend.Close(b"S", _NAME).encode()
        + frontend.Parse(_NAME, prepared.query_on(link), prepared.oids).encode()
        + frontend.Sync().encode()
        + frontend.Query(end.encode()).encode()
    )
    for kind, body in await link.collect(frames, _CYCLES):
        if kind == backend.ERROR_RESPONSE:
            raise ShardError(backend.decode_error(body), link.shard, frame(b"E", body))
    session.database.counts.server_parses += 1
    return _NAME
