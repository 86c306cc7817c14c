"""Settle before read: what is decided is visible on a shard before a statement reads there.

Between a decision and its application on a participant, the commit point shows the new rows and the participant the
old ones. A transaction that has used one shard may have seen (or waited for) such a decision there; when it then reads
another shard, it must not find the time before. So the statement is preceded by a look at what is prepared on its
shard: a decided transaction is prepared there until its effects are visible. Usually there is nothing. (Shown without
it: lock a row at the commit point, read the other shard, write back: 50 where one Postgres has 150.)

Decides whether a statement may go on. Left to others: which statements need it (proxy.session), and finishing
(finish, fence).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.errors import LOCK_NOT_AVAILABLE
from proxy.twophase.fence import FenceError, settle
from proxy.twophase.gid import cluster_prefix, parse_participant
from proxy.wire.frontend import Query

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from proxy.twophase.coordinator import Coordinator, Outcome
    from proxy.twophase.participant import Control

SETTLE_S = 5.0
#: The name of a look's savepoint and of its prepared statement on links.
LOOK = "pgchorus_look"
LOOK_FAILED = "22012"  # division by zero
#: What undoes a look that has failed: inside a block, and where it went out together with BEGIN.
LOOK_UNDONE = Query(f"ROLLBACK TO SAVEPOINT {LOOK}; RELEASE SAVEPOINT {LOOK}".encode()).encode()
BEGUN_ANEW = Query(b"ROLLBACK; BEGIN").encode()


class Settler:
    """Settles for the sessions of one logical database; ``names`` are its shards in order."""

    def __init__(
        self, control: Control, coordinator: Coordinator, names: Sequence[str], *, timeout_s: float = SETTLE_S
    ) -> None:
        self._control = control
        self._coordinator = coordinator
        self._names = tuple(names)
        self._timeout_s = timeout_s
        prefix = cluster_prefix(coordinator.cluster)
        #: To be run on the reading link, in its transaction; the rows are for :meth:`settle`.
        self.pending_sql = (
            "SELECT gid FROM pg_catalog.pg_prepared_xacts WHERE database = pg_catalog.current_database()"  # noqa: S608 - checked names
            f" AND pg_catalog.starts_with(gid, '{prefix}')"
        )

        self._pending = f"EXISTS ({self.pending_sql} AND gid OPERATOR(pg_catalog.<>) ALL"
        #: A look. It fails with ``LOOK_FAILED`` if anything is prepared there but the names in its only parameter.
        self.look_sql = self._look_at("$1")

    def add(self, name: str) -> None:
        """Settle on another shard as well, the last one."""
        self._names += (name,)

    def must_wait(self, shard: int) -> list[asyncio.Future[Outcome]]:
        """Return what a statement must wait for before it reads on a shard: commits here that may be decided."""
        return self._coordinator.under_way_on(shard)[1]

    def names(self, shard: int) -> str:
        """Return what a look's parameter is, a text[]: what commits of this process have prepared on a shard.

        Before a look rides before a statement ``must_wait`` must have been empty: then nobody has seen those decided.
        """
        names, _ = self._coordinator.under_way_on(shard)
        return f"{{{','.join(names)}}}" if names else "{}"  # made of checked names: nothing to be quoted

    def look(self, shard: int) -> str:
        """Return a look as a text, to be run inside the statement's transaction.

        The statement behind it does not run when it fails, and the transaction is as before when ``LOOK_UNDONE`` has
        run.
        """
        look = self._look_at(f"'{self.names(shard)}'::pg_catalog.text[]")
        return f"SAVEPOINT {LOOK}; {look}; RELEASE SAVEPOINT {LOOK}"

    def _look_at(self, names: str) -> str:
        return f"SELECT 1 OPERATOR(pg_catalog./) (CASE WHEN {self._pending} ({names})) THEN 0 ELSE 1 END)"

    async def settle(self, shard: int, prepared: Sequence[str]) -> None:
        """Return when all of ``prepared`` (on ``shard``) that was decided before the call is visible there.

        What is not decided is left alone. Raises FenceError when that takes too long, what the shards' links raise.
        """
        of_others = False
        for name in prepared:
            parsed = parse_participant(name)
            if parsed is None:
                continue
            gid = str(parsed[0])
            if self._coordinator.is_ours(gid):
                # Our own commits are the usual case, and we know how they stand without asking anybody.
                await self._coordinator.applied(gid, self._timeout_s)
            else:
                of_others = True
        if not of_others:
            return
        late = await settle(self._control, self._coordinator.cluster, self._names, shard, timeout_s=self._timeout_s)
        if late:
            raise FenceError(
                LOCK_NOT_AVAILABLE,
                f"a committed transaction could not be applied on shard {self._names[shard]} in time",
                detail=f"Prepared there: {', '.join(late)}.",
                hint="Try again.",
            )
