"""A model of a distributed commit: shards that answer as Postgres does, faults at every point, every order of events.

One transaction is committed by the real machine. The explorer walks all sequences of: a message is run and answered,
a link breaks before or after the server has read a message (or the server reads it much later), the server answers with
an error, with the silent ROLLBACK of a PREPARE that prepared nothing, with a wait for standbys that was cut off,
restarts, a timer runs out, another proxy's recovery looks, the proxy crashes. Faults are limited by a budget, crashes
are not. At every end the real recovery runs over what is left, and the promises are checked.
"""

from __future__ import annotations

import asyncio
import copy
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

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
    Step,
    Tell,
    TimedOut,
    Timer,
    Unfinished,
    Unsettled,
)
from proxy.twophase.gid import GlobalId
from proxy.twophase.machine import CommitMachine, State
from proxy.twophase.recovery import Recovery, RecoveryLimits
from proxy.wire.fields import ErrorFields

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from proxy.twophase.events import Command, Event

GID = GlobalId("model", "s0", UUID("01a2020e-5b17-7bf7-b291-5f6983081d17"))
UNCONFIRMED = ErrorFields.make("WARNING", "01000", "canceling wait for synchronous replication due to user request")
LINK_LOST = ErrorFields.make("ERROR", "08006", "connection lost")
CONSTRAINT = ErrorFields.make("ERROR", "23503", "deferred constraint failed")
WRITER, READER = "writer", "reader"


@dataclass(slots=True)
class FakeShard:
    """What one server knows of the transaction. ``status``: of the session, None when it is gone."""

    name: str
    role: str
    xid: int
    status: str | None = "T"
    prepared: bool = False
    outcome: str = "in progress"  # pg_xact_status
    decision: str | None = None

    def key(self) -> tuple[object, ...]:
        return (self.status, self.prepared, self.outcome, self.decision)

    def _abort(self) -> None:
        if self.outcome == "in progress":
            self.outcome = "aborted"

    def lose_session(self) -> None:
        if self.status is not None and self.status != "I" and not self.prepared:
            self._abort()
        self.status = None

    def abandon(self) -> str:
        self.decision = self.decision or "abort"
        return self.decision

    def finish(self, *, commit: bool) -> bool:
        """COMMIT PREPARED or ROLLBACK PREPARED; False is 42704."""
        if not self.prepared:
            return False
        self.prepared = False
        self.outcome = "committed" if commit else "aborted"
        return True

    def run(self, step: Step, behaviour: str) -> Answered | ErrorFields:
        """Execute one of the machine's messages as Postgres would; an ErrorFields is an ErrorResponse."""
        row: tuple[bytes, ...] = ()
        tags: tuple[bytes, ...] = (b"ROLLBACK",)
        notices = (UNCONFIRMED,) if behaviour == "unconfirmed" else ()
        if step in (Step.PREPARE, Step.READY, Step.DECIDE) and behaviour == "error":
            self._abort()
            self.status = "I" if step is Step.PREPARE else "E"
            return CONSTRAINT
        if step is Step.READY:
            tags, row = (b"SET CONSTRAINTS", b"SELECT 1"), (str(self.xid).encode(), b"on")
        elif step is Step.PREPARE:
            row = (str(self.xid).encode(), b"on")
            self.status = "I"
            if behaviour == "silent rollback":
                self._abort()
            else:
                self.prepared = True
                tags = (b"SET CONSTRAINTS", b"SELECT 1", b"PREPARE TRANSACTION")
        elif step is Step.DECIDE:
            if self.decision is not None:
                self._abort()
                self.status = "E"
                fields = ErrorFields.make("ERROR", "23505", "duplicate key")
                return fields.replace(s="pgchorus")
            self.status, self.outcome, self.decision = "I", "committed", "commit"
            tags = (b"SELECT 1", b"COMMIT")
        elif step in (Step.COMMIT_PREPARED, Step.ROLLBACK_PREPARED):
            if not self.finish(commit=step is Step.COMMIT_PREPARED):
                return ErrorFields.make("ERROR", "42704", "does not exist")
            tags = (step.value.upper().encode(),)
        elif step is Step.ROLLBACK:
            self._abort()
            self.status = "I"
        else:
            self.status, tags = "I", (b"COMMIT",)
        status = ord(self.status or "I")
        return Answered(int(self.name[1:]), step, tags, row, notices, status)


class FakeControl:
    """Control connections for the real recovery, over the fake shards."""

    def __init__(self, shards: list[FakeShard]) -> None:
        self.shards = shards

    @asynccontextmanager
    async def connection(self, shard: int) -> AsyncIterator[FakeConnection]:
        yield FakeConnection(self.shards[shard])


class FakeConnection:
    def __init__(self, shard: FakeShard) -> None:
        self.shard = shard

    async def fetch(self, sql: str, *_args: object) -> list[dict[str, Any]]:
        shard = self.shard
        if sql == record.LIST_PREPARED:
            row = {"gid": GID.at(shard.name), "owner": "app", "xid": str(shard.xid), "age": 1e6, "may_finish": True}
            return [row] if shard.prepared else []
        if sql == record.READ_DECISIONS:
            if shard.decision is None:
                return []
            commit = shard.decision == "commit"
            names = [f"s{number}" for number in range(1, 9)] if commit else []
            xids = [str(100 + number) for number in range(1, 9)] if commit else []
            return [{"gid": str(GID), "outcome": shard.decision, "participants": names, "xids": xids}]
        assert sql == record.LIVE_DECIDERS
        return []

    async def fetchval(self, sql: str, *_args: object) -> object:
        if sql == record.ABANDON:
            return self.shard.abandon()
        if sql == record.XACT_STATUS:
            return self.shard.outcome
        assert sql == record.CONFIRM_DURABLE
        return None

    async def execute(self, sql: str) -> str:
        verb = sql.partition(" '")[0]
        assert self.shard.finish(commit=verb == "COMMIT PREPARED")
        return verb

    async def execute_as(self, _role: str, sql: str) -> str:
        return await self.execute(sql)


@dataclass(slots=True)
class World:
    """Everything at one moment. ``late`` are messages of broken links that their servers will still read, or not."""

    machine: CommitMachine
    shards: list[FakeShard]
    budget: int
    sends: list[Send] = field(default_factory=list)
    late: list[Send] = field(default_factory=list)
    settle: Settle | None = None
    finishes: list[Finish] = field(default_factory=list)
    timer: int = 0
    told: Outcome | None = None
    looked: bool = False
    trace: tuple[str, ...] = ()

    def fork(self, what: str, cost: int = 0) -> World:
        machine = copy.copy(self.machine)
        for name, value in vars(machine).items():
            if isinstance(value, set | dict | list):
                setattr(machine, name, copy.copy(value))
        return replace(
            self,
            machine=machine,
            shards=[copy.copy(shard) for shard in self.shards],
            budget=self.budget - cost,
            sends=list(self.sends),
            late=list(self.late),
            finishes=list(self.finishes),
            trace=(*self.trace, what),
        )

    def key(self) -> tuple[object, ...]:
        # What the machine remembers for its last words only does not lead to other states.
        state = [
            sorted(value) if isinstance(value, set) else value
            for name, value in vars(self.machine).items()
            if name not in ("plan", "_notices", "_failure", "_tainted", "_timer")
        ]
        sends = sorted((send.shard, send.step.value) for send in self.sends)
        late = sorted((send.shard, send.step.value) for send in self.late)
        finishes = sorted((finish.shard, finish.commit) for finish in self.finishes)
        told = self.told.result if self.told else None
        shards = tuple(shard.key() for shard in self.shards)
        return (
            str(state),
            self.machine._failure is None,
            shards,
            self.budget,
            str(sends),
            str(late),
            str(finishes),
            self.settle,
            told,
            self.looked,
        )

    def carry_out(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Send():
                    self.sends.append(command)
                case Abort():
                    self._cut(command.shard)
                case Settle():
                    self.settle = command
                case Finish():
                    self.finishes.append(command)
                case Timer():
                    self.timer = command.serial
                case Tell():
                    assert self.told is None, "told twice"
                    self.told = command.outcome
                case Leave():
                    pass

    def _cut(self, shard: int) -> None:
        """The link is closed by us: a message under way may still be read."""
        self.late += [send for send in self.sends if send.shard == shard]
        self.sends = [send for send in self.sends if send.shard != shard]
        if not any(send.shard == shard for send in self.late):
            self.shards[shard].lose_session()

    def give(self, event: Event) -> World:
        self.carry_out(self.machine.handle(event))
        return self

    # --- what may happen next ---------------------------------------------------------------------------------

    def successors(self) -> Iterator[World]:
        yield from self._messages()
        yield from self._late_messages()
        yield from self._control()
        if self.budget:
            if self.machine.state not in (State.SETTLING, State.DONE, State.NEW):
                world = self.fork("timer", 1)
                yield world.give(TimedOut(world.timer))
            for shard in self.shards:
                if shard.status is not None and shard.role == WRITER:
                    yield self._restart(int(shard.name[1:]))

    def _messages(self) -> Iterator[World]:
        for index, send in enumerate(self.sends):
            where = f"{send.step.value}@{send.shard}"
            behaviours = ["ok"]
            if self.budget:
                behaviours += {
                    Step.PREPARE: ["error", "silent rollback", "unconfirmed"],
                    Step.READY: ["error"],
                    Step.DECIDE: ["error", "unconfirmed"],
                }.get(send.step, [])
            for behaviour in behaviours:
                world = self.fork(f"{where} {behaviour}", 0 if behaviour == "ok" else 1)
                del world.sends[index]
                yield world.give(world.execute(send, behaviour))
            if self.budget:
                for read, word in ((False, "unread"), (True, "read")):
                    world = self.fork(f"{where} lost, {word}", 1)
                    del world.sends[index]
                    if read:
                        world.execute(send, "ok")
                    world.shards[send.shard].lose_session()
                    yield world.give(world.lost(send))
                world = self.fork(f"{where} lost, read later", 1)
                del world.sends[index]
                world.late.append(send)
                yield world.give(world.lost(send))

    def _late_messages(self) -> Iterator[World]:
        for index, send in enumerate(self.late):
            for read in (True, False):
                word = "read late" if read else "never read"
                world = self.fork(f"{send.step.value}@{send.shard} {word}")
                del world.late[index]
                if read and world.shards[send.shard].status is not None:
                    world.execute(send, "ok")
                world.shards[send.shard].lose_session()
                yield world

    def _control(self) -> Iterator[World]:
        if self.settle is not None:
            world = self.fork("settle")
            world.settle = None
            yield world.give(Settled(world.shards[0].abandon() == "commit"))
            if self.budget:
                world = self.fork("cannot settle", 1)
                world.settle = None
                yield world.give(Unsettled("unreachable"))
        for index, finish in enumerate(self.finishes):
            world = self.fork(f"finish@{finish.shard}")
            del world.finishes[index]
            yield world.give(world.finish(finish))
            if self.budget:
                world = self.fork(f"cannot finish@{finish.shard}", 1)
                del world.finishes[index]
                yield world.give(Unfinished(finish.shard, "unreachable"))

    def finish(self, finish: Finish) -> Event:
        shard = self.shards[finish.shard]
        wanted = "committed" if finish.commit else "aborted"
        if shard.finish(commit=finish.commit) or finish.xid is None or shard.outcome == wanted:
            return Finished(finish.shard)
        return Unfinished(finish.shard, shard.outcome, torn=shard.outcome != "in progress")

    def _restart(self, number: int) -> World:
        """The server restarts: sessions are gone, what is prepared, committed or recorded stays."""
        world = self.fork(f"restart@{number}", 1)
        lost = [send for send in world.sends if send.shard == number]
        world.sends = [send for send in world.sends if send.shard != number]
        world.late = [send for send in world.late if send.shard != number]
        world.shards[number].lose_session()
        for send in lost:
            world.give(world.lost(send))
        return world

    def execute(self, send: Send, behaviour: str) -> Event:
        shard = self.shards[send.shard]
        if shard.status is None:
            return self.lost(send)
        answer = shard.run(send.step, behaviour)
        if isinstance(answer, ErrorFields):
            return Failed(send.shard, send.step, answer, lost=False, status=ord(shard.status), raw=b"E")
        return answer

    @staticmethod
    def lost(send: Send) -> Failed:
        return Failed(send.shard, send.step, LINK_LOST, lost=True, status=ord("T"))


@dataclass(slots=True)
class Explorer:
    """Walks everything that can happen and collects broken promises (the first few)."""

    machine_class: type[CommitMachine] = CommitMachine
    recovery_class: type[Recovery] = Recovery
    shard_class: type[FakeShard] = FakeShard
    recovers_meanwhile: bool = True
    states: int = 0
    crashes: int = 0
    results: set[Result] = field(default_factory=set)
    broken: list[str] = field(default_factory=list)
    _crashed: set[tuple[object, ...]] = field(default_factory=set)
    _recovered: dict[tuple[object, ...], list[FakeShard]] = field(default_factory=dict)

    def explore(self, writers: int, readers: int, budget: int) -> None:
        names = {number: f"s{number}" for number in range(writers + readers)}
        plan = Plan(
            gid=GID,
            commit_point=0,
            participants=tuple(range(1, writers)),
            readers=tuple(range(writers, writers + readers)),
            names=names,
            statuses=dict.fromkeys(names, ord("T")),
            key=b"key",
            epoch=1,
            limits=Limits(),
        )
        shards = [
            self.shard_class(name, WRITER if number < writers else READER, 100 + number)
            for number, name in names.items()
        ]
        world = World(self.machine_class(plan), shards, budget)
        world.carry_out(world.machine.start())
        seen: set[tuple[object, ...]] = set()
        with asyncio.Runner() as runner:
            stack = [world]
            while stack and len(self.broken) < 3:
                world = stack.pop()
                key = world.key()
                if key in seen:
                    continue
                seen.add(key)
                self.states += 1
                self._crash(world, runner)
                if self.recovers_meanwhile and not world.looked:
                    looked = world.fork("recovery of another proxy")
                    looked.looked = True
                    looked.shards = self._recover(looked.shards, runner)
                    stack.append(looked)
                successors = list(world.successors())
                if not successors:
                    self._ended(world, runner)
                stack += successors

    def _ended(self, world: World, runner: asyncio.Runner) -> None:
        """Nothing more happens: the client has its answer, and recovery clears up what is left."""
        if world.machine.state is not State.DONE or world.told is None:
            self.broken.append(f"stuck in {world.machine.state.value}: {world.trace}")
            return
        self.results.add(world.told.result)
        self._check(world, self._recover(world.shards, runner), "at the end")

    def _crash(self, world: World, runner: asyncio.Runner) -> None:
        """The proxy dies here. Messages under way are read, each or not; recovery may come before that or after."""
        self.crashes += 1
        messages = world.sends + world.late
        told = world.told.result if world.told else None
        key = (tuple(shard.key() for shard in world.shards), told, *((send.shard, send.step) for send in messages))
        if key in self._crashed:
            return
        self._crashed.add(key)
        for pattern in range(1 << len(messages)):
            for recovery_first in (False, True):
                shards = [copy.copy(shard) for shard in world.shards]
                if recovery_first:
                    shards = self._recover(shards, runner)
                for index, message in enumerate(messages):
                    if pattern >> index & 1 and shards[message.shard].status is not None:
                        shards[message.shard].run(message.step, "ok")
                for shard in shards:
                    shard.lose_session()
                self._check(world, self._recover(shards, runner), f"after a crash ({pattern:b}, {recovery_first})")

    def _recover(self, shards: list[FakeShard], runner: asyncio.Runner) -> list[FakeShard]:
        key = tuple(shard.key() for shard in shards)
        result = self._recovered.get(key)
        if result is None:
            result = [copy.copy(shard) for shard in shards]
            names = [shard.name for shard in shards]
            recovery = self.recovery_class(
                FakeControl(result), cluster="model", names=names, limits=RecoveryLimits(finish_timeout_s=0.0)
            )
            runner.run(recovery.run_once())
            self._recovered[key] = result
        return [copy.copy(shard) for shard in result]

    def _check(self, world: World, shards: list[FakeShard], when: str) -> None:
        writers = [shard for shard in shards if shard.role == WRITER]
        outcomes = {shard.outcome for shard in writers}
        result = world.told.result if world.told else None
        problem = ""
        if any(shard.prepared for shard in writers):
            problem = "something is left prepared"
        elif len(outcomes) > 1:
            problem = f"torn: {[shard.outcome for shard in writers]}"
        elif result is Result.TORN:
            problem = "told that it is torn"
        elif result is Result.COMMITTED and outcomes != {"committed"}:
            problem = "told COMMIT"
        elif result is Result.ABORTED and "committed" in outcomes:
            problem = "told ROLLBACK"
        if problem:
            self.broken.append(f"{problem} {when}: {' | '.join(world.trace)}")
