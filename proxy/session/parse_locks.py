"""Over one shard: the locks that Postgres takes with a Parse, and keeps until the transaction ends.

A description is asked for once, and kept: so the shard need not hear of a Parse before its Bind, and holds no lock on
the tables. Nobody sees that where the Bind follows at once. Where the client rests between the two, behind a Flush or,
in a block, behind a Sync, another one could alter the tables meanwhile, and the statement would end with 0A000 (cached
plan must not change result type). There the shard is asked, in a transaction, which stays open until Sync as
Postgres's own does. The link is kept for as long.

Where the inbox shows that the client will rest, the lock comes first and the description with it; a client that hears
of columns while no Bind is at hand has them locked, too. What comes piece by piece is locked when the client rests.

Over several shards nothing is held so (docs/limits.md).
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from proxy.isolation import parses_with_snapshot
from proxy.session.altering import changed_rows
from proxy.session.prepared import in_encoding, same_rows
from proxy.transaction import Block
from router.plan import ExplainRoute, ExplainShards
from router.plan_control import PreparedControl

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from proxy.session.prepared import PreparedStatement
    from proxy.session.session import Session
    from proxy.wire.frontend import Bind
    from router.plan import Statement

_FLUSH, _SYNC = ord("H"), ord("S")
_GOES_ON: Final = frozenset(b"PDC")
_OWN: Final = (ExplainRoute, ExplainShards, PreparedControl)  # EXPLAINs that are answered by what is known here
_TABLES: Final = re.compile(r"\b(?:from|table)\b", re.IGNORECASE)


def locks(session: Session, statement: Statement) -> bool:
    """Whether Postgres locks tables to parse a statement, and the session is to have them locked."""
    transaction = session.transaction
    if transaction.shard_count > 1 or transaction.elsewhere is not None:
        return False
    if not parses_with_snapshot(statement) or statement.tag == "CALL" or isinstance(statement.plan, _OWN):
        return False
    return statement.tag != "SELECT" or _TABLES.search(statement.text) is not None


def rests(session: Session) -> bool:
    """Whether the client is seen to wait for answers before it binds anything."""
    for kind, _ in session.connection.inbox:
        if kind not in _GOES_ON:
            return kind == _FLUSH or (kind == _SYNC and session.transaction.block is Block.EXPLICIT)
    return False


def keep_open(session: Session) -> None:
    """Have a transaction in which the locks stay, as Postgres has one since the Parse."""
    if not session.transaction.in_block:
        session.begin(Block.IMPLICIT)


class ParseLocks:
    """What the client was told of statements since the last Sync, and nobody has locked yet."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._parsed: dict[bytes, PreparedStatement] = {}  # of which it knows no columns
        self._described: dict[bytes, PreparedStatement] = {}
        self._locked: set[bytes] = set()

    def parsed(self, prepared: PreparedStatement) -> None:
        """A Parse is answered."""
        name = prepared.name
        self.bound(name)
        self._locked.discard(name)
        if prepared.locked:
            self._locked.add(name)
        elif locks(self._session, prepared.statement):
            self._parsed[name] = prepared

    async def describes(self, prepared: PreparedStatement, flush: Callable[[], Awaitable[None]]) -> PreparedStatement:
        """Before a Describe is answered: return the statement as it is then; locked, if a Bind is not at hand."""
        name, prepared = prepared.name, in_encoding(self._session, prepared)
        if prepared.description.fields is None or name in self._locked or not locks(self._session, prepared.statement):
            return prepared
        if self._session.connection.inbox and not rests(self._session):
            self._parsed.pop(name, None)
            self._described[name] = prepared
            return prepared
        await flush()
        return await self._lock(prepared)

    def told(self, bind: Bind) -> bool:
        """Whether the client may know the columns of what it binds; not if it has just been parsed, since a Sync."""
        return bind.statement not in self._parsed

    def bound(self, name: bytes) -> None:
        """The link gets a Bind of it: that locks what it needs."""
        self._parsed.pop(name, None)
        self._described.pop(name, None)

    def ended(self) -> None:
        """The transaction has, or what was said in it came to nothing."""
        if self._parsed or self._described or self._locked:
            self._parsed.clear()
            self._described.clear()
            self._locked.clear()

    async def take(self) -> None:
        """The client rests: lock what it was told of. Raises 0A000 where somebody was quicker, and it knew columns."""
        if self._session.transaction.failed:  # by a Query: Postgres has let go of everything
            self.ended()
        for prepared in [*self._parsed.values(), *self._described.values()]:
            await self._lock(prepared)

    async def _lock(self, prepared: PreparedStatement) -> PreparedStatement:
        session, name = self._session, prepared.name
        keep_open(session)
        text = prepared.query.decode("utf-8", "surrogateescape")
        oids = prepared.description.parameter_oids or prepared.oids
        found = await session.database.descriptions.ask(session, text, oids, locks=True)
        if not same_rows(prepared.description.fields, found.fields):
            if self._parsed.get(name) is not prepared:
                raise changed_rows()
            prepared = replace(prepared, description=found)
            session.statements[name] = prepared
        self.bound(name)
        self._locked.add(name)
        return prepared
