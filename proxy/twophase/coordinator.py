"""The coordinator: how a transaction commits, and which commits of this process are under way.

Decides how a transaction commits (plainly with one writer, by the commit machine with several), which shard is the
commit point, and the ids. What to send when, and what answers mean, is ``machine``'s, carrying that out ``drive``'s;
how a prepared part is finished elsewhere, ``finish``'s; what is left behind, ``recovery``'s.

Every commit is the coordinator's own: a caller that is cancelled because its client hung up stops nothing. The links
belong to the commit until it answers.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from proxy.errors import TRANSACTION_RESOLUTION_UNKNOWN
from proxy.twophase import record
from proxy.twophase.drive import Drive, is_lost
from proxy.twophase.events import Limits, Outcome, Plan, Result
from proxy.twophase.gid import RANDOM_BITS, GlobalId, check_name, random_of, uuid7
from proxy.twophase.participant import STATUS_BLOCK, STATUS_IDLE, ShardFailure, error_fields
from proxy.twophase.points import Point, pass_by
from proxy.twophase.recorded import commit_recorded
from proxy.wire.fields import ErrorFields
from router.errors import refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from proxy.twophase.participant import Control, Participant
    from proxy.twophase.points import Checkpoint

T = TypeVar("T")
__all__ = ["Coordinator", "Limits", "Outcome", "Result"]

RETENTION_S = 86_400.0
# A gid's time must not be much earlier than its commit's: nobody writes an abort record for one that is too old.
_DRAFT_MS = 1000


@dataclass(slots=True)
class Draft:
    """A commit that was made ahead, and what of: it is that of these writers and links, and of nothing else."""

    drive: Drive
    plan: Plan
    links: Mapping[int, Participant]
    writers: frozenset[int]
    shards: frozenset[int]
    checkpoint: Checkpoint


class Coordinator:
    """Commits the transactions of one logical database.

    ``names`` are the shards in the database's order. ``leave`` is told which shards recovery should look at (usually
    ``Recovery.wake``). ``epoch`` is the version of the placement that this proxy plans with; it may be set anew.
    """

    def __init__(  # noqa: PLR0913 - what it is made of
        self,
        control: Control,
        *,
        cluster: str,
        names: Sequence[str],
        limits: Limits | None = None,
        retention_s: float = RETENTION_S,
        epoch: int = 1,
        leave: Callable[[frozenset[int]], None] = lambda _shards: None,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        random_bits: Callable[[int], int] = secrets.randbits,
        checkpoint: Checkpoint = pass_by,
    ) -> None:
        self.control = control
        self.cluster = check_name(cluster)
        self.names = tuple(check_name(name) for name in names)
        self._names = dict(enumerate(self.names))
        self.limits = limits or Limits()
        self.retention_s = retention_s
        self.epoch = epoch
        self._leave = leave
        self._clock_ms = clock_ms
        self._random_bits = random_bits
        self.checkpoint = checkpoint
        self._keys: dict[int, bytes] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._under_way: dict[str, Drive] = {}
        self._drives: set[Drive] = set()  # those of them, and those that are cleaning up
        self._idle: asyncio.Future[None] | None = None
        #: Rounds of messages to shards, of all commits of several writers since the start.
        self.rounds = 0

    def add(self, name: str) -> None:
        """Commit on another shard as well, the last one."""
        self.names += (check_name(name),)
        self._names = dict(enumerate(self.names))

    async def commit(
        self,
        links: Mapping[int, Participant],
        writers: AbstractSet[int],
        must_commit: AbstractSet[int] = frozenset(),
        *,
        random: int | None = None,
        gid: GlobalId | None = None,
    ) -> Outcome:
        """Commit on all ``links`` or on none. Never raises for what a shard did.

        ``writers`` are the shards that may have written; those in ``must_commit`` hold what cannot be prepared. When
        this returns (or its caller is cancelled and the commit's task is done), every link is idle or closed.
        ``random``: the bits by which the transaction is known already (deadlock); its gid will have them. ``gid``: the
        id that the client was told, which names a writer as the commit point; then there is a record in any case.
        """
        if not links:
            return Outcome(Result.COMMITTED)
        return await asyncio.shield(self._spawn(self._commit(links, writers, must_commit, random, gid), "commit"))

    async def rollback(self, links: Mapping[int, Participant]) -> None:
        """Roll back on all links. A link that cannot is closed, which rolls back as well."""
        await asyncio.shield(self._spawn(self._roll_back(links), "rollback"))

    async def drain(self) -> None:
        """Wait for all commits under way, their cleaning up included."""
        while self._tasks or self._drives:
            waiting: list[asyncio.Future[Any]] = [*self._tasks]
            if self._drives:
                self._idle = asyncio.get_running_loop().create_future()
                waiting.append(self._idle)
            await asyncio.wait(waiting)

    # --- choosing ---------------------------------------------------------------------------------------------

    async def _commit(
        self,
        links: Mapping[int, Participant],
        writers: AbstractSet[int],
        must_commit: AbstractSet[int],
        random: int | None,
        gid: GlobalId | None,
    ) -> Outcome:
        parties = sorted(writers | must_commit)
        told = {self.names.index(gid.commit_point)} if gid is not None and must_commit else set()
        if len(must_commit | told) > 1:
            await self._roll_back(links)
            names = " and ".join(self.names[shard] for shard in sorted(must_commit))
            if len(must_commit) == 1:
                names += f" and {', '.join(self.names[shard] for shard in told)}, which the transaction's id names,"
            why = refusal("not-prepared", names=names)
            error = ErrorFields.make("ERROR", why.sqlstate, why.message, hint=why.hint)
            return Outcome(Result.ABORTED, error=error)
        if len(parties) <= 1:
            return await self._commit_plainly(links, parties[0] if parties else None, gid, wrote=bool(writers))
        if gid is None:
            commit_point = min(must_commit) if must_commit else parties[self._random_bits(16) % len(parties)]
            gid = self.new_gid(commit_point, random)
        return await self._commit_everywhere(links, parties, gid)

    def new_gid(self, commit_point: int, random: int | None = None) -> GlobalId:
        """Make the id of a transaction that will be decided on ``commit_point``."""
        if random is None:
            random = self._random_bits(RANDOM_BITS)
        return GlobalId(self.cluster, self.names[commit_point], uuid7(self._clock_ms(), random))

    async def _key(self, shard: int) -> bytes | Outcome:
        """Return what proofs for a shard are made with, or how the commit ends without it."""
        key = self._keys.get(shard)
        if key is None:
            try:
                async with self.control.connection(shard) as connection:
                    key = self._keys[shard] = bytes(await connection.fetchval(record.READ_KEY))
            except Exception as error:
                fields = error_fields(error)
                if fields is None:
                    raise
                return Outcome(Result.ABORTED, error=fields, shard=shard)
        return key

    # --- no writer, or one ------------------------------------------------------------------------------------

    async def _commit_plainly(
        self, links: Mapping[int, Participant], writer: int | None, gid: GlobalId | None, *, wrote: bool
    ) -> Outcome:
        """Commit the writer first, then those that only read. A writer that is not alone waits for readers' fences.

        Not ``wrote``: it only holds what cannot be prepared, and may be READ ONLY, where no fence can be taken.
        """
        outcome = Outcome(Result.COMMITTED)
        if writer is not None and gid is not None:
            key = await self._key(writer)
            if isinstance(key, Outcome):
                await self._roll_back(links)
                return key
            self.checkpoint(Point.PLAINLY)
            outcome = await commit_recorded(
                links[writer],
                gid,
                self.control,
                key=key,
                epoch=self.epoch,
                limits=self.limits,
                retention_s=self.retention_s,
            )
            self.checkpoint(Point.PLAINLY_DONE)
        elif writer is not None:
            sql = "COMMIT"
            if wrote and len(links) > 1 and links[writer].status == STATUS_BLOCK:
                key = await self._key(writer)
                if isinstance(key, Outcome):
                    await self._roll_back(links)
                    return key
                fence = record.fence_commit_sql(links[writer].pid, self.epoch, key)
                sql = f"SET LOCAL statement_timeout = 0; SET CONSTRAINTS ALL IMMEDIATE; {fence}; COMMIT"
            self.checkpoint(Point.PLAINLY)
            outcome = await self._commit_writer(links[writer], sql)
            self.checkpoint(Point.PLAINLY_DONE)
        others = [link for shard, link in links.items() if shard != writer]
        sql = "ROLLBACK" if outcome.result is Result.ABORTED else "COMMIT"
        results = await asyncio.gather(*(self._end(link, sql) for link in others))
        if writer is None and (failure := next((one for one in results if one is not None), None)) is not None:
            return failure
        return outcome

    async def _end(self, link: Participant, sql: str) -> Outcome | None:
        """End a shard's transaction that wrote nothing; a failure matters only to a transaction that wrote nowhere."""
        try:
            answer = await link.run(sql)
        except Exception as error:
            if not isinstance(error, ShardFailure):
                raise
            if link.closed or link.status != STATUS_IDLE:
                link.abort()
            return Outcome(Result.ABORTED, error=error.fields, raw=error.raw, shard=link.shard)
        if sql == "COMMIT" and answer.tags[-1:] == (b"ROLLBACK",):
            return Outcome(Result.ABORTED, shard=link.shard, notices=answer.notices)
        return None

    async def _commit_writer(self, link: Participant, sql: str) -> Outcome:
        sent = not link.closed
        try:
            answer = await link.run(sql)
        except Exception as error:
            if not isinstance(error, ShardFailure):
                raise
            return await self._writer_failed(link, error, sent=sent)
        result = Result.COMMITTED if answer.tags[-1:] == (b"COMMIT",) else Result.ABORTED
        return Outcome(result, shard=link.shard, notices=tuple(answer.notices))

    async def _writer_failed(self, link: Participant, error: ShardFailure, *, sent: bool) -> Outcome:
        if error.fields.sqlstate == record.BAD_PROOF:
            self._keys.pop(link.shard, None)
        if error.completed == b"COMMIT":  # what has ended the link came behind it: a notification that cannot be told
            return Outcome(Result.COMMITTED, shard=link.shard)
        if sent and is_lost(link, error):
            # As with one Postgres: nobody knows. There is no record, because there is nothing to hold together.
            fields = ErrorFields.make(
                "ERROR",
                TRANSACTION_RESOLUTION_UNKNOWN,
                f"nobody knows whether the transaction is committed: {error.fields.message}",
                detail=error.fields.detail,
            )
            return Outcome(Result.UNKNOWN, error=fields, shard=link.shard)
        if link.status != STATUS_IDLE:
            await self._end(link, "ROLLBACK")
        return Outcome(Result.ABORTED, error=error.fields, raw=error.raw, shard=link.shard)

    async def _roll_back(self, links: Mapping[int, Participant]) -> None:
        alive = [link for link in links.values() if not link.closed and link.status != STATUS_IDLE]
        await asyncio.gather(*(self._end(link, "ROLLBACK") for link in alive))

    # --- several writers --------------------------------------------------------------------------------------

    async def _commit_everywhere(
        self, links: Mapping[int, Participant], parties: Sequence[int], gid: GlobalId
    ) -> Outcome:
        key = await self._key(self.names.index(gid.commit_point))
        if isinstance(key, Outcome):
            await self._roll_back(links)
            return key
        return await self._begin(Drive(self, self._plan(links, parties, gid, key), links))

    def commit_at_once(
        self,
        links: Mapping[int, Participant],
        writers: AbstractSet[int],
        on_told: Callable[[Outcome | None], None],
        *,
        random: int | None = None,
        draft: Draft | None = None,
    ) -> bool:
        """Begin to commit what several shards have written, in this turn of the loop; otherwise as ``commit`` does it.

        ``on_told`` hears the outcome, later; None: a bug has ended the commit, and its links. False: nothing has
        happened, because there are not several writers, or something has to be asked first. ``draft``: of the same
        transaction; it is not used again.
        """
        if draft is None or not self._fits(draft, links, writers):
            draft = self.draft(links, writers, random=random)
            if draft is None:
                return False
        self._begin(draft.drive, on_told)
        return True

    def draft(
        self, links: Mapping[int, Participant], writers: AbstractSet[int], *, random: int | None = None
    ) -> Draft | None:
        """Make a commit of several writers, which nobody hears of: it may be begun, or dropped.

        None: there are not several, or something has to be asked first. ``links`` are those that it will use, whatever
        they are by then.
        """
        if len(writers) < 2:  # noqa: PLR2004 - several
            return None
        parties = sorted(writers)
        commit_point = parties[self._random_bits(16) % len(parties)]
        key = self._keys.get(commit_point)
        if key is None:
            return None
        plan = self._plan(links, parties, self.new_gid(commit_point, random), key)
        return Draft(Drive(self, plan, links), plan, links, frozenset(writers), frozenset(links), self.checkpoint)

    def _fits(self, draft: Draft, links: Mapping[int, Participant], writers: AbstractSet[int]) -> bool:
        """Whether a draft made now would be the same, but for its gid."""
        plan = draft.plan
        return (
            draft.links is links
            and draft.writers == writers
            and draft.shards == links.keys()
            and draft.checkpoint is self.checkpoint
            and plan.names is self._names
            and plan.key is self._keys.get(plan.commit_point)
            and plan.epoch == self.epoch
            and plan.limits is self.limits
            and 0 <= self._clock_ms() - plan.gid.unix_ms <= _DRAFT_MS
        )

    def _plan(self, links: Mapping[int, Participant], parties: Sequence[int], gid: GlobalId, key: bytes) -> Plan:
        commit_point = self.names.index(gid.commit_point)
        return Plan(
            gid=gid,
            commit_point=commit_point,
            participants=tuple(shard for shard in parties if shard != commit_point),
            readers=tuple(shard for shard in links if shard not in parties),
            names=self._names,
            statuses={shard: link.status for shard, link in links.items()},
            key=key,
            epoch=self.epoch,
            limits=self.limits,
        )

    def _begin(self, drive: Drive, on_told: Callable[[Outcome | None], None] | None = None) -> asyncio.Future[Outcome]:
        self._under_way[drive.name] = drive
        self._drives.add(drive)
        drive.begin(on_told)
        return drive.told

    def told(self, drive: Drive, outcome: Outcome | None) -> None:
        """A commit has come to its outcome."""
        del self._under_way[drive.name]
        error = None if outcome is None else outcome.error
        if error is not None and error.sqlstate == record.BAD_PROOF:
            self._keys.pop(drive.commit_point, None)

    def ended(self, drive: Drive) -> None:
        """Nothing of a commit runs any more, its cleaning up included."""
        self._drives.discard(drive)
        if not self._drives and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def is_ours(self, gid: str) -> bool:
        """Whether a transaction is being committed here, at this moment."""
        return gid in self._under_way

    def give_way(self, random: int, error: ErrorFields) -> bool:
        """End the commit whose gid has these random bits, with ``error``, if it is under way here and in step 1."""
        drives = (drive for drive in self._under_way.values() if random_of(drive.gid.uuid) == random)
        return any(drive.give_way(error) for drive in list(drives))

    async def applied(self, gid: str, timeout_s: float) -> None:
        """Return when nothing of a transaction that is ours can be decided and not yet visible, or the time is up.

        At once while its decision has not been sent: nobody can have seen any of it then.
        """
        drive = self._under_way.get(gid)
        if drive is not None and drive.may_be_decided:
            await asyncio.wait({drive.told}, timeout=timeout_s)

    def under_way_on(self, shard: int) -> tuple[list[str], list[asyncio.Future[Outcome]]]:
        """Return what commits of this process have, or may have, prepared on a shard; and which may be decided.

        The second list are futures: done when the commit is visible there (or recovery's). Of the others nobody can
        have seen anything yet.
        """
        names: list[str] = []
        decided: list[asyncio.Future[Outcome]] = []
        for drive in self._under_way.values():
            name = drive.part_names.get(shard)
            if name is not None and not drive.told.done():
                names.append(name)
                if drive.may_be_decided:
                    decided.append(drive.told)
        return names, decided

    def leave(self, shards: frozenset[int]) -> None:
        """Tell recovery where something may be left."""
        self._leave(shards)

    def _spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        task = asyncio.create_task(work, name=f"twophase: {name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
