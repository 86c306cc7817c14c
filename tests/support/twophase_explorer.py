"""Walks everything that can happen in the model of a commit, and collects broken promises.

At every state the proxy may crash: then each message under way is read or not, a whole recovery of a third proxy comes
before or after that, and the second proxy's recovery, which had stopped somewhere in the middle, wakes up at last and
goes on. After all of that: all or nothing, what the client was told is true, nothing is left prepared.
"""

from __future__ import annotations

import asyncio
import copy
from dataclasses import dataclass, field

from proxy.twophase.events import Limits, Plan, Result
from proxy.twophase.machine import CommitMachine, State
from proxy.twophase.recovery import Recovery
from twophase_model import GID, World
from twophase_shard import READER, WRITER, FakeShard
from twophase_steps import NOTHING_ANSWERED, Answers, Recoverer, run_to_end


@dataclass(slots=True)
class Explorer:
    """One walk. The classes and switches are there to be replaced by wrong ones."""

    machine_class: type[CommitMachine] = CommitMachine
    recovery_class: type[Recovery] = Recovery
    shard_class: type[FakeShard] = FakeShard
    world_class: type[World] = World
    recovers_meanwhile: bool = True
    purges: bool = True
    drops_commit_records: bool = False  # wrong: as soon as all seem to have finished
    drops_abort_records_early: bool = False  # wrong: while somebody could still decide
    enough: int = 3  # broken promises
    states: int = 0
    crashes: int = 0
    ends: int = 0
    results: set[Result] = field(default_factory=set)
    broken: list[str] = field(default_factory=list)
    transitions: set[tuple[State, type, State]] = field(default_factory=set)
    _crashed: set[tuple[object, ...]] = field(default_factory=set)
    _recovered: dict[tuple[object, ...], list[FakeShard]] = field(default_factory=dict)
    _recoverer: Recoverer = field(init=False)
    _runner: asyncio.Runner = field(init=False)

    def explore(self, writers: int, readers: int, budget: int) -> None:
        """Walk everything for so many shards, with at most ``budget`` faults besides crashes."""
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
        self._recoverer = Recoverer(GID, writers + readers, self.recovery_class)
        self._crashed.clear()
        self._recovered.clear()
        world = self.world_class(self._watched(plan), shards, budget)
        world.carry_out(world.machine.start())
        with asyncio.Runner() as self._runner:
            self._walk(world)
        self.broken += [f"recovery calls for a person: {alarm}" for alarm in sorted(self._recoverer.alarms)]

    def report(self, writers: int, readers: int, budget: int) -> str:
        """Return what was explored, in a line."""
        other = "with" if self.recovers_meanwhile else "without"
        return (
            f"{writers} writers, {readers} readers, {budget} faults, {other} another proxy's recovery: "
            f"{self.states} states, {len(self._crashed)} different crashes, {self.ends} ends"
        )

    def _watched(self, plan: Plan) -> CommitMachine:
        transitions = self.transitions

        class Watched(self.machine_class):  # type: ignore[name-defined, misc]
            def handle(self, event: object) -> list[object]:
                before, stale = self.state, self._is_stale(event)
                commands: list[object] = super().handle(event)
                if not stale:
                    transitions.add((before, type(event), self.state))
                return commands

        return Watched(plan)

    def _walk(self, world: World) -> None:
        seen: set[tuple[object, ...]] = set()
        stack = [world]
        while stack and len(self.broken) < self.enough:
            world = stack.pop()
            key = world.key()
            if key in seen:
                continue
            seen.add(key)
            self.states += 1
            self._crash(world)
            successors = [*world.successors(), *self._recover_meanwhile(world), *self._purge(world)]
            if world.is_over:
                self._ended(world)
            elif not successors:
                self.broken.append(f"stuck in {world.machine.state.value}: {' | '.join(world.trace)}")
            stack += successors

    def _recover_meanwhile(self, world: World) -> list[World]:
        """Let the other proxy's recovery begin, or do one more step."""
        if not self.recovers_meanwhile:
            return []
        answers = NOTHING_ANSWERED if world.recovery is None else world.recovery
        asks = self._recoverer.next(answers, self._runner)
        begun = world if world.recovery is not None else world.fork("recovery begins")
        begun.recovery = answers
        found = []
        for ask in sorted(asks):
            if ask.kind == "list" and world.shards[ask.shard].role == READER:
                # There is never anything, so its moment makes no difference.
                world = begun.fork("")
                world.recovery = answers | {(ask, None)}
                return [world]
            found += list(begun.answers(ask))
        return found

    def _purge(self, world: World) -> list[World]:
        """Drop a record, as purge() may (or must not)."""
        point = world.shards[0]
        if not self.purges or point.decision is None:
            return []
        finished = not any(shard.prepared for shard in world.shards)
        if point.decision == "commit":
            drops = self.drops_commit_records and finished
        else:
            drops = self.drops_abort_records_early or not point.may_still_decide
        if not drops:
            return []
        purged = world.fork(f"{point.decision} record purged")
        purged.shards[0].decision = None
        return [purged]

    # --- ends -------------------------------------------------------------------------------------------------

    def _ended(self, world: World) -> None:
        """The commit has had its say: recovery clears up what is left, also the one that was stopped half-way."""
        self.ends += 1
        if world.told is None:
            self.broken.append(f"nobody was told: {' | '.join(world.trace)}")
            return
        self.results.add(world.told.result)
        shards = [copy.copy(shard) for shard in world.shards]
        for shard in shards:
            shard.lose_session()
        self._check(world, self._recover(shards, NOTHING_ANSWERED), "at the end")

    def _crash(self, world: World) -> None:
        """The proxy dies here. Messages under way are read, each or not; recovery may come before that or after."""
        self.crashes += 1
        messages = world.sends + world.late
        told = world.told.result if world.told else None
        key = (
            tuple(shard.key() for shard in world.shards),
            told,
            world.told_too_early,
            world.recovery,
            *((send.shard, send.step) for send in messages),
        )
        if key in self._crashed:
            return
        self._crashed.add(key)
        for pattern in range(1 << len(messages)):
            for recovery_first in (False, True):
                shards = [copy.copy(shard) for shard in world.shards]
                if recovery_first:
                    shards = self._recover(shards, NOTHING_ANSWERED)
                for index, message in enumerate(messages):
                    if pattern >> index & 1 and shards[message.shard].status is not None:
                        shards[message.shard].run(message.step, "ok")
                for shard in shards:
                    shard.lose_session()
                shards = self._recover(shards, NOTHING_ANSWERED)
                when = f"after a crash ({pattern:b}, {recovery_first})"
                self._check(world, shards, when)
                if world.recovery:
                    shards = self._recover(self._recover(shards, world.recovery), NOTHING_ANSWERED)
                    self._check(world, shards, f"{when}, and a recovery that woke up late")

    def _recover(self, shards: list[FakeShard], answers: Answers) -> list[FakeShard]:
        """Let one recovery go on to its end, with nothing between its statements."""
        key = (tuple(shard.key() for shard in shards), answers)
        result = self._recovered.get(key)
        if result is None:
            result = [copy.copy(shard) for shard in shards]
            run_to_end(self._recoverer, answers, self._runner, lambda ask: result[ask.shard].answer(ask))
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
        elif world.told_too_early:
            problem = "told COMMIT before all could see it"
        if problem:
            self.broken.append(f"{problem} {when}: {' | '.join(world.trace)}")
