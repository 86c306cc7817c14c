"""Prepared statements and portals of one session, and what a shard says about a statement.

A prepared statement lives in the session; on a link it is prepared again on first use there, under a name made of
everything that Postgres froze into it at Parse (text, parameter types, settings, the catalog's version): sessions that
agree in all of these share it, others never do.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from proxy.encodings import UTF_8, recoded
from proxy.errors import ProxyError
from proxy.executor.tags import counted
from proxy.session.relay import CLOSE_ENDS, PARSE_ENDS, Step
from proxy.wire import backend, frontend
from proxy.wire.frames import HEADER_BYTES, walk

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable

    from proxy.description import Description
    from proxy.executor.request import Original, ResultStream
    from proxy.links import Replay
    from proxy.session.session import Session
    from proxy.settings import Applied, Reading
    from proxy.shards.link import ShardLink
    from proxy.wire.backend import Field
    from proxy.wire.fields import ErrorFields
    from router.plan import Executable, Statement

    Place = Callable[[ErrorFields], ErrorFields | None]

#: In the place of a catalog's version: by what an open block had changed. No other block may go by that.
UNCOMMITTED = -1
_COMPLETE = ord("C")
# Literals that mean a moment are read at Parse, whatever else is in them ('today 12:00', '{now}'): a statement that may
# hold one is never shared or kept. Calls (now()) are none; of texts with escapes or in pieces nobody knows.
_QUOTES = frozenset("'$")
_MOMENT = re.compile(
    r"(?<![a-z])(?:now|today|tomorrow|yesterday)(?![a-z])(?!\s*\()|e'[^']*\\|u&'|'[^\S\n]*(?:--[^\n]*)?\n\s*'",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class PreparedStatement:
    """A Parse of the client. ``oids`` are the types it declared, ``description`` what a shard made of them.

    ``name``, ``query`` and ``source`` are in UTF-8, whatever the client speaks. ``catalog_version`` is the proxy's own
    count of catalogs by which it was planned, or UNCOMMITTED; ``reading`` the settings by which its literals are read.
    """

    name: bytes
    query: bytes
    oids: tuple[int, ...]
    statement: Statement
    description: Description
    catalog_version: int
    search_path: tuple[str, ...]
    reading: Reading
    made_at_us: int = 0  # Unix time
    source: bytes | None = None  # of SQL's PREPARE: the message that it stood in
    frozen: bytes = b""  # the text with the moment of its Parse instead of 'now' and the like
    of_before: bool = False  # the unnamed one, of a transaction that is over
    original: Original | None = None  # before values were filled in
    codec: str = UTF_8  # in which the description has the names of columns
    locked: bool = False  # what it reads, by its Parse (proxy.session.parse_locks)

    def query_on(self, link: ShardLink) -> bytes:
        """Return the text as a link reads it. Raises ProxyError when its encoding lacks a character."""
        query = self.frozen or self.query
        return query if link.codec == UTF_8 else link.encode(query.decode("utf-8", "surrogateescape"))

    def link_name(self, applied: Applied) -> bytes:
        """Return the name on links; b'' when it must be parsed anew for each use."""
        return self.shared_name(applied) if self.name else b""

    def shared_name(self, applied: Applied) -> bytes:
        """Return the name on links, where the unnamed one may have one; b'' when it must be parsed anew."""
        if reads_clock(self.statement.text):
            return b""
        key = repr((self.query, self.oids, self.search_path, applied.statements, self.catalog_version)).encode()
        return b"pgchorus_" + hashlib.blake2b(key, digest_size=16).hexdigest().encode()


@dataclass(frozen=True, slots=True)
class OnLink:
    """EXECUTE, or EXPLAIN EXECUTE, of a statement that a link has: the text before and after its name there.

    ``after_at`` is where the latter begins in the client's own message, in characters from 0.
    """

    prepared: PreparedStatement
    before: str
    after: str
    after_at: int


@dataclass(slots=True)
class Portal:
    """A Bind of the client. ``shard`` when it lives on a link there; ``result`` when the executor runs it."""

    name: bytes
    prepared: PreparedStatement
    bind: frontend.Bind
    executable: Executable | None
    shard: int | None = None
    result: ResultStream | None = None
    ended: bytes | None = None  # the tag with which it ran to its end
    deferred: bool = False  # its Bind goes to the shard with its Execute
    kept: deque[bytes] | None = None  # rows that its row limit has left, and the tag of the whole
    kept_tag: bytes = b""
    told: bool = False  # a link has it in other words: what Describe says is known here
    inside: tuple[Replay, ...] = ()  # the savepoints whose rollback does away with it
    on_link: OnLink | None = None  # what it executes there
    place: Place | None = None  # puts the place of an error into the client's text
    in_failed: bool = False  # bound in a block that had failed; one of before is no way out of it

    async def close(self) -> None:
        """Give up rows that were not fetched."""
        if self.result is not None:
            await self.result.close()
            self.result = None

    def answered(self, answer: bytes) -> None:
        """Note how an answer of ours ended; an empty query may be asked for again and again."""
        kind, start, end = walk(answer, 0, len(answer))[0][-1]
        if kind == _COMPLETE:
            self.ended = answer[start + HEADER_BYTES : end - 1]

    def again(self) -> bytes:
        """Answer Execute of a portal that has run to its end: no more rows; what gives none cannot be run again."""
        if self.ended is None or self.prepared.description.fields is None:
            raise ProxyError("55000", f'portal "{self.name.decode(errors="replace")}" cannot be run')
        return backend.command_complete(counted(self.ended, 0))

    def described(self) -> bytes:
        """Return RowDescription in the formats that the client asked for, or NoData."""
        fields = self.prepared.description.fields
        if fields is None:
            return backend.no_data()
        formats = self.bind.result_formats
        if not formats:
            return backend.row_description(fields)
        if len(formats) == 1:
            formats = formats * len(fields)
        return backend.row_description([with_format(field, code) for field, code in zip(fields, formats, strict=False)])


def reads_clock(text: str) -> bool:
    """Whether Postgres may read its clock when it parses a statement, instead of when it runs it."""
    return not _QUOTES.isdisjoint(text) and _MOMENT.search(text) is not None


def with_format(field: Field, code: int) -> Field:
    """Return the column in another format."""
    return type(field)(
        field.name, field.table_oid, field.column, field.type_oid, field.type_size, field.type_modifier, code
    )


def in_encoding(session: Session, prepared: PreparedStatement) -> PreparedStatement:
    """Return a statement with the names of its columns in what the client speaks now.

    Raises what Postgres says of a character that is not in there.
    """
    codec, fields = session.settings.encoding.codec, prepared.description.fields
    if prepared.codec == codec or not fields:
        return prepared
    named = tuple(replace(field, name=recoded(field.name, prepared.codec, codec)) for field in fields)
    description = replace(prepared.description, fields=named)
    made = replace(prepared, description=description, codec=codec)
    if session.statements.get(prepared.name) is prepared:
        session.statements[prepared.name] = made
    return made


def same_rows(one: tuple[Field, ...] | None, other: tuple[Field, ...] | None) -> bool:
    """Whether rows are still what a client was told, as Postgres judges it for its cached plans."""
    if one is None or other is None:
        return one is other
    return [(f.name, f.type_oid, f.type_modifier) for f in one] == [
        (f.name, f.type_oid, f.type_modifier) for f in other
    ]


def ensure_parsed(
    link: ShardLink, prepared: PreparedStatement, applied: Applied, *, limit: int, shared: bool
) -> tuple[bytes, bytes, list[Step]]:
    """Return (name on the link, frames that make sure it is parsed there, the script of their answers).

    The least recently used statement goes when the link has ``limit`` of them. Not ``shared``: the transaction has
    changed the catalog, or how literals are read, so nothing that was parsed before it may be used, nor what is parsed
    in it afterwards.
    """
    name = prepared.link_name(applied) if shared else b""
    key = name.decode()
    statements = link.statements
    if name and key in statements:
        statements.move_to_end(key)
        return name, b"", []
    parse = frontend.Parse(name, prepared.query_on(link), prepared.oids).encode()
    if not name:
        return name, parse, [Step(PARSE_ENDS, forward=False)]
    frames = b""
    script = []
    while len(statements) >= limit:
        oldest, _ = statements.popitem(last=False)
        frames += frontend.Close(b"S", oldest.encode()).encode()
        script.append(Step(CLOSE_ENDS, forward=False, undo=partial(statements.__setitem__, oldest, None)))
    statements[key] = None
    script.append(Step(PARSE_ENDS, forward=False, undo=partial(statements.pop, key, None)))
    return name, frames + parse, script
