"""A model of a distributed commit: shards that answer as Postgres does, faults at every point, every order of events.

One transaction is committed by the real machine, while the real recovery of another proxy works at the same time, one
statement after the other. What may happen: a message is run and answered, a link breaks before or after the server has
read a message (or the server reads it much later), the server answers with an error, with the silent ROLLBACK of a
PREPARE that prepared nothing, with a wait for standbys that was cut off, restarts, a timer runs out, a statement of the
recovery is run or its connection breaks, an abort record is purged, the proxy crashes. Faults are limited by a budget;
crashes, purges and the orders of all the rest are not. ``twophase_explorer`` walks all of it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from uuid import UUID

from proxy.twophase.events import (
    Abort,
    Failed,
    Finish,
    Finished,
    Leave,
    Outcome,
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
from proxy.wire.fields import ErrorFields
from twophase_shard import READER, WRITER, FakeShard
from twophase_steps import LOST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.twophase.events import Command, Event
    from twophase_steps import Answers, Ask

GID = GlobalId("model", "s0", UUID("01a2020e-5b17-7bf7-b291-5f6983081d17"))
LINK_LOST = ErrorFields.make("ERROR", "08006", "connection lost")
NOT_YET = "does not show it yet"

__all__ = ["GID", "READER", "WRITER", "FakeShard", "World"]


@dataclass(slots=True)
class World:
    """Everything at one moment. ``late`` are messages of broken links that their servers will still read, or not.

    ``recovery`` is what the other proxy's recovery has been told so far, None before it has begun.
    """

    machine: CommitMachine
    shards: list[FakeShard]
    budget: int
    sends: list[Send] = field(default_factory=list)
    late: list[Send] = field(default_factory=list)
    settle: Settle | None = None
    finishes: list[Finish] = field(default_factory=list)
    timer: int = 0
    told: Outcome | None = None
    told_too_early: bool = False
    recovery: Answers | None = None
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
            self.recovery,
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
                    self.told_too_early = self._is_too_early(command.outcome)
                case Leave():
                    pass

    def _is_too_early(self, outcome: Outcome) -> bool:
        """Whether COMMIT is said without a warning, and somebody could still find the time before."""
        if outcome.result is not Result.COMMITTED or any(NOT_YET in notice.message for notice in outcome.notices):
            return False
        return any(shard.outcome != "committed" for shard in self.shards if shard.role == WRITER)

    def _cut(self, shard: int) -> None:
        """The link is closed by us: a message under way may still be read."""
        self.late += [send for send in self.sends if send.shard == shard]
        self.sends = [send for send in self.sends if send.shard != shard]
        if not any(send.shard == shard for send in self.late):
            self.shards[shard].lose_session()

    def give(self, event: Event) -> World:
        self.carry_out(self.machine.handle(event))
        return self

    @property
    def is_over(self) -> bool:
        """Whether nothing of this commit can happen any more (another proxy's recovery may be anywhere)."""
        return self.machine.state is State.DONE and not (self.sends or self.late or self.finishes or self.settle)

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
                    Step.DECIDE: ["error", "silent rollback", "unconfirmed"],
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

    def answers(self, ask: Ask) -> Iterator[World]:
        """One statement of the other proxy's recovery is run, or its connection breaks before or after that."""
        assert self.recovery is not None
        where = f"recovery: {ask.kind}@{ask.shard}"
        world = self.fork(where)
        world.recovery = self.recovery | {(ask, world.shards[ask.shard].answer(ask))}
        yield world
        if not self.budget:
            return
        for read, word in ((False, "unread"), (True, "read")):
            world = self.fork(f"{where} lost, {word}", 1)
            if read:
                world.shards[ask.shard].answer(ask)
            world.recovery = self.recovery | {(ask, LOST)}
            yield world

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
