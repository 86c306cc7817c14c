"""The coordinator: drives a commit over shard links and control connections, and answers the client.

Decides how a transaction commits (plainly with one writer, by the commit machine with several), which shard is the
commit point, and the ids. What to send when, and what answers mean, is ``machine``'s; how a prepared part is finished
elsewhere,
``finish``'s; what is left behind, ``recovery``'s.

Every commit runs in a task of the coordinator's own: a caller that is cancelled because its client hung up stops
nothing. The links belong to the commit until it answers.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from typing import TYPE_CHECKING, TypeVar

from proxy.errors import TRANSACTION_RESOLUTION_UNKNOWN
from proxy.twophase import record
from proxy.twophase.events import (
    Abort,
    Answered,
    Failed,
    Finish,
    Finished,
    Leave,
    Limits,
    Outcome,
    Plan,
    Result,
    Send,
    Settle,
    Settled,
    Tell,
    TimedOut,
    Timer,
    Unfinished,
    Unsettled,
)
from proxy.twophase.finish import Part, finish
from proxy.twophase.gid import RANDOM_BITS, GlobalId, check_name, uuid7
from proxy.twophase.machine import CommitMachine, State
from proxy.twophase.participant import STATUS_BLOCK, STATUS_IDLE, ShardFailure, error_fields
from proxy.twophase.points import AFTER, BEFORE, Point, pass_by
from proxy.twophase.recorded import ask_by_writing, commit_recorded
from proxy.wire.fields import ErrorFields

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence
    from collections.abc import Set as AbstractSet
    from typing import Any

    from proxy.twophase.events import Command, Event
    from proxy.twophase.participant import Control, Participant
from proxy.twophase.points import Checkpoint
from router.errors import refusal

T = TypeVar("T")
__all__ = ["Coordinator", "Limits", "Outcome", "Result"]

RETENTION_S = 86_400.0
_LOST_SEVERITIES = ("FATAL", "PANIC")
_UNDECIDED = frozenset({State.NEW, State.PREPARING})
_log = logging.getLogger(__name__)


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
        self.limits = limits or Limits()
        self.retention_s = retention_s
        self.epoch = epoch
        self._leave = leave
        self._clock_ms = clock_ms
        self._random_bits = random_bits
        self.checkpoint = checkpoint
        self._keys: dict[int, bytes] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._under_way: dict[str, _Drive] = {}

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
        while self._tasks:
            await asyncio.wait(self._tasks)

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
            return await self._commit_plainly(links, parties[0] if parties else None, gid)
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
        self, links: Mapping[int, Participant], writer: int | None, gid: GlobalId | None
    ) -> Outcome:
        """Commit the writer first, then those that only read. A writer that is not alone waits for readers' fences."""
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
            if len(links) > 1 and links[writer].status == STATUS_BLOCK:
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
        if sent and _is_lost(link, error):
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
        commit_point = self.names.index(gid.commit_point)
        key = await self._key(commit_point)
        if isinstance(key, Outcome):
            await self._roll_back(links)
            return key
        plan = Plan(
            gid=gid,
            commit_point=commit_point,
            participants=tuple(shard for shard in parties if shard != commit_point),
            readers=tuple(shard for shard in links if shard not in parties),
            names=dict(enumerate(self.names)),
            statuses={shard: link.status for shard, link in links.items()},
            key=key,
            epoch=self.epoch,
            limits=self.limits,
        )
        told: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        drive = _Drive(self, plan, links, told)
        self._under_way[str(gid)] = drive
        task = self._spawn(drive.run(), f"commit {gid}")
        task.add_done_callback(lambda task: _pass_on(task, told))
        try:
            outcome = await told
        finally:
            del self._under_way[str(gid)]
        if outcome.error is not None and outcome.error.sqlstate == record.BAD_PROOF:
            self._keys.pop(commit_point, None)
        return outcome

    def is_ours(self, gid: str) -> bool:
        """Whether a transaction is being committed here, at this moment."""
        return gid in self._under_way

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


def _pass_on(task: asyncio.Task[None], told: asyncio.Future[Outcome]) -> None:
    """Give a bug in a commit to whoever waits for its answer, or to the log when that was given."""
    error = asyncio.CancelledError() if task.cancelled() else task.exception()
    if error is not None and not told.done():
        told.set_exception(error)
    elif error is not None:
        _log.error("cleaning up after %s failed", task.get_name(), exc_info=error)


def _is_lost(link: Participant, error: ShardFailure) -> bool:
    return error.lost or link.closed or error.fields.severity in _LOST_SEVERITIES


class _Drive:
    """Carries one machine's commands out, and brings it what came of them."""

    def __init__(
        self,
        coordinator: Coordinator,
        plan: Plan,
        links: Mapping[int, Participant],
        told: asyncio.Future[Outcome],
    ) -> None:
        self._coordinator = coordinator
        self._checkpoint = coordinator.checkpoint
        self._plan = plan
        self._links = links
        self.told = told
        self.part_names = {shard: plan.gid.at(plan.names[shard]) for shard in plan.participants}
        self._machine = CommitMachine(plan)
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._work: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def may_be_decided(self) -> bool:
        """Whether step 2 has been sent, so that its effects may be seen at the commit point."""
        return self._machine.state not in _UNDECIDED

    async def run(self) -> None:
        machine = self._machine
        try:
            self._carry_out(machine.start())
            while machine.state is not State.DONE:
                event = await self._events.get()
                if isinstance(event, Answered | Failed):
                    self._checkpoint(AFTER[event.step])
                self._carry_out(machine.handle(event))
        except BaseException:
            # Whatever this is, no link of it may be used again; recovery does the rest.
            for link in self._links.values():
                link.abort()
            self._coordinator.leave(frozenset(self._links))
            raise
        finally:
            if self._timer is not None:
                self._timer.cancel()
        if self._work:
            await asyncio.wait(self._work)

    def _carry_out(self, commands: list[Command]) -> None:  # noqa: C901 - one line for each command
        for command in commands:
            match command:
                case Send():
                    self._checkpoint(BEFORE[command.step])
                    self._start(self._send(command))
                case Abort():
                    self._links[command.shard].abort()
                case Timer():
                    if self._timer is not None:
                        self._timer.cancel()
                    event = TimedOut(command.serial)
                    loop = asyncio.get_running_loop()
                    self._timer = loop.call_later(command.seconds, self._events.put_nowait, event)
                case Tell():
                    self._checkpoint(Point.TELLING)
                    if not self.told.done():
                        self.told.set_result(command.outcome)
                case Leave():
                    self._coordinator.leave(command.shards)
                case Settle():
                    self._checkpoint(Point.SETTLING)
                    self._start(self._settle(command))
                case Finish():
                    self._checkpoint(Point.ELSEWHERE)
                    self._start(self._finish(command))

    def _start(self, work: Coroutine[Any, Any, Event]) -> None:
        async def report() -> None:
            self._events.put_nowait(await work)

        task = asyncio.create_task(report(), name=f"twophase: {self._plan.gid}")
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def _send(self, command: Send) -> Event:
        link = self._links[command.shard]
        try:
            answer = await link.run(command.sql)
        except Exception as error:  # noqa: BLE001 - a bug; the machine must go on, and the log has it
            if isinstance(error, ShardFailure):
                lost = _is_lost(link, error)
                fields, raw = error.fields, error.raw
            else:
                _log.exception("running %s on shard %s", command.step.value, link.name)
                lost, raw = True, None
                fields = ErrorFields.make("ERROR", "XX000", f"internal error while talking to shard {link.name}")
            if lost:
                link.abort()
            return Failed(command.shard, command.step, fields, lost=lost, status=link.status, raw=raw)
        row = tuple(answer.rows[0]) if answer.rows else ()
        return Answered(command.shard, command.step, answer.tags, row, tuple(answer.notices), answer.status)

    async def _settle(self, command: Settle) -> Event:
        plan, owner = self._plan, self._coordinator
        try:
            committed, reason = await ask_by_writing(
                owner.control, plan.commit_point, plan.gid, retention_s=owner.retention_s, timeout_s=command.timeout_s
            )
            if committed is None:
                return Unsettled(reason)
            self._checkpoint(Point.SETTLED)
            return Settled(committed=committed)
        except Exception:  # noqa: BLE001 - a bug; the machine must go on, and the log has it
            _log.exception("settling %s", self._plan.gid)
            return Unsettled("internal error")

    async def _finish(self, command: Finish) -> Event:
        part = Part(command.shard, self._plan.gid.at(self._plan.names[command.shard]), command.xid)
        try:
            result = await finish(self._coordinator.control, part, commit=command.commit, timeout_s=command.timeout_s)
        except Exception:  # noqa: BLE001 - a bug; the machine must go on, and the log has it
            _log.exception("finishing %s", part.name)
            return Unfinished(command.shard, "internal error")
        if result.done:
            return Finished(command.shard)
        if result.torn:
            _log.critical("transaction %s on shard %s: %s", part.name, self._plan.names[part.shard], result.reason)
        return Unfinished(command.shard, result.reason, torn=result.torn)
