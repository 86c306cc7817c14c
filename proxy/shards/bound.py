"""Messages that run statements of our own, which a link has prepared: the server does not read their texts again.

Decided here: when such a statement is prepared anew. Which go out together is decided by those who send them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.twophase.messages import PREPARING, PREPARING_TEXT, READY
from proxy.twophase.record import DECIDE
from proxy.twophase.valued import Decision, Ready
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
_READY_NAMES: Final = ("pgchorus_ready_0", _NAMES[1], "pgchorus_ready_2")  # SET CONSTRAINTS is a participant's too
_READY_TEXTS: Final = tuple(text.encode() for text in READY)
_READY_HEADS: Final = tuple(b"\0%b\0" % name.encode() + _NO_FORMATS for name in _READY_NAMES)
_ALL_NAMES: Final = (*_NAMES, _DECIDE, _COMMIT, _READY_NAMES[0], _READY_NAMES[2])


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
    if isinstance(sql, Decision):
        return _deciding(link, sql.values)
    if isinstance(sql, Ready):
        return _ready(link, sql.values)
    if sql.startswith(PREPARING_TEXT):
        return preparing(link, sql)
    return frame(b"Q", sql.encode() + b"\0")


def _deciding(link: ShardLink, values: tuple[str, ...]) -> bytes:
    """Return the messages for a decision and COMMIT.

    They are one write of a few hundred bytes, less than one segment: between the two the fence's lock is held, and no
    timeout of the server's ends a transaction whose client has not said Sync.
    """
    parse = prepared(link, _DECIDE, _DECIDE_SQL)
    return parse + _bind(_DECIDE_HEAD, values) + prepared(link, _COMMIT, b"COMMIT") + _BOUND_COMMIT


def _ready(link: ShardLink, values: tuple[str, str]) -> bytes:
    """Return the messages for a commit point's step 1, which leaves it in its transaction."""
    limits, constraints, xid = _READY_NAMES
    return b"".join(
        (
            prepared(link, limits, _READY_TEXTS[0]),
            _bind(_READY_HEADS[0] + b"\0\2", values),
            prepared(link, constraints, _READY_TEXTS[1]),
            _BOUND[1],
            prepared(link, xid, _READY_TEXTS[2]),
            _bind(_READY_HEADS[2] + b"\0\1", values[:1]),
            _SYNC,
        )
    )


def _bind(head: bytes, values: tuple[str, ...]) -> bytes:
    """Return Bind, with values as texts behind what names the statement, and Execute: in half of Bind.encode's time."""
    parts = [head]
    for value in values:
        encoded = value.encode()
        parts += (INT32.pack(len(encoded)), encoded)
    parts.append(_NO_FORMATS)
    return frame(b"B", b"".join(parts)) + EXECUTE


def preparing(link: ShardLink, sql: str) -> bytes:
    """Return the messages for a text that begins with ``PREPARING_TEXT``."""
    parts = [prepared(link, name, query) for name, query in zip(_NAMES, _TEXTS, strict=True)]
    rest = frame(b"P", b"\0%b\0\0\0" % sql[_HEAD:].encode()) + _UNNAMED
    if any(parts):
        bound = b"".join(part + bound for part, bound in zip(parts, _BOUND, strict=True))
        return bound + rest
    return _ALL_BOUND + rest
