"""The real recovery, one statement at a time: what a second proxy may have done at any moment of another's commit.

A recovery that runs cannot be copied, so it is replayed: what it has been told so far (an answer for each of its
statements) makes it stop where it waits for the next ones. These are what may happen next; whoever explores answers one
of them and goes on. Equal answers are replayed once.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from proxy.twophase import record
from proxy.twophase.recovery import Recovery, RecoveryLimits
from proxy.wire.fields import ErrorFields

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from proxy.twophase.gid import GlobalId

LOST = "lost"  # the answer of a statement whose connection broke
ABSENT = "absent"  # COMMIT PREPARED or ROLLBACK PREPARED of what is not there


class FakeError(Exception):
    """What the border of the shards raises."""

    raw: bytes | None = None
    completed = b""

    def __init__(self, sqlstate: str, *, lost: bool = False) -> None:
        super().__init__(sqlstate)
        self.fields = ErrorFields.make("ERROR", sqlstate, "an error of the model")
        self.lost = lost


@dataclass(frozen=True, slots=True, order=True)
class Ask:
    """One statement of a recovery: the ``serial``-th of its kind on this shard."""

    shard: int
    kind: str
    serial: int


Answers = frozenset[tuple[Ask, object]]
NOTHING_ANSWERED: Answers = frozenset()


@dataclass(slots=True)
class Recoverer:
    """Replays one class of recovery for one transaction over shards s0, s1, ...; s0 is the commit point."""

    gid: GlobalId
    shards: int
    recovery_class: type[Recovery] = Recovery
    replays: int = 0
    alarms: set[str] = field(default_factory=set)  # what it has for a person
    _known: dict[Answers, frozenset[Ask]] = field(default_factory=dict)

    def next(self, answers: Answers, runner: asyncio.Runner) -> frozenset[Ask]:
        """Return the statements whose answers it waits for; none when it has ended."""
        found = self._known.get(answers)
        if found is None:
            self.replays += 1
            found = self._known[answers] = runner.run(self._replay(dict(answers)))
        return found

    async def _replay(self, answers: dict[Ask, object]) -> frozenset[Ask]:
        control = _Control(self.gid, self.shards, answers)
        recovery = self.recovery_class(
            control,
            cluster=self.gid.cluster,
            names=[f"s{shard}" for shard in range(self.shards)],
            limits=RecoveryLimits(finish_timeout_s=0.0),
        )
        task = asyncio.create_task(recovery.run_once())
        loop: Any = asyncio.get_running_loop()
        await asyncio.sleep(0)
        while loop._ready:  # noqa: ASYNC110 - until nothing can run any more
            await asyncio.sleep(0)
        if task.done():
            self.alarms |= set(task.result().problems.values())
        else:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return frozenset(control.asked)


class _Control:
    def __init__(self, gid: GlobalId, shards: int, answers: dict[Ask, object]) -> None:
        self.gid = gid
        self.shards = shards
        self.answers = answers
        self.asked: set[Ask] = set()
        self.counts: dict[tuple[int, str], int] = {}

    @asynccontextmanager
    async def connection(self, shard: int) -> AsyncIterator[_Connection]:
        yield _Connection(self, shard)

    async def ask(self, shard: int, kind: str) -> Any:
        serial = self.counts[shard, kind] = self.counts.get((shard, kind), 0) + 1
        ask = Ask(shard, kind, serial)
        if ask not in self.answers:
            self.asked.add(ask)
            await asyncio.get_running_loop().create_future()  # until this replay is over
        answer = self.answers[ask]
        if answer == LOST:
            raise FakeError("08006", lost=True)
        if answer == ABSENT:
            raise FakeError("42704")
        return answer


class _Connection:
    def __init__(self, control: _Control, shard: int) -> None:
        self._control = control
        self._shard = shard

    async def fetch(self, sql: str, *_args: object) -> list[dict[str, Any]]:
        control = self._control
        if sql == record.LIST_PREPARED:
            xid = await control.ask(self._shard, "list")
            name = control.gid.at(f"s{self._shard}")
            row = {"gid": name, "owner": "app", "xid": str(xid), "age": 1e6, "may_finish": True}
            return [row] if xid else []
        if sql == record.LIVE_DECIDERS:
            return []  # the most impatient recovery that there can be
        assert sql == record.READ_DECISIONS
        outcome = await control.ask(self._shard, "read")
        if outcome is None:
            return []
        commit = outcome == "commit"
        numbers = range(1, control.shards) if commit else range(0)
        participants, xids = [f"s{number}" for number in numbers], [str(100 + number) for number in numbers]
        return [{"gid": str(control.gid), "outcome": outcome, "participants": participants, "xids": xids}]

    async def fetchval(self, sql: str, *_args: object) -> object:
        if sql == record.CONFIRM_DURABLE:
            return None
        kinds = {record.ABANDON: "abandon", record.XACT_STATUS: "status"}
        return await self._control.ask(self._shard, kinds[sql])

    async def execute(self, sql: str) -> str:
        verb = sql.partition(" '")[0]
        return str(await self._control.ask(self._shard, verb))

    async def execute_as(self, _role: str, sql: str) -> str:
        return await self.execute(sql)


def run_to_end(
    recoverer: Recoverer, answers: Answers, runner: asyncio.Runner, answer: Callable[[Ask], object]
) -> Answers:
    """Let a recovery that has got so far go on to its end, in an order of its own."""
    while asks := recoverer.next(answers, runner):
        ask = min(asks)
        answers |= {(ask, answer(ask))}
    return answers
