"""FETCH, MOVE and CLOSE by the extended protocol: which cursor they mean, and rows in portions.

Decides where a portal of these lives. As in Postgres, they may be prepared and bound when there is no cursor of that
name: Parse describes the columns of the one that there is then, Bind those of the one that there is by now, and that
there is none is an error at Execute.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from proxy.description import Description, ask_description
from proxy.errors import ProxyError
from proxy.executor.tags import counted
from proxy.session.named import gives_rows, own_portal
from proxy.wire import backend
from proxy.wire.frames import HEADER_BYTES, walk
from router.plan_control import CursorControl

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from proxy.session.cursors import OpenCursor
    from proxy.session.prepared import Portal
    from proxy.session.session import Session
    from proxy.wire import frontend

_ALL: Final = (1 << 63) - 1


def _gives_rows(plan: CursorControl) -> bool:
    return not plan.move and not plan.closes


async def _place(session: Session, name: str, flush: Callable[[], Awaitable[None]] | None) -> int | None:
    """Return the shard that knows about a cursor of one shard, None where nobody does."""
    if flush is not None:
        await flush()  # it may be declared by what has not gone out yet
    try:
        return session.cursor_shard(name)
    except ProxyError:
        return None


async def described(
    session: Session,
    plan: CursorControl,
    text: str,
    oids: tuple[int, ...],
    flush: Callable[[], Awaitable[None]] | None,
) -> Description:
    """Return what Describe of a statement says: the columns of the cursor that there is now."""
    spread = session.spread_cursors.get(plan.name or "")
    if spread is not None:
        return Description(oids, spread.fields if _gives_rows(plan) else None)
    own = None if plan.name is None else own_portal(session, plan.name)
    if own is not None:
        return Description(oids, own.prepared.description.fields if _gives_rows(plan) and gives_rows(own) else None)
    shard = None if plan.name is None else await _place(session, plan.name, flush)
    if shard is None:
        return Description(oids, None)
    # Only the link with the cursor knows its columns, and the next cursor of that name has others.
    links = await session.transaction.join([shard], writes=False, reads=False)
    return await ask_description(links[shard], text, oids)


async def find_cursor(
    session: Session, portal: Portal, plan: CursorControl, flush: Callable[[], Awaitable[None]]
) -> None:
    """Give a portal the place and the columns of the cursor that there is when it is bound."""
    if plan.name is None:
        return
    spread = session.spread_cursors.get(plan.name)
    own = None if plan.name.encode() == portal.name else session.portals.get(plan.name.encode())
    if spread is None and not (plan.closes and own is not None and own.shard is None):
        portal.shard = await _place(session, plan.name, flush)
    if portal.shard is not None and _gives_rows(plan) and plan.name in session.cursors:
        await _describe_anew(session, portal, plan, flush)
    fields = spread.fields if spread is not None and _gives_rows(plan) else None
    if portal.shard is None:
        prepared = portal.prepared
        portal.prepared = replace(prepared, description=Description(prepared.description.parameter_oids, fields))


async def _describe_anew(
    session: Session, portal: Portal, plan: CursorControl, flush: Callable[[], Awaitable[None]]
) -> None:
    """Give a portal the columns of a cursor that was not there when its statement was parsed."""
    prepared = portal.prepared
    if prepared.description.fields is None:
        text, oids = prepared.query.decode("utf-8", "surrogateescape"), prepared.description.parameter_oids
        portal.prepared = replace(prepared, description=await described(session, plan, text, oids, flush))


async def fetch_in_portions(session: Session, portal: Portal, row_limit: int) -> bool:
    """Execute a FETCH over several shards with a row limit, or what that has left; False: it is none.

    As in Postgres the cursor goes on by all of them at once, and what is not wanted yet is kept.
    """
    plan = portal.prepared.statement.plan
    if not isinstance(plan, CursorControl) or plan.name is None or portal.shard is not None or not _gives_rows(plan):
        return False
    if portal.kept is None:
        found = session.spread_cursors.get(plan.name)
        bound_before = portal.prepared.description.fields is None  # and before its cursor was declared: no rows
        if bound_before and plan.name in session.cursors:
            await _fetch_nothing(session, portal, session.cursors[plan.name])
            return True
        if found is None or (row_limit <= 0 and not bound_before):
            return False
        kept = _Kept(session.database.limits.gather_max_bytes)
        answer = await session.spread_cursors.fetch(
            session, plan, found, describe=False, formats=portal.bind.result_formats, keep=kept.add
        )
        if bound_before:
            portal.answered(answer)
            session.write(answer)
            return True
        portal.kept, portal.kept_tag = kept.rows, answer[HEADER_BYTES:-1]
    given = 0
    while portal.kept and not 0 < row_limit <= given:
        session.write(portal.kept.popleft())
        given += 1
    if 0 < row_limit <= given:
        session.write(backend.portal_suspended())
    else:
        portal.kept, portal.ended = None, portal.kept_tag
        session.write(backend.command_complete(counted(portal.kept_tag, given)))
    session.transaction.finish_statement()
    return True


async def _fetch_nothing(session: Session, portal: Portal, shard: int) -> None:
    """FETCH bound before its cursor of one shard was there: as in Postgres the cursor goes on, and no row is told."""
    links = await session.transaction.join([shard], writes=False, reads=False)
    done = await links[shard].run(portal.prepared.statement.text)
    for notice in done.notices:
        session.write(backend.notice_response(notice))
    answer = backend.command_complete(done.tags[-1])
    portal.answered(answer)
    session.write(answer)


async def execute_spread(session: Session, message: frontend.Execute, found: OpenCursor) -> None:
    """Execute the portal of a cursor over several shards: its next rows, as many as the limit says."""
    name = message.portal.decode(errors="replace")
    limit = message.row_limit
    plan = CursorControl(name, count=limit if limit > 0 else _ALL, forward=True)
    formats = (1,) if found.binary else ()
    answer = await session.spread_cursors.fetch(session, plan, found, describe=False, formats=formats)
    tag = answer[HEADER_BYTES:-1].replace(b"FETCH", b"SELECT")
    suspended = limit > 0 and tag == b"SELECT %d" % limit
    session.write(backend.portal_suspended() if suspended else backend.command_complete(tag))
    session.transaction.finish_statement()


class _Kept:
    """Rows that are kept, message by message, up to so many bytes."""

    def __init__(self, limit_bytes: int) -> None:
        self.rows: deque[bytes] = deque()
        self._limit = self._left = limit_bytes

    def add(self, frames: bytes) -> None:
        self._left -= len(frames)
        if self._left < 0:
            raise ProxyError(
                "53400",
                f"a FETCH in portions would keep more than {self._limit} bytes (gather.max_bytes)",
                hint="FETCH fewer rows at a time.",
            )
        self.rows.extend(bytes(frames[start:end]) for _, start, end in walk(frames, 0, len(frames))[0])
