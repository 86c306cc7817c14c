"""Definitions that change while others use them: no statement runs by a plan that was made before.

Theory of operation. A statement may wait on a shard for a lock of a transaction that changes definitions (a view that
reads another table from now on). Postgres plans it when it has the lock; here its plan, which says on which shards rows
are looked for, would be the old one, and rows would be missing. So, before such a transaction is committed:

1. statements of this proxy that have not begun wait (``begins``), until it is committed: then they go by the
   definitions that the transaction saw last, and soon by what is read of those committed;
2. those under way that mean something else by the new definitions, or may have been described with other columns, are
   ended: nothing of them has been done. Where nobody can tell they are run once more (proxy.session.anew); the others
   are told 40001.
   They cannot have been running: who uses what is changed holds locks that the change had to wait for.

3. a pipeline with such a statement in it that waits for its Sync is treated in the same way when it goes on.

Decides who must be ended. Left to others: what other proxies have under way (proxy.shards.versions, docs/limits.md).
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from proxy.errors import LOCK_NOT_AVAILABLE, ProxyError, definitions_changed
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
HELD_S: Final = 30.0  # the same where placements change
PAUSE_S: Final = 0.05


def misplaced(differences: str) -> ProxyError:
    """Return what those are told whose proxy goes by other placements than the shards."""
    return ProxyError(
        "F0000",
        "the placements on the shards are not those of this proxy",
        detail=differences,
        hint="Another proxy was told of new ones: give this one the same configuration, and RELOAD.",
    )


async def check_commit(session: Session) -> None:
    """Before COMMIT of a block that has not failed: the placements it was planned by must still be those of the shards.

    Else it is rolled back, and F0000 is raised. A block that has done nothing was planned by none.
    """
    if (differences := session.database.misplaced) and session.transaction.links:
        await session.rollback()
        raise misplaced(differences)


class Definitions:
    """Whether the definitions of one logical database are about to change, or how its tables are placed."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self._news = asyncio.Event()  # set, and another one then, when somebody who was stopped may begin
        self._changes = False
        self._held = self._sealed = False
        self.altering: set[Session] = set()  # over one shard: who has DDL under way

    def altered_by_others(self, session: Session) -> bool:
        """Whether definitions may become others on the only shard while a statement of this session waits there."""
        return bool(self.altering) and self.altering != {session}

    @property
    def changing(self) -> bool:
        """Whether there are statements that may not begin."""
        return self._changes or self._held

    def stops(self, session: Session) -> bool:
        """Whether a statement of this session may not begin."""
        return self._changes or self._sealed or (self._held and not session.transaction.in_block)

    def change(self) -> None:
        """Let no statement begin."""
        self._changes = True

    def changed(self) -> None:
        """Let statements begin."""
        self._changes = False
        self._tell()

    def hold(self) -> None:
        """Let no statement begin outside of a block (proxy.session.holding)."""
        self._held = True

    def seal(self) -> None:
        """No block is open: let none get any further that is begun now."""
        self._sealed = True

    def go_on(self) -> None:
        """Let all begin again."""
        self._held = self._sealed = False
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def begins(self, session: Session) -> None:
        """Return when a statement may begin."""
        if not self.stops(session):
            return
        session.running, session.waits = (), True
        try:
            async with asyncio.timeout(HELD_S if self._held else PATIENCE_S):
                while self.stops(session):
                    await self._news.wait()
        except TimeoutError:
            raise ProxyError(
                LOCK_NOT_AVAILABLE, "definitions have been about to change for too long", hint="Try again."
            ) from None
        finally:
            session.waits = False


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
            definitions.change()
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
                definitions.changed()
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
    differs = Comparison(database.planner, planner)
    others = [other for other in database.sessions if other is not session]
    give_up = asyncio.get_running_loop().time() + PATIENCE_S
    hit: set[Session] = set()
    while late := [other for other in others if differs(other, other.under_way)]:
        if asyncio.get_running_loop().time() > give_up:
            raise ProxyError(LOCK_NOT_AVAILABLE, "statements that wait for this change could not be ended in time")
        for other in late:
            hit.add(other)
            other.transaction.deadlock = definitions_changed().fields()
            other.outrun = True
            other.stop()
        await asyncio.sleep(PAUSE_S)
    for other in hit:
        if not other.transaction.failed:
            other.transaction.deadlock = None
    for other in others:
        other.outdated = other.outdated or differs(other, other.planned_ahead())


class Comparison:
    """Whether statements mean something else by new definitions."""

    def __init__(self, old: Planner, new: Planner) -> None:
        self._old = old
        self._new = new
        self._known: dict[tuple[str, tuple[str, ...]], bool] = {}

    def __call__(self, session: Session, statements: Iterable[Statement]) -> bool:
        """Whether one of the session's statements does."""
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
