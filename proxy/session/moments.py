"""What 'now' and 'today' mean in a prepared statement over one shard: the moment of its Parse.

Postgres reads such a word when it parses a statement, and keeps what it has read for as long as the statement lives. A
link parses the statement much later, and for each use. Decided here: when the moment is noted, and the text in which it
stands instead of the word. What type reads a literal only Postgres knows, so it is asked: with a word that nobody knows
in the literal, it says at Parse which type could not read it; or nothing, where the literal is a text and stays one.

Words in literals of another form (escapes, dollars, 'now' among other words, arrays of it) are read when the statement
runs, as a link does it.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from proxy.session.literals import has_changed
from proxy.session.prepared import reads_clock
from proxy.transaction import Block
from proxy.wire import backend, frontend
from router import clock_words
from router.statement import parse

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from proxy.session.prepared import PreparedStatement
    from proxy.session.session import Session
    from proxy.shards.link import ShardLink
    from router.clock_words import Literal

_ANALYZED: Final = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE", "MERGE"})  # at Parse
_NO_WORD: Final = "pgchorusnoword"
_INVALID: Final = "22007"
_TYPES: Final = ("timestamp with time zone", "time with time zone", "timestamp", "date", "time")
_DAYS: Final = frozenset({"timestamp with time zone", "timestamp", "date"})
_SAVEPOINT: Final = frontend.Query(b"SAVEPOINT pgchorus_moment").encode()
_ROLLBACK_TO: Final = frontend.Query(
    b"ROLLBACK TO SAVEPOINT pgchorus_moment; RELEASE SAVEPOINT pgchorus_moment"
).encode()
_FORMAT: Final = "'YYYY-MM-DD HH24:MI:SS.US'"


async def note_moment(
    session: Session, prepared: PreparedStatement, flush: Callable[[], Awaitable[None]] | None
) -> PreparedStatement:
    """After a Parse: return the statement with its moment, if it may need one.

    An unnamed statement outside of a block mostly runs at once and never again, in the transaction in which it is
    parsed: there a link may read the words. Its moment is noted when that ends (``at_sync``). ``flush`` is None for
    PREPARE, which has no pipeline behind it.
    """
    if not _is_concerned(session, prepared):
        return prepared
    transaction = session.transaction
    if not prepared.name and transaction.block is not Block.EXPLICIT:
        return prepared
    if flush is not None:
        await flush()
        if not transaction.in_block:
            session.begin(Block.IMPLICIT)  # what comes behind it in the pipeline has the same now()
    return await _frozen(session, prepared, "pg_catalog.now()")


def _is_concerned(session: Session, prepared: PreparedStatement) -> bool:
    statement = prepared.statement
    return session.transaction.shard_count == 1 and statement.tag in _ANALYZED and reads_clock(statement.text)


def at_sync(session: Session) -> None:
    """What the unnamed statement means from now on: what it meant when it was parsed."""
    prepared = session.statements.get(b"")
    if prepared is not None and not prepared.of_before:
        session.statements[b""] = replace(prepared, of_before=True)


async def as_then(
    session: Session, prepared: PreparedStatement, flush: Callable[[], Awaitable[None]] | None
) -> PreparedStatement:
    """Before a Bind: return the unnamed statement of another transaction with the moment of its Parse."""
    if not prepared.of_before or prepared.frozen or not _is_concerned(session, prepared):
        return prepared
    if has_changed(session, prepared):
        return prepared
    if flush is not None:
        await flush()
    moment = f"('epoch'::pg_catalog.timestamptz + '1 microsecond'::pg_catalog.interval * {prepared.made_at_us})"
    made = await _frozen(session, prepared, moment)
    session.statements[prepared.name] = made
    return made


async def _frozen(session: Session, prepared: PreparedStatement, moment: str) -> PreparedStatement:
    """Return a statement with a text that holds a moment (an expression) instead of words."""
    text = prepared.query.decode("utf-8", "surrogateescape")
    literals = clock_words.literals(parse(text)[0])
    if not literals:
        return prepared
    links = await session.transaction.join([0], writes=False, reads=True)
    try:
        made = await _written(links[0], prepared, text, literals, moment, in_block=session.transaction.in_block)
    finally:
        session.transaction.finish_statement()
    if made is None:
        return prepared
    return replace(prepared, frozen=made.encode("utf-8", "surrogateescape"))


async def _written(  # noqa: PLR0913 - the last two say where
    link: ShardLink,
    prepared: PreparedStatement,
    text: str,
    literals: tuple[Literal, ...],
    moment: str,
    *,
    in_block: bool,
) -> str | None:
    values = await _values(link, moment)
    made = text
    for literal in reversed(literals):
        wrong = text[: literal.start] + literal.without_word(_NO_WORD) + text[literal.end :]
        reader = await _reader(link, wrong, prepared.oids, in_block=in_block)
        if reader == "":
            continue
        body = None if reader is None else _meaning(literal, reader, values)
        if body is None:
            return None
        made = made[: literal.start] + body + made[literal.end :]
    return made


async def _values(link: ShardLink, moment: str) -> dict[str, str]:
    """Return what the words mean for each type, in forms that are read the same under all settings of DateStyle."""
    day = f"{moment}::pg_catalog.date"
    local = f"{moment}::pg_catalog.timestamp"
    asked = {
        "timestamp with time zone": f"pg_catalog.to_char({moment} AT TIME ZONE 'UTC', {_FORMAT}) || '+00'",
        "timestamp": f"pg_catalog.to_char({local}, {_FORMAT})",
        "time": f"pg_catalog.to_char({local}, 'HH24:MI:SS.US')",
        "date": f"pg_catalog.to_char({local}, 'YYYY-MM-DD')",
        **{
            word: f"pg_catalog.to_char(({day} + {days})::pg_catalog.timestamp, 'YYYY-MM-DD')"
            for word, days in (("today", 0), ("tomorrow", 1), ("yesterday", -1))
        },
    }
    (row,) = (await link.run("SELECT " + ", ".join(asked.values()))).rows
    return {name: (value or b"").decode() for name, value in zip(asked, row, strict=True)}


async def _reader(link: ShardLink, wrong: str, oids: tuple[int, ...], *, in_block: bool) -> str | None:
    """Return the type that reads a literal at Parse; '' where none does, None where that cannot be told."""
    tried = frontend.Parse(b"", link.encode(wrong), oids).encode() + frontend.Sync().encode()
    frames = _SAVEPOINT + tried + _ROLLBACK_TO if in_block else tried
    for kind, body in await link.collect(frames, 3 if in_block else 1):
        if kind == backend.ERROR_RESPONSE:
            error = backend.decode_error(body)
            if error.sqlstate != _INVALID:
                return None
            said = error.message.partition(_NO_WORD)[0]
            return next((name for name in _TYPES if re.search(rf"\b{name}\b", said)), None)
    return ""


def _meaning(literal: Literal, reader: str, values: dict[str, str]) -> str | None:
    """Return what stands between the quotes instead; None where that is not known."""
    if literal.body.strip().lower() == "now":
        return values.get(reader)
    if reader not in _DAYS or literal.has_now:
        return None
    return literal.with_days(values)
