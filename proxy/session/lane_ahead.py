"""What goes to a shard in front of a statement of a block on the fast lane: BEGIN, and a look (twophase.settling).

Messages of the extended protocol without a Sync, an open prefix (proxy.shards.prefix): their answers come with the
statement's own, and the server reads no text again that the link has prepared. A look inside a block needs a savepoint,
so that it may fail; one that goes out with BEGIN does not, since nothing has happened there that would be lost by
beginning anew.

What cannot be an open prefix, because something else must stand before BEGIN or behind it, goes as texts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.shards import bound
from proxy.shards.bound import EXECUTE, prepared
from proxy.twophase.settling import BEGUN_ANEW, LOOK, LOOK_UNDONE
from proxy.wire.frontend import Bind, Query

if TYPE_CHECKING:
    from proxy.shards.link import ShardLink
    from proxy.twophase.settling import Settler

_TEXTS_OID: Final = 1009  # text[]
_BEGIN: Final = "pgchorus_begin"
_SAVEPOINT: Final = "pgchorus_savepoint"
_RELEASE: Final = "pgchorus_release"
_NAMES: Final = (_BEGIN, _SAVEPOINT, LOOK, _RELEASE)
_BEHIND_LOOK: Final = (_RELEASE,)
_PLAIN: Final = {
    _BEGIN: b"BEGIN",
    _SAVEPOINT: f"SAVEPOINT {LOOK}".encode(),
    _RELEASE: f"RELEASE SAVEPOINT {LOOK}".encode(),
}
_BOUND: Final = {name: Bind(b"", name.encode()).encode() + EXECUTE for name in _PLAIN}
_NOBODY: Final = "{}"
_BOUND_LOOK: Final = Bind(b"", LOOK.encode(), (), (_NOBODY.encode(),)).encode() + EXECUTE


def put_begin(link: ShardLink) -> None:
    """Put BEGIN before the next exchange of a link, which must come at once."""
    link.prefix(_run(link, _BEGIN), executes=1)


def put_begin_and_look(link: ShardLink, settler: Settler) -> bytes:
    """Put BEGIN and a look before it; returns what undoes both when the look has failed."""
    link.prefix(_run(link, _BEGIN) + _look(link, settler), executes=2)
    return BEGUN_ANEW


def put_look(link: ShardLink, settler: Settler) -> bytes:
    """Put a look before it, inside a block; returns what undoes it when it has failed."""
    if link.has_prefix:
        link.prefix(Query(settler.look(link.shard).encode()).encode())
    else:
        link.prefix(_run(link, _SAVEPOINT) + _look(link, settler) + _run(link, _RELEASE), executes=3)
    return LOOK_UNDONE


def forget(link: ShardLink, *, looked: bool) -> None:
    """Something of this has failed: nobody knows what the link has prepared, but what stood before a look that has."""
    bound.forget(link, _BEHIND_LOOK if looked else _NAMES)


def _run(link: ShardLink, name: str) -> bytes:
    return prepared(link, name, _PLAIN[name]) + _BOUND[name]


def _look(link: ShardLink, settler: Settler) -> bytes:
    parse = prepared(link, LOOK, settler.look_sql.encode(), (_TEXTS_OID,))
    names = settler.names(link.shard)
    if names == _NOBODY:
        return parse + _BOUND_LOOK
    return parse + Bind(b"", LOOK.encode(), (), (names.encode(),)).encode() + EXECUTE
