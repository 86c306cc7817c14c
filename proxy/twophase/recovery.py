"""Recovery: finishing what coordinators left behind, of any proxy and of this one.

For each prepared transaction of our cluster, in this order, and why:

1. Read the record at the commit point that the gid names. A plain read, also for the youngest: what is decided is
   finished now, because others may be waiting for its locks.
2. Committed: COMMIT PREPARED, if the record names this part with this xid. Anything else under the name is an alarm.
3. No record: give its coordinator time. After the grace time, or sooner if no backend at the commit point holds the
   transaction's advisory lock any more and this process is not committing it, offer an abort record (``ON CONFLICT DO
   NOTHING``) and read what stands there. The unique index settles the race: the offer waits for a decision in flight,
   and a decision that comes later fails. Looking at locks only saves time; a wrong guess aborts a transaction and tears
   nothing.
4. Aborted: ROLLBACK PREPARED.
5. A gid older than the retention, without a record: the record may have been there and dropped. Reported, not touched.

Several proxies may do this at the same time, all of it may be repeated. A shard that cannot be reached is skipped and
named in the report.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from proxy.twophase import record
from proxy.twophase.finish import finish
from proxy.twophase.gid import GlobalId
from proxy.twophase.participant import error_fields
from proxy.twophase.pending import list_pending, read_decisions
from proxy.twophase.points import Point, pass_by

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from typing import TypeVar

    from proxy.twophase.participant import Control, ControlConnection
    from proxy.twophase.pending import Decision, Pending
    from proxy.twophase.points import Checkpoint

    T = TypeVar("T")

FINISHING_AT_A_TIME = 2  # on one shard

_log = logging.getLogger(__name__)


class Status(Enum):
    """What can be said of a gid."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    IN_DOUBT = "in doubt"


@dataclass(frozen=True, slots=True)
class RecoveryLimits:
    """How long to wait for what, in seconds.

    ``orphan_s`` is how long an undecided part is left alone when no backend can decide about it any more.
    """

    grace_s: float = 60.0
    orphan_s: float = 1.0
    interval_s: float = 5.0
    shard_timeout_s: float = 15.0
    finish_timeout_s: float = 2.0
    retention_s: float = 86_400.0
    purge_interval_s: float = 600.0
    purge_rows: int = 20_000


@dataclass(slots=True)
class Report:
    """What one run found. ``waiting`` are undecided and young; ``problems`` are for a person; shards are by name.

    ``late`` are committed parts that could not be finished this time, with their shards' indexes: nobody should read
    there yet.
    """

    committed: list[str] = field(default_factory=list)
    rolled_back: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    late: dict[str, int] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    unreachable: dict[str, str] = field(default_factory=dict)
    oldest_s: float = 0.0  # of what is left, by its shard's clock

    @property
    def quiet(self) -> bool:
        """Whether nothing is prepared and every shard was seen."""
        return not (self.waiting or self.late or self.problems or self.unreachable)


class Recovery:
    """Recovers the transactions of one logical database; ``names`` are its shards in order."""

    def __init__(  # noqa: PLR0913 - what it is made of
        self,
        control: Control,
        *,
        cluster: str,
        names: Sequence[str],
        limits: RecoveryLimits | None = None,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        checkpoint: Checkpoint = pass_by,
    ) -> None:
        self.control = control
        self.cluster = cluster
        self.names = tuple(names)
        self.limits = limits or RecoveryLimits()
        #: For the metrics: parts finished since the start, and what the last look at all shards left, by why.
        self.committed = self.rolled_back = 0
        self.left: dict[str, int] = {}
        self.oldest_s = 0.0  # of what it left
        #: Whether a transaction is being committed in this process: then it is alive, locks or not.
        self.is_ours: Callable[[str], bool] = lambda _gid: False
        self._clock_ms = clock_ms
        self._checkpoint = checkpoint
        self._woken = asyncio.Event()
        self._wanted: set[int] = set()
        self._running = asyncio.Lock()
        self._unsettled: set[GlobalId] = set()
        # However many there are: commits need control connections as well.
        self._finishing = [asyncio.Semaphore(FINISHING_AT_A_TIME) for _ in self.names]

    def add(self, name: str) -> None:
        """Recover another shard as well, the last one."""
        self.names += (name,)
        self._finishing.append(asyncio.Semaphore(FINISHING_AT_A_TIME))

    # --- when -------------------------------------------------------------------------------------------------

    def wake(self, shards: Iterable[int] | None = None) -> None:
        """Run soon: on all shards, or where a link came back or a statement waits for a prepared part."""
        self._wanted.update(range(len(self.names)) if shards is None else shards)
        self._woken.set()

    async def run_forever(self) -> None:
        """Run at once, then every ``interval_s`` and whenever woken; drop old records now and then. Until cancelled."""
        loop = asyncio.get_running_loop()
        next_purge = loop.time()
        shards: frozenset[int] | None = None
        while True:
            await self._run_and_log(shards)
            if loop.time() >= next_purge:
                next_purge = loop.time() + self.limits.purge_interval_s
                await self.purge()
            try:
                async with asyncio.timeout(self.limits.interval_s):
                    await self._woken.wait()
                shards = frozenset(self._wanted)
            except TimeoutError:
                shards = None
            self._woken.clear()
            self._wanted.clear()

    async def _run_and_log(self, shards: frozenset[int] | None) -> None:
        try:
            report = await self.run_once(shards)
        except Exception:  # noqa: BLE001 - see below
            # Nothing that a shard says comes here. A bug in one run must not end all recovery of this proxy.
            _log.exception("recovery failed")
            return
        for name, problem in report.problems.items():
            _log.critical("recovery: %s: %s", name, problem)
        for name, reason in report.unreachable.items():
            _log.warning("recovery: shard %s cannot be asked: %s", name, reason)
        for name in report.committed:
            _log.info("recovery: committed %s", name)
        for name in report.rolled_back:
            _log.info("recovery: rolled back %s", name)
        if (report.waiting or report.late) and not self._woken.is_set():
            # Do not let an orphan, or what is decided, wait for the whole interval.
            asyncio.get_running_loop().call_later(self.limits.orphan_s, self.wake)

    # --- what -------------------------------------------------------------------------------------------------

    async def run_once(self, shards: Iterable[int] | None = None) -> Report:
        """Look at some shards, or all, and finish what can be finished. Idempotent."""
        async with self._running:
            report = Report()
            wanted = sorted(set(range(len(self.names)) if shards is None else shards))
            found = await asyncio.gather(*(self._list(shard, report) for shard in wanted))
            if any(found):
                self._checkpoint(Point.LISTED)
            by_commit_point: dict[int, list[Pending]] = {}
            for pending in (one for some in found for one in some):
                if pending.gid.commit_point in self.names:
                    commit_point = self.names.index(pending.gid.commit_point)
                    by_commit_point.setdefault(commit_point, []).append(pending)
                else:
                    report.problems[pending.name] = f"its commit point, {pending.gid.commit_point}, is not a shard here"
            await asyncio.gather(*(self._recover(*item, report) for item in by_commit_point.items()))
            left = {*report.waiting, *report.late, *report.problems}
            report.oldest_s = max((one.age_s for some in found for one in some if one.name in left), default=0.0)
            self._count(report, everywhere=len(wanted) == len(self.names))
            return report

    def _count(self, report: Report, *, everywhere: bool) -> None:
        self.committed += len(report.committed)
        self.rolled_back += len(report.rolled_back)
        if everywhere:
            self.oldest_s = report.oldest_s
            self.left = {
                "undecided": len(report.waiting),
                "committed, not applied": len(report.late),
                "for a person": len(report.problems),
            }

    async def _ask(self, shard: int, report: Report, question: Callable[[ControlConnection], Awaitable[T]]) -> T | None:
        """Ask a shard something within the limit; None, and a line in the report, if it does not answer."""
        try:
            async with asyncio.timeout(self.limits.shard_timeout_s), self.control.connection(shard) as connection:
                return await question(connection)
        except TimeoutError:
            report.unreachable[self.names[shard]] = "no answer in time"
        except Exception as error:
            fields = error_fields(error)
            if fields is None:
                raise
            report.unreachable[self.names[shard]] = str(fields)
        return None

    async def _list(self, shard: int, report: Report) -> list[Pending]:
        return (
            await self._ask(shard, report, lambda connection: list_pending(connection, shard, self.names, self.cluster))
            or []
        )

    async def _recover(self, commit_point: int, pending: list[Pending], report: Report) -> None:
        decisions = await self._ask(
            commit_point, report, lambda connection: self._decisions(connection, pending, report)
        )
        if decisions is None:
            report.waiting += [one.name for one in pending]
            return
        await asyncio.gather(*(self._finish(one, decisions.get(one.gid), report) for one in pending))

    async def _decisions(
        self, connection: ControlConnection, pending: list[Pending], report: Report
    ) -> dict[GlobalId, Decision]:
        decisions = await read_decisions(connection, {one.gid for one in pending})
        undecided: dict[GlobalId, float] = {}
        for one in pending:
            if one.gid not in decisions:
                undecided[one.gid] = max(one.age_s, undecided.get(one.gid, 0.0))
        if undecided:
            alive = {row["key"] for row in await connection.fetch(record.LIVE_DECIDERS)}
            # Those that could not be settled last time come last, and all have half of the time: a decision in flight
            # is waited for, and what is decided must not wait for such.
            enough = asyncio.get_running_loop().time() + self.limits.shard_timeout_s / 2
            for gid in sorted(undecided, key=self._unsettled.__contains__):
                lives = gid.lock_key in alive or self.is_ours(str(gid))
                grace_s = self.limits.grace_s if lives else self.limits.orphan_s
                if undecided[gid] < grace_s or asyncio.get_running_loop().time() > enough:
                    continue
                if await self._abandon(connection, gid, report) is None:
                    self._unsettled.add(gid)
                else:
                    self._unsettled.discard(gid)
            here = pending[0].gid.commit_point
            self._unsettled &= undecided.keys() | {gid for gid in self._unsettled if gid.commit_point != here}
            decisions |= await read_decisions(connection, undecided)
        if any(decision.committed for decision in decisions.values()):
            await connection.fetchval(record.CONFIRM_DURABLE)
        return decisions

    async def _abandon(self, connection: ControlConnection, gid: GlobalId, report: Report) -> str | None:
        """Offer an abort record; returns what stands there, None if that could not be settled now."""
        self._checkpoint(Point.ABANDONING)
        try:
            outcome = await connection.fetchval(record.ABANDON, str(gid), self.limits.retention_s)
        except Exception as error:
            fields = error_fields(error)
            if fields is None:
                raise
            if fields.sqlstate == record.TOO_OLD:
                report.problems[str(gid)] = "it is undecided and older than records are kept: a person has to decide"
            elif fields.sqlstate not in record.DECIDER_IN_FLIGHT:
                raise
            return None
        self._checkpoint(Point.ABANDONED)
        return str(outcome)

    async def _finish(self, pending: Pending, decision: Decision | None, report: Report) -> None:
        if decision is None:
            report.waiting.append(pending.name)
            return
        part = decision.part(pending, self.names[pending.shard])
        if part is None:
            report.problems[pending.name] = "its commit record does not know this part"
            return
        async with self._finishing[pending.shard]:
            self._checkpoint(Point.FINISHING)
            result = await finish(self.control, part, commit=decision.committed, timeout_s=self.limits.finish_timeout_s)
            self._checkpoint(Point.FINISHED)
        if result.done:
            (report.committed if decision.committed else report.rolled_back).append(pending.name)
        elif result.alarm:
            report.problems[pending.name] = result.reason
        elif decision.committed:
            report.late[pending.name] = pending.shard
        else:
            report.waiting.append(pending.name)

    async def status(self, text: str) -> Status:
        """Say how a transaction ended. Raises ValueError for what is no gid of ours, and what the shard's link raises.

        A transaction that is old enough to have been given up, and of which nothing is alive at the commit point, is
        given up by asking: so the answer can be final.
        """
        gid = GlobalId.parse(text)
        if gid is None or gid.cluster != self.cluster or gid.commit_point not in self.names:
            raise ValueError(f"not a transaction of this cluster: {text!r}")
        report = Report()
        async with self.control.connection(self.names.index(gid.commit_point)) as connection:
            decision = (await read_decisions(connection, [gid])).get(gid)
            if decision is not None:
                return Status.COMMITTED if decision.committed else Status.ABORTED
            outcome = None
            alive = {row["key"] for row in await connection.fetch(record.LIVE_DECIDERS)}
            # A client may know the id of a transaction that is open still (SHOW pgchorus.transaction_id).
            lives = gid.lock_key in alive or self.is_ours(text)
            if self._clock_ms() - gid.unix_ms >= self.limits.grace_s * 1000 and not lives:
                outcome = await self._abandon(connection, gid, report)
        return {"commit": Status.COMMITTED, "abort": Status.ABORTED}.get(outcome or "", Status.IN_DOUBT)

    async def purge(self) -> int:
        """Drop decision records older than the retention, in bulk, on every shard; returns how many."""
        report = Report()
        counts = await asyncio.gather(*(self._purge(shard, report) for shard in range(len(self.names))))
        for name, reason in report.unreachable.items():
            _log.warning("old decision records stay on shard %s: %s", name, reason)
        return sum(counts)

    async def _purge(self, shard: int, report: Report) -> int:
        """Delete in portions, so that no statement runs for long, until there is nothing more to delete."""
        limits = self.limits
        total = 0
        while True:
            count = await self._ask(
                shard, report, lambda c: c.fetchval(record.PURGE, limits.retention_s, limits.purge_rows)
            )
            total += count or 0
            if count is None or count < limits.purge_rows:
                return total
