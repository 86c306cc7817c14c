"""The fence: all snapshots of a statement over several shards are taken at one moment between decisions.

    0. the caller has its links, and has parsed
    1. on every shard, in one order:  BEGIN; LOCK TABLE pgchorus.fence IN SHARE MODE      decisions wait
    2. on the shards to be read:      finish every prepared part whose record says committed
    3. the caller:                    Bind, Flush, BindComplete                           its snapshots
    4. on every shard:                COMMIT, and each must answer COMMIT                 then Execute

Why each rule:

- Every shard, because the commit point of a transaction may be a shard that is not read.
- One global order (system identifier and database), because Postgres's lock queue is fair: two readers and two
  decisions that meet in different orders stand until a timeout.
- Every COMMIT must answer: a fence whose session was killed in between held nothing back, and the snapshots may be
  torn.
- Short limits on the server's side, so that a proxy that dies in silence does not hold up decisions for long.
- A reader whose Bind waits for a lock lets go (executor's ``Fence``): behind it may be DDL whose decision waits for the
  fence, and everybody else's with it. It binds without, so that it has its locks, and then again behind a new fence.
- Never more fences at a time than leave control connections for finishing: those who hold some and wait for more
  deadlock.

Readers that come while a fence is being taken share it; once it is held nobody may join, so its age is bounded, and
deciders get their turn.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

from proxy.errors import LOCK_NOT_AVAILABLE, SHARD_DOWN, ProxyError
from proxy.tasks import spawn
from proxy.timings import Timings
from proxy.twophase.finish import finish
from proxy.twophase.participant import ShardFailure, error_fields
from proxy.twophase.pending import list_pending, read_decisions
from proxy.twophase.points import Point, pass_by

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence

    from proxy.twophase.gid import GlobalId
    from proxy.twophase.participant import Control, ControlConnection
    from proxy.twophase.pending import Decision, Pending
    from proxy.twophase.points import Checkpoint

_log = logging.getLogger(__name__)

_IDENTITY = """SELECT system_identifier::text || '/' || (SELECT oid FROM pg_database WHERE datname = current_database())
    FROM pg_control_system()"""
RETRY_SQLSTATES = ("55P03", "40P01", "25P03", "25P04", "57014")
PAUSE_S = 0.005
LOOKS_BEFORE_HELPING = 3


@dataclass(frozen=True, slots=True)
class FenceLimits:
    """Limits of one fence, and of trying again. ``lock_ms`` is for each shard, ``hold_ms`` for the whole fence.

    ``patience_ms`` is for one reader's own snapshots, which may wait for locks, before it lets the fence go.
    """

    lock_ms: int = 2000
    hold_ms: int = 3000
    patience_ms: int = 50
    settle_s: float = 1.0
    bind_s: float = 1.0
    concurrent: int = 2
    attempts: int = 5


class FenceError(ProxyError):
    """No fence could be taken, in the limits that are set."""


class FenceLostError(ProxyError):
    """The fence was gone before it was confirmed: what was bound under it must be dropped, and bound again."""


def _lost(detail: str) -> FenceLostError:
    return FenceLostError(
        "40001",
        "the snapshot of several shards could not be held",
        detail=detail,
        hint="Try again. If it happens often, raise fence.bind_s, or read with SET pgchorus.read_consistency = shard.",
    )


async def settle(
    control: Control, cluster: str, names: Sequence[str], shard: int, *, timeout_s: float = 2.0
) -> list[str]:
    """Finish what is decided and still prepared on a shard; returns what is not finished within the limit.

    For a statement of a transaction that has already used another shard: afterwards a new snapshot there shows
    everything that was decided before this was called. What is not decided is left alone.
    """
    async with control.connection(shard) as connection:
        pending = await list_pending(connection, shard, names, cluster)
    if not pending:
        return []
    decisions: dict[GlobalId, Decision] = {}
    for name in {one.gid.commit_point for one in pending} & set(names):
        async with control.connection(names.index(name)) as connection:
            decisions |= await read_decisions(connection, {one.gid for one in pending if one.gid.commit_point == name})
    return await _finish_committed(control, names, pending, decisions, timeout_s)


async def _finish_committed(
    control: Control,
    names: Sequence[str],
    pending: Sequence[Pending],
    decisions: Mapping[GlobalId, Decision],
    timeout_s: float,
) -> list[str]:
    late = []
    for one in pending:
        decision = decisions.get(one.gid)
        if decision is None or not decision.committed:
            continue
        part = decision.part(one, names[one.shard])
        if part is None or not (await finish(control, part, commit=True, timeout_s=timeout_s)).done:
            late.append(one.name)
    return late


class Held:
    """One reader's share of a fence. Bind on all links, then await ``release_confirmed``, then Execute."""

    def __init__(self, fence: _SharedFence) -> None:
        self._fence = fence
        self._left = False

    async def release_confirmed(self) -> None:
        """Give the fence up and see that it was held until now; raises FenceLostError if it was not."""
        self.leave()
        await asyncio.shield(self._fence.confirmed)

    def leave(self) -> None:
        """Give the fence up without asking."""
        if not self._left:
            self._left = True
            self._fence.leave()


class Fence:
    """Takes fences over all shards of one logical database; ``names`` are its shards in order."""

    def __init__(  # noqa: PLR0913 - what it is made of
        self,
        control: Control,
        *,
        cluster: str,
        names: Sequence[str],
        epoch: int = 1,
        limits: FenceLimits | None = None,
        checkpoint: Checkpoint = pass_by,
        ready: Callable[[int], Awaitable[None]] | None = None,
        patience_s: float = 0.0,
    ) -> None:
        """``ready`` returns when a shard is up, and raises when it is not: soon, or after ``patience_s``."""
        self.control = control
        self.cluster = cluster
        self.names = tuple(names)
        self.epoch = epoch
        self.limits = limits or FenceLimits()
        self.checkpoint = checkpoint
        self._ready = ready
        self._patience_s = patience_s
        #: How many fences were begun: fewer than readers, where these shared them.
        self.taken = 0
        #: How long readers have waited until they had it.
        self.waits = Timings()
        self._order: tuple[int, ...] | None = None
        self._joinable: _SharedFence | None = None
        self._places = asyncio.Semaphore(self.limits.concurrent)

    def add(self, name: str) -> None:
        """Hold back another shard as well, the last one."""
        self.names += (name,)
        self._order = None

    @asynccontextmanager
    async def hold(self, reading: Collection[int]) -> AsyncIterator[Held]:
        """Hold the fence while the block binds on the ``reading`` shards; everything decided before is visible there.

        Raises FenceError when it cannot be had, ProxyError or a shard's error when a shard cannot be asked.
        """
        asked_at = monotonic()
        fence = await self._take(frozenset(reading))
        self.waits.add(monotonic() - asked_at)
        held = Held(fence)
        try:
            yield held
        finally:
            held.leave()

    async def _take(self, reading: frozenset[int]) -> _SharedFence:
        attempt = 0
        patient_until = asyncio.get_running_loop().time() + self._patience_s
        while True:
            attempt += 1
            fence = self._joinable
            if fence is None or not fence.joinable:
                fence = self._joinable = _SharedFence(self)
                self.taken += 1
                spawn(fence.run(), "fence")
            fence.join(reading)
            try:
                await asyncio.shield(fence.ready)
            except BaseException as error:
                fence.leave()
                fields = error_fields(error) if isinstance(error, Exception) else None
                retry = isinstance(error, FenceLostError) or (fields is not None and fields.sqlstate in RETRY_SQLSTATES)
                if fields is not None and isinstance(error, ShardFailure) and fields.sqlstate in SHARD_DOWN:
                    if attempt < self.limits.attempts and asyncio.get_running_loop().time() < patient_until:
                        continue  # lost while it was taken: the next one waits for the shard
                    raise FenceError(
                        fields.sqlstate,
                        fields.message,
                        detail="A read of several shards takes its snapshot with every shard of the database.",
                        hint="With SET pgchorus.read_consistency = shard only the shards that it reads are needed.",
                    ) from error
                if not retry:
                    raise
                if attempt >= self.limits.attempts:
                    detail = str(fields) if fields is not None else str(error)
                    raise FenceError(
                        LOCK_NOT_AVAILABLE,
                        "no common snapshot of all shards could be taken in time",
                        detail=detail,
                        hint="Try again, or set pgchorus.read_consistency to shard.",
                    ) from error
                continue
            return fence

    async def all_ready(self) -> None:
        """Return when every shard is up; raises its error when one is not."""
        if self._ready is not None:
            await asyncio.gather(*(self._ready(shard) for shard in range(len(self.names))))

    async def order(self) -> tuple[int, ...]:
        """Return the shards in the order that every proxy takes them in."""
        if self._order is None:
            identities = await asyncio.gather(*(self._identity(shard) for shard in range(len(self.names))))
            self._order = tuple(
                sorted(range(len(self.names)), key=lambda shard: (identities[shard], self.names[shard]))
            )
        return self._order

    async def _identity(self, shard: int) -> str:
        async with self.control.connection(shard) as connection:
            return str(await connection.fetchval(_IDENTITY))

    @property
    def places(self) -> asyncio.Semaphore:
        """How many fences there may be at a time."""
        return self._places


class _SharedFence:
    """One fence and its readers. ``ready``: it is held and settled. ``confirmed``: it was held until all had bound."""

    def __init__(self, owner: Fence) -> None:
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        self.confirmed: asyncio.Future[None] = loop.create_future()
        for future in (self.ready, self.confirmed):
            future.add_done_callback(_seen)
        self.joinable = True
        self._owner = owner
        self._reading: set[int] = set()
        self._members = 0
        self._empty = asyncio.Event()

    def join(self, reading: frozenset[int]) -> None:
        self._reading |= reading
        self._members += 1
        self._empty.clear()

    def leave(self) -> None:
        self._members -= 1
        if self._members == 0:
            self._empty.set()

    async def run(self) -> None:
        try:
            await self._owner.all_ready()
            async with self._owner.places, AsyncExitStack() as stack:
                checkpoint = self._owner.checkpoint
                held = await self._lock(stack)
                checkpoint(Point.FENCE_LOCKED)
                await self._settle_held(held)
                checkpoint(Point.FENCE_SETTLED)
                self.ready.set_result(None)
                try:
                    async with asyncio.timeout(self._owner.limits.bind_s):
                        await self._empty.wait()
                except TimeoutError:
                    raise _lost("A reader took too long to bind.") from None
                checkpoint(Point.FENCE_BOUND)
                await self._commit(held)
            self.confirmed.set_result(None)
        except Exception as error:  # noqa: BLE001 - whatever it is, the readers raise it
            self.joinable = False
            for future in (self.ready, self.confirmed):
                if not future.done():
                    future.set_exception(error)

    async def _lock(self, stack: AsyncExitStack) -> dict[int, ControlConnection]:
        owner = self._owner
        limits = owner.limits
        held: dict[int, ControlConnection] = {}
        order = await owner.order()
        # All connections first: nobody waits for one while holding back deciders.
        for shard in order:
            held[shard] = await stack.enter_async_context(owner.control.connection(shard))
        for shard in order:
            await held[shard].execute(
                "BEGIN ISOLATION LEVEL READ COMMITTED; "
                f"SET LOCAL lock_timeout = {limits.lock_ms}; "
                f"SET LOCAL idle_in_transaction_session_timeout = {limits.hold_ms}; "
                "SELECT CASE WHEN pg_catalog.current_setting('transaction_timeout', true) IS NOT NULL "
                f"THEN pg_catalog.set_config('transaction_timeout', '{limits.hold_ms}', true) END; "
                "LOCK TABLE pgchorus.fence IN SHARE MODE; "
                f"SELECT pgchorus.check_epoch({owner.epoch})"
            )
        self.joinable = False
        return held

    async def _settle_held(self, held: Mapping[int, ControlConnection]) -> None:
        """Settle; a link that is lost meanwhile held a lock until then, so the fence is lost, whatever the reason."""
        try:
            await self._settle(held)
        except Exception as error:
            if isinstance(error, ShardFailure) and error.lost:
                raise _lost(f"A link that held it is gone: {error.fields.message}") from error
            raise

    async def _settle(self, held: Mapping[int, ControlConnection]) -> None:
        """Make what is decided visible on the shards that will be read. Nothing is decided meanwhile.

        Usually a coordinator is at it and a moment's patience is all it takes; a part that stays is finished here.
        """
        owner = self._owner
        names = owner.names
        for look in range(LOOKS_BEFORE_HELPING + 1):
            listed = await asyncio.gather(
                *(list_pending(held[shard], shard, names, owner.cluster) for shard in sorted(self._reading))
            )
            pending = [one for some in listed for one in some]
            by_commit_point: dict[int, set[GlobalId]] = {}
            for one in pending:
                if one.gid.commit_point not in names:
                    raise FenceError("55000", f"the commit point of {one.name} is not a shard of this database")
                by_commit_point.setdefault(names.index(one.gid.commit_point), set()).add(one.gid)
            answers = await asyncio.gather(
                *(read_decisions(held[shard], gids) for shard, gids in by_commit_point.items())
            )
            decisions = {gid: decision for answer in answers for gid, decision in answer.items()}
            decided = [one for one in pending if one.gid in decisions and decisions[one.gid].committed]
            if not decided:
                return
            if look < LOOKS_BEFORE_HELPING:
                await asyncio.sleep(PAUSE_S)
                continue
            late = await _finish_committed(owner.control, names, decided, decisions, owner.limits.settle_s)
            if late:
                raise _lost(f"Waiting for {', '.join(late)} to be applied.")

    async def _commit(self, held: Mapping[int, ControlConnection]) -> None:
        results = await asyncio.gather(
            *(connection.execute("COMMIT") for connection in held.values()), return_exceptions=True
        )
        for shard, result in zip(held, results, strict=True):
            if isinstance(result, BaseException) or result != "COMMIT":
                raise _lost(f"Shard {self._owner.names[shard]} had let it go: {result}.")


def _seen(future: asyncio.Future[None]) -> None:
    """Readers that gave up do not ask; that is no reason to warn of an exception that nobody saw."""
    if not future.cancelled():
        future.exception()
