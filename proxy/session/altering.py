"""Over one shard: statements that wait for DDL which changes the columns that they were described with.

A statement that a link has not prepared yet is parsed there with its first Bind. If that waits for an ALTER TABLE, it
would be parsed with other columns than the client was told of, and its rows sent. Postgres, which has parsed it before,
says that its cached plan must not change. So while a session of this proxy has DDL under way, others ask for what has
been described already again: the shard answers when it knows.

Over several shards such statements are ended, and planned anew (proxy.session.changing).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from proxy.description import ask_description
from proxy.errors import ProxyError
from proxy.session.prepared import same_rows
from router.plan import Ddl

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from proxy.session.prepared import PreparedStatement
    from proxy.session.session import Session
    from router.plan import Statement


def note_altering(session: Session, statements: Iterable[Statement]) -> None:
    """Note DDL before it goes to the only shard; it is forgotten when the session is outside of blocks again."""
    if session.transaction.shard_count == 1 and any(isinstance(statement.plan, Ddl) for statement in statements):
        session.database.definitions.altering.add(session)


async def check_rows(
    session: Session,
    prepared: PreparedStatement,
    shard: int,
    flush: Callable[[], Awaitable[None]] | None = None,
    *,
    told: bool = True,
) -> PreparedStatement:
    """Before a Bind: raise what Postgres says when the rows are not any more what the client was told of.

    Who was not ``told`` since the Parse, in the same transaction, gets a statement with those of now: in Postgres the
    Parse would have waited. Returns the statement.
    """
    known = prepared.description.fields
    if known is None or not session.database.definitions.altered_by_others(session):
        return prepared
    if flush is not None:
        await flush()
    links = await session.transaction.join([shard], writes=False, reads=True)
    link = links[shard]
    found = await ask_description(link, prepared.query_on(link), prepared.description.parameter_oids or prepared.oids)
    if same_rows(known, found.fields):
        return prepared
    if told:
        raise changed_rows()
    renewed = replace(prepared, description=found)
    if session.statements.get(prepared.name) is prepared:
        session.statements[prepared.name] = renewed
    return renewed


def changed_rows() -> ProxyError:
    """Return what Postgres says of a prepared statement whose rows are not what they were."""
    return ProxyError("0A000", "cached plan must not change result type", routine="RevalidateCachedQuery")
