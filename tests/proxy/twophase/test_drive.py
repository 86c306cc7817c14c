"""A commit driven by callbacks, over links that answer when the test says so: no server, no task for a message."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, cast

import pytest

from proxy.shards.errors import ShardError
from proxy.shards.receivers import Answer
from proxy.twophase.coordinator import Coordinator
from proxy.twophase.events import Limits, Result
from proxy.twophase.points import Point
from proxy.wire.fields import ErrorFields

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.twophase.events import Outcome

T, I = ord("T"), ord("I")  # noqa: E741 - as the protocol writes it
NAMES = ("s0", "s1", "s2")
LOST = ErrorFields.make("ERROR", "08006", "connection lost")


class FakeLink:
    """A link on which a transaction is open; ``asked`` are messages that are not answered yet."""

    def __init__(self, shard: int) -> None:
        self.shard = shard
        self.name = NAMES[shard]
        self.pid = shard
        self.status = T
        self.closed = False
        self.asked: list[tuple[str, Callable[[Answer | Exception], None]]] = []
        self.refuses: Exception | None = None

    def post(self, sql: str, told: Callable[[Answer | Exception], None]) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.asked.append((sql, told))

    async def run(self, sql: str) -> Answer:
        raise AssertionError(sql)  # nothing here may need a task

    def abort(self) -> None:
        """Whoever waits hears of it at once, within this call, as on a real link."""
        self.closed = True
        waiting, self.asked = self.asked, []
        for _, told in waiting:
            told(ShardError(LOST, self.shard, lost=True))

    def answer(self, *tags: bytes, status: int = I) -> None:
        """Answer what is asked, with an xid where one is wanted."""
        ((sql, told),) = self.asked
        self.asked = []
        self.status = status
        rows = [[b"7", b"on", b"on"]] if "pg_current_xact_id" in sql else []
        told(Answer(tags, cast("Any", rows), (), (), status))


class Scene:
    """Three writers, the first of which is the commit point."""

    def __init__(self) -> None:
        self.left: list[frozenset[int]] = []
        self.passed: list[Point] = []
        self.coordinator = Coordinator(
            cast("Any", None),
            cluster="test",
            names=NAMES,
            leave=self.left.append,
            random_bits=lambda bits: 0 if bits == 16 else 4711,
            checkpoint=self.at,
        )
        self.coordinator._keys[0] = b"k"
        self.links = {shard: FakeLink(shard) for shard in range(3)}
        self.writers = {0, 1, 2}
        self.told: list[Outcome | None] = []
        self.bug: Point | None = None

    def at(self, point: Point) -> None:
        self.passed.append(point)
        if point is self.bug:
            raise ZeroDivisionError

    def begin(self) -> None:
        assert self.coordinator.commit_at_once(self.links, {0, 1, 2}, self.told.append)

    def prepare(self) -> None:
        self.begin()
        for shard in (1, 2):
            self.links[shard].answer(b"SELECT 1", b"SET CONSTRAINTS", b"SELECT 1", b"PREPARE TRANSACTION")
        self.links[0].answer(b"SET", b"SET", b"SELECT 1", b"SET CONSTRAINTS", b"SELECT 1", status=T)

    @property
    def asked(self) -> list[int]:
        """The shards that have something to answer."""
        return [shard for shard, link in self.links.items() if link.asked]


async def test_every_round_goes_out_in_the_turn_that_brought_the_one_before() -> None:
    scene = Scene()
    tasks = len(asyncio.all_tasks())
    scene.prepare()
    assert scene.asked == [0]
    assert "pgchorus.decide" in scene.links[0].asked[0][0]
    scene.links[0].answer(b"SELECT 1", b"COMMIT")
    assert scene.asked == [1, 2]
    (decided,) = scene.coordinator.under_way_on(1)[1]
    for shard in (1, 2):
        assert scene.told == []
        scene.links[shard].answer(b"COMMIT PREPARED")
    assert [outcome and outcome.result for outcome in scene.told] == [Result.COMMITTED]
    assert len(asyncio.all_tasks()) == tasks
    assert scene.coordinator.under_way_on(1) == ([], [])
    assert decided.result() is scene.told[0]
    await scene.coordinator.drain()


async def test_a_link_that_closes_within_a_command_is_heard_after_it() -> None:
    """Time is up in step 1: the machine closes two links in one answer, and each is heard while the other is closed."""
    scene = Scene()
    scene.begin()
    scene.links[1].answer(b"SELECT 1", b"SET CONSTRAINTS", b"SELECT 1", b"PREPARE TRANSACTION")
    scene.links[2].abort()  # a loss: the others have a little time
    assert scene.asked == [0]
    scene.links[0].abort()
    assert scene.asked == [1]
    assert scene.links[1].asked[0][0].startswith("ROLLBACK PREPARED")
    scene.links[1].answer(b"ROLLBACK PREPARED")
    (outcome,) = scene.told
    assert outcome is not None
    assert (outcome.result, outcome.tainted) == (Result.ABORTED, {1})


async def test_whoever_was_told_may_have_a_bug() -> None:
    scene = Scene()

    def fail(_outcome: Outcome | None) -> None:
        raise ZeroDivisionError

    assert scene.coordinator.commit_at_once(scene.links, {0, 1, 2}, fail)
    for link in scene.links.values():
        link.answer(b"ROLLBACK")
    assert not any(link.closed for link in scene.links.values())
    await asyncio.wait_for(scene.coordinator.drain(), 5)


@pytest.mark.parametrize("point", [Point.BEFORE_PREPARE, Point.AFTER_READY, Point.BEFORE_DECIDE, Point.AFTER_APPLY])
async def test_a_bug_leaves_no_link_to_anybody_and_the_rest_to_recovery(
    point: Point, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene()
    scene.bug = point
    if point is Point.BEFORE_PREPARE:
        scene.begin()
    else:
        scene.prepare()
    if point is Point.AFTER_APPLY:
        scene.links[0].answer(b"SELECT 1", b"COMMIT")
        scene.links[1].answer(b"COMMIT PREPARED")
    assert scene.told == [None]
    assert all(link.closed for link in scene.links.values())
    assert scene.left == [frozenset({0, 1, 2})]
    assert "ZeroDivisionError" in caplog.text
    await asyncio.wait_for(scene.coordinator.drain(), 5)


async def test_a_link_that_takes_no_message_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene()
    scene.links[0].refuses = RuntimeError("an exchange is under way already")
    scene.begin()
    assert scene.asked == [1, 2]
    await asyncio.sleep(0)  # it is heard in the next turn, as on a link that is closed
    assert scene.links[0].closed
    for shard in (1, 2):
        scene.links[shard].answer(b"SELECT 1", b"SET CONSTRAINTS", b"SELECT 1", b"PREPARE TRANSACTION")
    for shard in (1, 2):
        scene.links[shard].answer(b"ROLLBACK PREPARED")
    (outcome,) = scene.told
    assert outcome is not None
    assert outcome.error is not None
    assert (outcome.result, outcome.error.sqlstate) == (Result.ABORTED, "XX000")
    assert "an exchange is under way already" in caplog.text


DEADLOCK = ErrorFields.make("ERROR", "40P01", "deadlock detected")


async def test_a_commit_in_step_1_can_be_told_to_give_way() -> None:
    scene = Scene()
    scene.begin()
    scene.links[1].answer(b"SELECT 1", b"SET CONSTRAINTS", b"SELECT 1", b"PREPARE TRANSACTION")
    scene.links[0].answer(b"SET", b"SET", b"SELECT 1", b"SET CONSTRAINTS", b"SELECT 1", status=T)
    assert not scene.coordinator.give_way(4712, DEADLOCK), "nobody of that name commits"
    assert scene.coordinator.give_way(4711, DEADLOCK)
    assert scene.links[2].closed, "it waits there"
    assert scene.asked == [0, 1]
    assert scene.links[0].asked[0][0] == "ROLLBACK"
    assert scene.links[1].asked[0][0].startswith("ROLLBACK PREPARED")
    assert not scene.coordinator.give_way(4711, DEADLOCK), "it does already"
    scene.links[0].answer(b"ROLLBACK")
    scene.links[1].answer(b"ROLLBACK PREPARED")
    (outcome,) = scene.told
    assert outcome is not None
    assert (outcome.result, outcome.error) == (Result.ABORTED, DEADLOCK)


async def test_a_commit_that_may_be_decided_does_not_give_way() -> None:
    scene = Scene()
    scene.prepare()
    assert not scene.coordinator.give_way(4711, DEADLOCK)
    scene.links[0].answer(b"SELECT 1", b"COMMIT")
    assert not scene.coordinator.give_way(4711, DEADLOCK)
    for shard in (1, 2):
        scene.links[shard].answer(b"COMMIT PREPARED")
    assert [outcome and outcome.result for outcome in scene.told] == [Result.COMMITTED]
    assert not scene.coordinator.give_way(4711, DEADLOCK)


async def test_a_draft_is_the_commit_if_it_is_still_that_of_the_transaction() -> None:
    scene = Scene()
    draft = scene.coordinator.draft(scene.links, {0, 1, 2}, random=4711)
    assert draft is not None
    assert (scene.asked, scene.passed) == ([], [])
    assert scene.coordinator.under_way_on(1) == ([], []), "nobody hears of it"
    await scene.coordinator.drain()
    assert scene.coordinator.commit_at_once(scene.links, {0, 1, 2}, scene.told.append, random=4711, draft=draft)
    assert scene.coordinator.is_ours(str(draft.plan.gid))
    assert scene.asked == [0, 1, 2]
    assert scene.links[1].asked[0][0].endswith(f"'{draft.plan.gid.at('s1')}'")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda scene: setattr(scene.coordinator, "epoch", 7), id="epoch"),
        pytest.param(lambda scene: scene.coordinator._keys.update({0: b"other"}), id="key"),
        pytest.param(lambda scene: setattr(scene.coordinator, "limits", Limits(prepare_timeout_s=1)), id="limits"),
        pytest.param(lambda scene: scene.coordinator.add("s3"), id="shards"),
        pytest.param(lambda scene: setattr(scene.coordinator, "checkpoint", scene.passed.append), id="checkpoint"),
        pytest.param(lambda scene: setattr(scene, "links", dict(scene.links)), id="links"),
        pytest.param(lambda scene: scene.links.update({3: FakeLink(1)}), id="reader"),
        pytest.param(lambda scene: setattr(scene, "writers", {0, 1}), id="writers"),
        pytest.param(
            lambda scene: setattr(scene.coordinator, "_clock_ms", lambda: time.time_ns() // 1_000_000 + 1100), id="age"
        ),
        pytest.param(
            lambda scene: setattr(scene.coordinator, "_clock_ms", lambda: time.time_ns() // 1_000_000 - 1100),
            id="clock set back",
        ),
    ],
)
async def test_a_draft_of_something_else_is_not_begun(change: Callable[[Scene], None]) -> None:
    scene = Scene()
    draft = scene.coordinator.draft(scene.links, scene.writers, random=4711)
    assert draft is not None
    change(scene)
    assert scene.coordinator.commit_at_once(scene.links, scene.writers, scene.told.append, random=4712, draft=draft)
    assert not scene.coordinator.is_ours(str(draft.plan.gid))
    assert scene.asked == sorted(scene.writers)


async def test_a_draft_sees_its_links_as_they_are_when_it_begins() -> None:
    scene = Scene()
    draft = scene.coordinator.draft(scene.links, {0, 1, 2})
    scene.links[2].status = ord("E")
    assert scene.coordinator.commit_at_once(scene.links, {0, 1, 2}, scene.told.append, draft=draft)
    assert [link.asked[0][0] for link in scene.links.values()] == ["ROLLBACK"] * 3


async def test_what_is_not_simple_is_left_alone() -> None:
    scene = Scene()
    assert not scene.coordinator.commit_at_once(scene.links, {0}, scene.told.append)
    del scene.coordinator._keys[0]  # it would have to be asked for
    assert not scene.coordinator.commit_at_once(scene.links, {0, 1}, scene.told.append)
    assert scene.asked == []
    assert scene.passed == []


async def test_messages_go_out_before_the_timers_and_the_answer_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A timer takes its time, and shards can begin meanwhile; behind the last answer nothing is to be waited for."""
    scene = Scene()
    asked_at_timers: list[list[int]] = []
    loop = asyncio.get_running_loop()
    call_later = loop.call_later

    def noted(*args: Any) -> asyncio.TimerHandle:
        asked_at_timers.append(scene.asked)
        return call_later(*args)

    monkeypatch.setattr(loop, "call_later", noted)
    scene.prepare()
    scene.links[0].answer(b"SELECT 1", b"COMMIT")
    assert asked_at_timers == [[0, 1, 2], [0], [1, 2]]
    for shard in (1, 2):
        scene.links[shard].answer(b"COMMIT PREPARED")
    assert [outcome and outcome.result for outcome in scene.told] == [Result.COMMITTED]
    assert len(asked_at_timers) == 3


async def test_a_commit_without_readers_is_given_up_in_step_3_as_one_with_them() -> None:
    """The limit on step 3 holds, and none on what comes after it is left behind."""
    scene = Scene()
    scene.coordinator.limits = Limits(apply_timeout_s=0.01)
    scene.prepare()
    scene.links[0].answer(b"SELECT 1", b"COMMIT")
    scene.links[1].answer(b"COMMIT PREPARED")
    (decided,) = scene.coordinator.under_way_on(2)[1]
    outcome = await asyncio.wait_for(decided, 5)
    assert (outcome.result, len(outcome.notices)) == (Result.COMMITTED, 1)
    assert scene.links[2].closed
    await asyncio.wait_for(scene.coordinator.drain(), 5)
