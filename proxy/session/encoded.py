"""What clients send is read as they mean it before anything is made of it: in their encoding, with their backslashes.

Links have the client's encoding (proxy.settings), so parameters, rows and COPY data go through as they are. Texts of
statements become str, names of statements UTF-8, and are written in the link's encoding when they are sent on
(``ShardLink.encode``). Which encodings are served says proxy.encodings.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar

from proxy.encodings import by_name, served
from proxy.errors import ProxyError
from proxy.settings import set_config_sql
from proxy.turns import beside
from proxy.wire import frontend
from router.errors import Refused, refusal
from router.escapes import may_switch, with_marks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from proxy.encodings import Encoding
    from proxy.session.session import Session
    from router.plan import Statement

_Message = TypeVar("_Message")
_LONG_BODY: Final = 1 << 15


def escapes(session: Session) -> bool:
    """Whether a backslash in a plain string means something to the server."""
    return session.parameters.get("standard_conforming_strings") == "off"


def may_read_otherwise(session: Session, query: bytes, ahead: Iterable[Statement]) -> bool:
    """Whether what a backslash of a text means hangs on statements ahead of it that have not run yet."""
    one = session.transaction.shard_count == 1
    return one and b"\\" in query and any(statement.dirties or statement.set_config for statement in ahead)


async def read_message(kind: int, body: bytes) -> frontend.Message:
    """Return a message that FrameReader cut; raises ProtocolViolation. One of many values is read beside the loop."""
    return frontend.decode(kind, body) if len(body) < _LONG_BODY else await beside(frontend.decode, kind, body)


async def read_text(session: Session, data: bytes, flush: Callable[[], Awaitable[None]] | None = None) -> str:
    """Return a statement's text; raises what Postgres says of bytes that are none in the client's encoding.

    ``flush`` is awaited before a shard is asked.
    """
    try:
        text = session.encoding.read(data)
        if session.transaction.shard_count > 1:  # there the setting is on
            return text
        off = escapes(session)
        return with_marks(text, escapes=off) if off or may_switch(text) else text
    except UnicodeError as error:
        reason = str(error)
    if flush is not None:
        await flush()
    await session.database.descriptions.let_a_shard_speak(session, data)
    raise refusal("encoding-text", encoding=session.encoding.name, detail=reason)


async def with_names(session: Session, message: _Message, flush: Callable[[], Awaitable[None]]) -> _Message:
    """Return a message with the name of its statement in UTF-8; those of portals go to shards.

    Raises what Postgres says of bytes that are none in the client's encoding; where that is not UTF-8, those of portals
    must be ASCII. ``flush`` is awaited before a shard is asked.
    """
    names = _names(message)
    for name in names:
        if not name.isascii() and not _is_readable(session.encoding, name):
            await flush()
            await session.database.descriptions.let_a_shard_speak(session, name)
    return message if session.encoding.is_utf8 else _in_utf8(session.encoding, message)


def _names(message: object) -> tuple[bytes, ...]:
    if isinstance(message, frontend.Bind):
        return message.portal, message.statement
    if isinstance(message, frontend.Parse):
        return (message.statement,)
    if isinstance(message, frontend.Execute):
        return (message.portal,)
    return (message.name,) if isinstance(message, frontend.Describe | frontend.Close) else ()


def _is_readable(encoding: Encoding, name: bytes) -> bool:
    try:
        name.decode(encoding.codec)
    except UnicodeError:
        return False
    return True


def _in_utf8(encoding: Encoding, message: _Message) -> _Message:
    if isinstance(message, frontend.Parse):
        return replace(message, statement=_name(encoding, message.statement))
    if isinstance(message, frontend.Bind):
        _check_portal(message.portal)
        return replace(message, statement=_name(encoding, message.statement))
    if isinstance(message, frontend.Execute):
        _check_portal(message.portal)
    elif isinstance(message, frontend.Describe | frontend.Close):
        if message.kind == b"S":
            return replace(message, name=_name(encoding, message.name))
        _check_portal(message.name)
    return message


def _name(encoding: Encoding, name: bytes) -> bytes:
    try:
        return encoding.to_utf8(name)
    except UnicodeError as error:
        raise ProxyError("22021", f'invalid byte sequence for encoding "{encoding.name}"', detail=str(error)) from error


def _check_portal(name: bytes) -> None:
    if not name.isascii():
        raise refusal("encoding-portal")


def sets_encoding(statement: Statement) -> bool:
    """Whether a statement calls set_config for client_encoding: what comes after it is to be read otherwise."""
    return any(name == "client_encoding" for name, _, _ in statement.set_config)


def check_change(session: Session) -> None:
    """Before client_encoding changes: nothing of the session may hold rows or parameters in the old one."""
    for portal in session.portals.values():
        waiting = portal.shard is None or portal.deferred
        if portal.result is not None or (
            waiting and any(value is not None and not value.isascii() for value in portal.bind.parameters)
        ):
            raise refusal("encoding-open")
    if session.spread_cursors:
        raise refusal("encoding-open")


async def check_changed(session: Session, before: Encoding) -> None:
    """After a change of client_encoding on a link: go back, and say why, if the new one is not served."""
    name = session.parameters.get("client_encoding", "UTF8")
    if by_name(name) is before:
        return
    try:
        served(name, session.transaction.shard_count)
    except Refused:
        link = session.settings_link
        if link is not None and not link.closed:
            await link.run(set_config_sql("client_encoding", before.name))
            session.follow_parameters(link)
        raise
