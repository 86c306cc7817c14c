"""Definitions that change while others use them: no statement runs by a plan that was made before.

Theory of operation. A statement may wait on a shard for a lock of a transaction that changes definitions (a view that
reads another table from now on). Postgres plans it when it has the lock; here its plan, which says on which shards rows
are looked for, would be the old one, and rows would be missing. So, before such a transaction is committed:

1. statements of this proxy that have not begun wait (``begins``), until it is committed: then they go by the
   definitions that the transaction saw last, and soon by what is read of those committed;
2. those under way that mean something else by the new definitions, or may have been described with other columns, are
   ended with 40001: nothing of them has been done.
   They cannot have been running: who uses what is changed holds locks that the change had to wait for.

3. a pipeline with such a statement in it that waits for its Sync is ended in the same way when it goes on.

Decides who must be ended. Left to others: what other proxies have under way (proxy.shards.versions, docs/limits.md).
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from proxy.errors import LOCK_NOT_AVAILABLE, ProxyError
from router.errors import Refused, SyntaxFailure
from router.statement import parse
from router.tree import name_parts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from proxy.session.session import Session
    from router.catalog import Catalog
    from router.plan import Statement
    from router.planner import Planner
    from router.relation import Column

PATIENCE_S: Final = 10.0  # for statements under way to end, and for a change to be committed
PAUSE_S: Final = 0.05


def changed() -> ProxyError:
    """Return what those are told whose statement was planned by what is changed."""
    return ProxyError(
        "40001",
        "could not serialize access due to a change of definitions",
        detail="What the statement uses was changed while it waited.",
        hint="Try again.",
    )


class Definitions:
    """Whether the definitions of one logical database are about to change."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self._settled = asyncio.Event()
        self._settled.set()
        self.altering: set[Session] = set()  # over one shard: who has DDL under way

    def altered_by_others(self, session: Session) -> bool:
        """Whether definitions may become others on the only shard while a statement of this session waits there."""
        return bool(self.altering) and self.altering != {session}

    @property
    def changing(self) -> bool:
        """Whether no statement may begin."""
        return not self._settled.is_set()

    def hold(self) -> None:
        """Let no statement begin."""
        self._settled.clear()

    def go_on(self) -> None:
        """Let statements begin."""
        self._settled.set()

    async def begins(self) -> None:
        """Return when a statement may begin."""
        if self.changing:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await self._settled.wait()
            except TimeoutError:
                raise ProxyError(
                    LOCK_NOT_AVAILABLE, "definitions have been about to change for too long", hint="Try again."
                ) from None


@asynccontextmanager
async def changing(session: Session) -> AsyncIterator[None]:
    """Surround the commit of a transaction that has changed definitions; then plan by them."""
    database = session.database
    definitions = database.definitions
    while True:
        # Reading waits for what other transactions have locked, and one of them may be about to come here: not under
        # the lock, and not while nobody may begin.
        known = database.catalog_version
        planner = await _planner_inside(session)
        async with definitions.lock:
            if database.catalog_version != known:
                continue  # somebody else has changed something meanwhile
            definitions.hold()
            database.catalog_version += 1  # fast lanes must not begin anything either
            try:
                try:
                    await _end_others(session, planner)
                except ProxyError:
                    await session.rollback()
                    raise
                yield
                if planner is not None:
                    database.use_catalog(planner.catalog)  # until what is committed has been read
                else:
                    await database.reload_catalog()
            finally:
                definitions.go_on()
        return


async def _planner_inside(session: Session) -> Planner | None:
    """Return a planner by the definitions as they will be; the session's own, if nothing has changed since."""
    database, transaction = session.database, session.transaction
    link = transaction.links.get(database.logical.home)
    if link is None or session.planner_in_block is None:
        return None
    if session.known_in_block != database.catalog_version:
        await session.look_inside(link)
    return session.planner_in_block


async def _end_others(session: Session, planner: Planner | None) -> None:
    database = session.database
    if planner is None:
        return
    differs = _Comparison(database.planner, planner)
    others = [other for other in database.sessions if other is not session]
    give_up = asyncio.get_running_loop().time() + PATIENCE_S
    hit: set[Session] = set()
    while late := [other for other in others if differs(other, other.under_way)]:
        if asyncio.get_running_loop().time() > give_up:
            raise ProxyError(LOCK_NOT_AVAILABLE, "statements that wait for this change could not be ended in time")
        for other in late:
            hit.add(other)
            other.transaction.deadlock = changed().fields()
            other.outrun = True
            other.cancel()
        await asyncio.sleep(PAUSE_S)
    for other in hit:
        if not other.transaction.failed:
            other.transaction.deadlock = None
    for other in others:
        other.outdated = other.outdated or differs(other, other.planned_ahead())


class _Comparison:
    """Whether statements mean something else by new definitions."""

    def __init__(self, old: Planner, new: Planner) -> None:
        self._old = old
        self._new = new
        self._known: dict[tuple[str, tuple[str, ...]], bool] = {}

    def __call__(self, session: Session, statements: Iterable[Statement]) -> bool:
        return any(self._differs(one.text, session.search_path) for one in statements)

    def _differs(self, text: str, path: tuple[str, ...]) -> bool:
        known = self._known.get((text, path))
        if known is None:
            known = self._known[text, path] = _planned(self._old, text, path) != _planned(self._new, text, path) or (
                _columns_change(self._old.catalog, self._new.catalog, text, path)
            )
        return known


def _columns_change(old: Catalog, new: Catalog, text: str, path: tuple[str, ...]) -> bool:
    """Whether a statement may have been described with other columns than its rows will have.

    Its plan may be the same: links parse it when they have the lock, and would send what nobody was told of.
    """
    try:
        parsed = parse(text)
    except SyntaxFailure:
        return True
    for one in parsed:
        for kind, body in one.nodes:
            if kind != "RangeVar":
                continue
            before, after = (catalog.resolve(name_parts(body), path) for catalog in (old, new))
            if before is None or after is None or before.columns == after.columns:
                continue
            if "A_Star" in one.kinds or [_shown(column) for column in before.columns] != [
                _shown(after.column(column.name)) for column in before.columns
            ]:
                return True
    return False


def _shown(column: Column | None) -> object:
    return None if column is None else (column.name, column.type_oid, column.type_modifier)


def _planned(planner: Planner, text: str, path: tuple[str, ...]) -> object:
    try:
        return planner.plan(text, path)
    except (Refused, SyntaxFailure) as refused:
        return type(refused), str(refused)
