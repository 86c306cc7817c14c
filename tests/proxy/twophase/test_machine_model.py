"""Every prefix of every sequence, crash there, recover: all or nothing, and the client was told the truth."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from proxy.twophase.events import Answered, Failed, Result, Step, Tell, TimedOut
from proxy.twophase.machine import TRANSITIONS, CommitMachine, MachineError, State
from proxy.twophase.pending import Decision, read_decisions
from proxy.twophase.recovery import Recovery
from twophase_model import Explorer, FakeShard

if TYPE_CHECKING:
    from proxy.twophase.events import Command, Event
    from proxy.twophase.gid import GlobalId
    from proxy.twophase.participant import ControlConnection
    from proxy.twophase.pending import Pending
    from proxy.twophase.recovery import Report
    from proxy.wire.fields import ErrorFields


@pytest.mark.parametrize(("writers", "readers", "budget"), [(2, 0, 3), (2, 1, 2), (3, 0, 2), (3, 1, 1), (4, 0, 1)])
def test_all_or_nothing_whatever_happens(writers: int, readers: int, budget: int) -> None:
    explorer = Explorer(recovers_meanwhile=writers < 4)
    explorer.explore(writers, readers, budget)
    assert not explorer.broken
    expected = {Result.COMMITTED, Result.ABORTED}
    assert explorer.results == (expected | {Result.UNKNOWN} if budget > 1 else expected)
    assert explorer.crashes == explorer.states > 100


class ForgetfulShard(FakeShard):
    """Commits the commit point without a decision record."""

    def run(self, step: Step, behaviour: str) -> Answered | ErrorFields:
        before = self.decision
        answer = FakeShard.run(self, step, behaviour)
        self.decision = before
        return answer


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


class RecoversWithoutAsking(Recovery):
    """Rolls back what has no record, without writing the abort record first."""

    async def _decisions(
        self, connection: ControlConnection, pending: list[Pending], report: Report
    ) -> dict[GlobalId, Decision]:
        decisions = await read_decisions(connection, {one.gid for one in pending})
        assert report is not None
        return {one.gid: decisions.get(one.gid, Decision(committed=False, xids={})) for one in pending}


@pytest.mark.parametrize(
    ("mutant", "promise"),
    [
        ({"shard_class": ForgetfulShard}, "torn"),
        ({"machine_class": AnswersTooEarly}, "told COMMIT"),
        ({"machine_class": BelievesSilence}, "torn"),
        ({"machine_class": GuessesAfterALostDecision}, "torn"),
        ({"recovery_class": RecoversWithoutAsking}, "torn"),
    ],
    ids=lambda value: next(iter(value.values())).__name__ if isinstance(value, dict) else value,
)
def test_the_model_sees_what_is_wrong(mutant: dict[str, Any], promise: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for event in (Answered, Failed, TimedOut):  # the table would catch one of them sooner, see below
        monkeypatch.setitem(TRANSITIONS, (State.DECIDING, event), frozenset(State))
    explorer = Explorer(**mutant)
    explorer.explore(2, 0, 1)
    assert any(broken.startswith(promise) for broken in explorer.broken), explorer.broken


def test_the_table_of_transitions_catches_a_shortcut() -> None:
    with pytest.raises(MachineError, match="led to undoing"):
        Explorer(machine_class=GuessesAfterALostDecision).explore(2, 0, 1)
