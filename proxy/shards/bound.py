"""Messages that run statements of our own, which a link has prepared: the server does not read their texts again.

Decided here: when such a statement is prepared anew. Which go out together is decided by those who send them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.twophase.messages import PREPARING, PREPARING_TEXT
from proxy.twophase.record import DECIDE, DECIDE_TEXT, decision_values
from proxy.wire.body import INT32
from proxy.wire.frames import frame
from proxy.wire.frontend import Bind, Close, Execute, Parse

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxy.shards.link import ShardLink

EXECUTE: Final = Execute(b"", 0).encode()
_SYNC: Final = frame(b"S", b"")
_NAMES: Final = tuple(f"pgchorus_preparing_{number}" for number in range(len(PREPARING)))
_TEXTS: Final = tuple(text.encode() for text in PREPARING)
_BOUND: Final = tuple(Bind(b"", name.encode()).encode() + EXECUTE for name in _NAMES)
_ALL_BOUND: Final = b"".join(_BOUND)
_UNNAMED: Final = Bind(b"", b"").encode() + EXECUTE + _SYNC
_HEAD: Final = len(PREPARING_TEXT)
_DECIDE: Final = "pgchorus_decide"
_COMMIT: Final = "pgchorus_commit"
_DECIDE_SQL: Final = DECIDE.encode()
_NO_FORMATS: Final = b"\0\0"
_DECIDE_HEAD: Final = b"\0%b\0" % _DECIDE.encode() + _NO_FORMATS + b"\0\6"  # no portal's name, texts, six of them
_BOUND_COMMIT: Final = Bind(b"", _COMMIT.encode()).encode() + EXECUTE + _SYNC
_ALL_NAMES: Final = (*_NAMES, _DECIDE, _COMMIT)


def prepared(link: ShardLink, name: str, query: bytes, oids: tuple[int, ...] = ()) -> bytes:
    """Return what prepares a statement on a link, if that has it not; it is the latest one that was used.

    Closed first, which is no error: it may be there and be forgotten.
    """
    statements = link.statements
    if name in statements:
        statements.move_to_end(name)
        return b""
    statements[name] = None
    return Close(b"S", name.encode()).encode() + Parse(name.encode(), query, oids).encode()


def forget(link: ShardLink, names: Iterable[str] = _ALL_NAMES) -> None:
    """Something has failed where these may have been prepared: nobody knows whether the link has them."""
    for name in names:
        link.statements.pop(name, None)


def message(link: ShardLink, sql: str) -> bytes:
    """Return the messages for a text of a commit, up to a Sync or as a Query. When it has failed, ``forget``.

    As a query or bound, a text does the same: the first error ends it, and rows are those of the last statement that
    has any.
    """
    if sql.startswith(PREPARING_TEXT):
        return preparing(link, sql)
    if sql.startswith(DECIDE_TEXT):
        values = decision_values(sql)
        if values is not None:
            return _deciding(link, values)
    return frame(b"Q", sql.encode() + b"\0")


def _deciding(link: ShardLink, values: tuple[str, ...]) -> bytes:
    """Return the messages for a decision and COMMIT.

    They are one write of a few hundred bytes, less than one segment: between the two the fence's lock is held, and no
    timeout of the server's ends a transaction whose client has not said Sync.
    """
    parse = prepared(link, _DECIDE, _DECIDE_SQL)
    parts = [_DECIDE_HEAD]  # as Bind.encode has it, in half its time
    for value in values:
        encoded = value.encode()
        parts += (INT32.pack(len(encoded)), encoded)
    parts.append(_NO_FORMATS)
    bound = frame(b"B", b"".join(parts)) + EXECUTE
    return parse + bound + prepared(link, _COMMIT, b"COMMIT") + _BOUND_COMMIT


def preparing(link: ShardLink, sql: str) -> bytes:
    """Return the messages for a text that begins with ``PREPARING_TEXT``."""
    parts = [prepared(link, name, query) for name, query in zip(_NAMES, _TEXTS, strict=True)]
    rest = frame(b"P", b"\0%b\0\0\0" % sql[_HEAD:].encode()) + _UNNAMED
    if any(parts):
        bound = b"".join(part + bound for part, bound in zip(parts, _BOUND, strict=True))
        return bound + rest
    return _ALL_BOUND + rest
