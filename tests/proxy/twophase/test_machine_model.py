"""Every order of everything, crash anywhere, recover: all or nothing, and the client was told the truth.

The depths here are for every day; ``make model`` goes deeper (tests/faults/model.py).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from proxy.twophase.events import Answered, Failed, Finish, Finished, Result, Settled, Step, Tell, TimedOut
from proxy.twophase.machine import TRANSITIONS, CommitMachine, MachineError, State
from proxy.twophase.pending import Decision, read_decisions
from proxy.twophase.recovery import Recovery
from twophase_explorer import Explorer
from twophase_model import World
from twophase_shard import FakeShard

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.twophase.events import Command, Event
    from proxy.twophase.gid import GlobalId
    from proxy.twophase.participant import ControlConnection
    from proxy.twophase.pending import Pending
    from proxy.twophase.recovery import Report
    from proxy.wire.fields import ErrorFields


@pytest.mark.parametrize(
    ("writers", "readers", "faults", "recovers_meanwhile"),
    [
        (2, 0, 2, True),
        (2, 1, 1, True),
        (3, 0, 0, True),
        (3, 0, 2, False),
        (3, 1, 1, False),
        (4, 0, 1, False),
    ],
)
def test_all_or_nothing_whatever_happens(writers: int, readers: int, faults: int, *, recovers_meanwhile: bool) -> None:
    explorer = Explorer(recovers_meanwhile=recovers_meanwhile)
    explorer.explore(writers, readers, faults)
    print(explorer.report(writers, readers, faults))  # noqa: T201 - figures for whoever looks
    assert not explorer.broken
    expected = {Result.COMMITTED, Result.ABORTED}
    assert explorer.results == (expected | {Result.UNKNOWN} if faults > 1 else expected)
    assert explorer.crashes == explorer.states > 500


class ForgetfulShard(FakeShard):
    """Commits the commit point without a decision record."""

    def run(self, step: Step, behaviour: str) -> Answered | ErrorFields:
        before = self.decision
        answer = FakeShard.run(self, step, behaviour)
        self.decision = before
        return answer


class DecidesOverAnAbort(FakeShard):
    """Lets a decision through although an abort record stands there."""

    def refuse_to_decide(self) -> ErrorFields | None:
        self.decision = None
        return FakeShard.refuse_to_decide(self)


class DecidesOutsideItsTransaction(FakeShard):
    """Lets a decision through although the transaction that it is for has ended."""

    def refuse_to_decide(self) -> ErrorFields | None:
        return None


class AnswersTooEarly(CommitMachine):
    """Tells the client COMMIT when all are prepared, before the decision."""

    def _decide(self) -> list[Command]:
        return [self._tell(Result.COMMITTED), *super()._decide()]

    def handle(self, event: Event) -> list[Command]:
        told = self._told
        self._told = False
        commands = super().handle(event)
        self._told = self._told or told
        return [command for command in commands if not (told and isinstance(command, Tell))]


class AnswersAfterTheDecision(AnswersTooEarly):
    """Tells the client COMMIT when it is decided, before the participants show it."""

    def _decide(self) -> list[Command]:
        return CommitMachine._decide(self)

    def _apply(self) -> list[Command]:
        return [self._tell(Result.COMMITTED), *super()._apply()]


class AppliesTooEarly(CommitMachine):
    """Commits the participants while the decision is still on its way."""

    def _decide(self) -> list[Command]:
        early = [Finish(shard, self._prepared[shard], commit=True, timeout_s=0.0) for shard in self.plan.participants]
        return [*super()._decide(), *early]

    def _is_stale(self, event: Event) -> bool:
        return super()._is_stale(event) or (isinstance(event, Finished) and self.state is State.DECIDING)


class BelievesSilence(CommitMachine):
    """Takes any answer to PREPARE without an error for success."""

    def _take_vote(self, event: Answered) -> None:
        tags = (b"PREPARE TRANSACTION",) if event.step is Step.PREPARE else event.tags
        super()._take_vote(replace(event, tags=tags))


class GuessesAfterALostDecision(CommitMachine):
    """Takes a link that was lost in step 2 for a transaction that was not committed."""

    def _settle(self) -> list[Command]:
        self._fail(self._own_failure(self.plan.commit_point, "08006", "lost"))
        return self._undo()


class HopesAfterALostDecision(CommitMachine):
    """Takes a link that was lost in step 2 for a transaction that was committed."""

    def _settle(self) -> list[Command]:
        return self._apply()


class SettlesByReading(World):
    """Reads the record after a lost link, and takes none for an abort."""

    def _control(self) -> Iterator[World]:
        if self.settle is not None:
            world = self.fork("settle by reading")
            world.settle = None
            yield world.give(Settled(world.shards[0].decision == "commit"))


class RecoversWithoutAsking(Recovery):
    """Rolls back what has no record, without writing the abort record first."""

    async def _decisions(
        self, connection: ControlConnection, pending: list[Pending], report: Report
    ) -> dict[GlobalId, Decision]:
        decisions = await read_decisions(connection, {one.gid for one in pending})
        assert report is not None
        return {one.gid: decisions.get(one.gid, Decision(committed=False, xids={})) for one in pending}


class RecoversByItsOwnOffer(Recovery):
    """Takes its abort record for the outcome, and does not look at what stands there."""

    async def _decisions(
        self, connection: ControlConnection, pending: list[Pending], report: Report
    ) -> dict[GlobalId, Decision]:
        decisions = await read_decisions(connection, {one.gid for one in pending})
        for one in pending:
            if one.gid not in decisions:
                await self._abandon(connection, one.gid, report)
                decisions[one.gid] = Decision(committed=False, xids={})
        return decisions


class WaitsForEver(Recovery):
    """Leaves alone what has no record."""

    async def _abandon(self, *_: object) -> str | None:
        return None


MUTANTS: list[tuple[dict[str, Any], str]] = [
    ({"shard_class": ForgetfulShard}, "torn"),
    ({"shard_class": DecidesOverAnAbort}, "torn"),
    ({"shard_class": DecidesOutsideItsTransaction}, "torn"),
    ({"machine_class": AnswersTooEarly}, "told COMMIT"),
    ({"machine_class": AnswersAfterTheDecision}, "told COMMIT before all could see it"),
    ({"machine_class": AppliesTooEarly}, "torn"),
    ({"machine_class": BelievesSilence}, "torn"),
    ({"machine_class": GuessesAfterALostDecision}, "torn"),
    ({"machine_class": HopesAfterALostDecision}, "torn"),
    ({"world_class": SettlesByReading}, "torn"),
    ({"recovery_class": RecoversWithoutAsking}, "torn"),
    ({"recovery_class": RecoversByItsOwnOffer}, "torn"),
    ({"recovery_class": WaitsForEver}, "something is left prepared"),
    ({"drops_commit_records": True}, "told ROLLBACK"),
    ({"drops_abort_records_early": True}, "torn"),
]


@pytest.mark.parametrize(
    ("mutant", "promise"),
    MUTANTS,
    ids=lambda value: (
        next((getattr(v, "__name__", k) for k, v in value.items()), "") if isinstance(value, dict) else ""
    ),
)
def test_the_model_sees_what_is_wrong(mutant: dict[str, Any], promise: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for event in (Answered, Failed, TimedOut):  # the table would catch one of them sooner, see below
        monkeypatch.setitem(TRANSITIONS, (State.DECIDING, event), frozenset(State))
    explorer = Explorer(**mutant, enough=60)
    explorer.explore(2, 0, 1)
    assert any(broken.startswith(promise) for broken in explorer.broken), explorer.broken[:3]


def test_the_table_of_transitions_catches_a_shortcut() -> None:
    with pytest.raises(MachineError, match="led to undoing"):
        Explorer(machine_class=GuessesAfterALostDecision).explore(2, 0, 1)
