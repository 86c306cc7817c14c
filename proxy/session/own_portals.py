"""Portals that only the session knows, where a statement on a shard names one: FETCH, MOVE and WHERE CURRENT OF.

In Postgres a portal of BEGIN or SET is one like any other, and a cursor's name may be its name. Those that are about
the session itself have no link: the shard says that there is no such cursor, and the client is told what Postgres says
of it. A portal of EXECUTE that gives rows is bound on the only shard before a FETCH from it.
"""

from __future__ import annotations

import re
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final

from proxy.session import control, fetching
from proxy.session.named import gives_rows, own_portal
from proxy.session.on_link import portal_parsed_on
from proxy.session.relay import take_back
from proxy.session.relayed import writes_on_shard
from proxy.shards.errors import ShardError
from proxy.transaction import Block
from proxy.wire import backend, frontend
from proxy.wire.frames import frame

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from proxy.session.prepared import Portal
    from proxy.session.session import Session
    from proxy.wire.fields import ErrorFields
    from router.plan import Statement
    from router.plan_control import CursorControl

_NAME: Final = re.compile(r'cursor "(?P<name>.*)"', re.DOTALL)
_CURRENT_OF: Final = "execCurrentOf"  # the routine that says so
_FETCH: Final = frozenset({"PerformPortalFetch", "exec_stmt_fetch", ""})  # likewise; none: we do


def follow(session: Session) -> None:
    """Have errors about names of cursors told by the session's portals from now on."""
    session.transaction.of_cursor = partial(_instead, session)


def _instead(session: Session, error: ErrorFields) -> ErrorFields | None:
    """Return what Postgres says where a shard finds no cursor, because it is a portal of the session's own."""
    found = _NAME.search(error.message)
    portal = own_portal(session, found["name"]) if found is not None else None
    if portal is None or found is None:
        return None
    name, routine = found["name"], error.get("R")
    if routine == _CURRENT_OF:
        return error.replace(C="24000", M=f'cursor "{name}" is not a SELECT query')
    if routine not in _FETCH:
        return None
    if portal.ended is not None:
        return error.replace(C="55000", M=f'portal "{name}" cannot be run')
    portal.ended = b""  # it has failed, and cannot be run any more
    return error.replace(C="XX000", M="unsupported portal strategy")


async def find_cursor(
    session: Session, portal: Portal, plan: CursorControl, flush: Callable[[], Awaitable[None]]
) -> None:
    """As ``fetching.find_cursor``, also where the cursor is a portal of EXECUTE."""
    await put_on_link(session, plan, flush)
    await fetching.find_cursor(session, portal, plan, flush)


async def cursor_control(session: Session, statement: Statement, plan: CursorControl, *, held: bool) -> bytes:
    """As ``control.cursor_control``, likewise."""
    await put_on_link(session, plan)
    return await control.cursor_control(session, statement, plan, held=held)


async def put_on_link(
    session: Session, plan: CursorControl, flush: Callable[[], Awaitable[None]] | None = None
) -> None:
    """Bind a portal of EXECUTE with rows on the only shard, where a FETCH is to find it; nothing for any other.

    ``flush`` is awaited before the shard hears of it. Raises what Execute of the portal would, where the statement is
    gone or broken.
    """
    transaction = session.transaction
    portal = own_portal(session, plan.name) if plan.name is not None and not plan.closes else None
    if transaction.shard_count != 1 or transaction.failed or portal is None or not gives_rows(portal):
        return
    if flush is not None:
        await flush()
    made = await control.executed_portal(session, portal, limited=False)
    if made is None or made.shard is None:
        return
    if not transaction.in_block:
        session.begin(Block.IMPLICIT)
        await transaction.begin_on_links(reads=True)
    link = await session.join(made.prepared.statement, made.shard, writes=writes_on_shard(made))
    parsed_as, frames, script = await portal_parsed_on(session, link, made)
    bind = frontend.Bind(portal.name, parsed_as, (), (), portal.bind.result_formats)
    for kind, body in await link.collect(frames + bind.encode() + frontend.Sync().encode()):
        if kind == backend.ERROR_RESPONSE:
            take_back(deque(script))
            raise ShardError(backend.decode_error(body), link.shard, frame(b"E", body))
    made.deferred = False
    session.portals[portal.name] = made
    session.note_effects(made.prepared.statement, [made.shard])
