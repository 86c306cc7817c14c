"""COMMIT on the fast lane, without a task.

A block that has used one shard ends there, in one round trip. What is sent is what the coordinator sends for a
transaction with at most one writer. The answer that is expected, and nothing else, is handled here; any other becomes
the outcome of the regular commit, which is told that its COMMIT has been answered already (``Answered``) and decides
what that means.

A block that has written on several shards is the coordinator's from the callback that brought COMMIT to the one that
brings the outcome. That it is committed, and nothing else, is handled here.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from proxy.session.lane_block import commit_together, committed_at_once, may_commit_at_once
from proxy.session.outcome import RolledBack
from proxy.session.telling import CLIENT_ERRORS
from proxy.shards.errors import ShardError
from proxy.shards.receivers import Collector
from proxy.tasks import spawn
from proxy.transaction import Block
from proxy.twophase.events import Result
from proxy.twophase.points import Point
from proxy.wire import backend
from proxy.wire.fields import ErrorFields
from proxy.wire.frontend import Query

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine

    from proxy.session.session import Session
    from proxy.shards.link import ShardLink
    from proxy.shards.receiver import Chunk
    from proxy.shards.receivers import Answer
    from proxy.twophase.coordinator import Outcome
    from router.plan import Statement

COMMIT: Final = Query(b"COMMIT").encode()
BUG: Final = ErrorFields.make("FATAL", "XX000", "internal error of the proxy; its log has the details")
COMMITTED: Final = backend.command_complete(b"COMMIT") + backend.ready_for_query(b"I")


class Lane(Protocol):
    """What a commit needs of the lane (proxy.session.lane)."""

    armed: bool
    busy: bool
    left: bool  # the session has ended

    def rest(self) -> None:
        """The statement is over, and answered."""

    def finish(self) -> None:
        """The statement is over; the client gets its ReadyForQuery."""

    def counted(self, seconds: float) -> None:
        """Count it, which took so long."""


class CommitAnswer(Collector):
    """Receiver of a COMMIT's answer: calls ``done_well`` for the plain one; of any other ``done`` tells."""

    __slots__ = ("_done_well",)

    def __init__(self, link: ShardLink, done_well: Callable[[], None]) -> None:
        super().__init__(link, rejects_copy=True)
        self._done_well = done_well

    def whole(self, data: Chunk, /) -> bool:
        """Take the plain answer."""
        if data != COMMITTED:
            return False
        self._done_well()
        return True


class Answered:
    """A link whose COMMIT has been sent and answered, for a commit that is about to send it (a Participant)."""

    def __init__(self, link: ShardLink, outcome: Answer | ShardError) -> None:
        self._link = link
        self._outcome: Answer | ShardError | None = outcome

    @property
    def shard(self) -> int:
        """The shard's index."""
        return self._link.shard

    @property
    def name(self) -> str:
        """The shard's name."""
        return self._link.name

    @property
    def status(self) -> int:
        """The byte of the last ReadyForQuery."""
        return self._link.status

    @property
    def pid(self) -> int:
        """The backend's process id."""
        return self._link.pid

    @property
    def closed(self) -> bool:
        """Whether the link is gone; it was there when COMMIT was sent, so nobody may conclude that it was not."""
        return self._outcome is None and self._link.closed

    def post(self, sql: str, told: Callable[[Any], None]) -> None:
        """Run what is not that COMMIT."""
        self._link.post(sql, told)

    async def run(self, sql: str) -> Answer:
        """Return what COMMIT was answered, or raise it; whatever follows is run."""
        outcome, self._outcome = self._outcome, None
        if outcome is None:
            return await self._link.run(sql)
        if isinstance(outcome, ShardError):
            raise outcome
        return outcome

    def abort(self) -> None:
        """Close the socket."""
        self._link.abort()


class LaneCommit:
    """Ends the blocks of one lane."""

    def __init__(self, lane: Lane, session: Session) -> None:
        self._lane = lane
        self._session = session

    def begin(self, statement: Statement, answers: bytes) -> bool:
        """COMMIT of a block that needs nothing out of the ordinary; False: nothing has happened."""
        session, transaction = self._session, self._session.transaction
        if transaction.block is not Block.EXPLICIT or not session.ends_simply or not may_commit_at_once(transaction):
            return False
        lane = self._lane
        session.in_query = lane.busy = transaction.committing = True  # from here on nothing stops it
        lane.armed = transaction.cancel_requested = False
        transaction.command = statement.tag
        if len(transaction.links) == 1:
            self._commit_one(answers)
        elif not self._commit_several(answers):
            session.in_query = lane.busy = transaction.committing = False
            return False
        return True

    # --- one shard --------------------------------------------------------------------------------------------

    def _commit_one(self, answers: bytes) -> None:
        transaction = self._session.transaction
        (link,) = transaction.links.values()
        answer = CommitAnswer(link, partial(self._committed, link, answers))
        answer.done.add_done_callback(partial(self._answered, answer, link, answers))
        if transaction.writers:
            self._session.database.coordinator.checkpoint(Point.PLAINLY)
        link.ask(COMMIT, answer)

    def _committed(self, link: ShardLink, answers: bytes) -> None:
        """COMMIT was answered plainly, as almost always."""
        transaction = self._session.transaction
        writers = len(transaction.writers)
        if writers:
            self._session.database.coordinator.checkpoint(Point.PLAINLY_DONE)
        took = link.took
        self._answer(answers)
        committed_at_once(transaction)
        self._done(writers, took)

    def _answer(self, answers: bytes) -> None:
        """Tell the client that it is committed, before anything else: it waits for nothing that is done here.

        Nor can it see that it is done later: what it sends next is read when this callback is over.
        """
        if not self._lane.left:
            answers += COMMITTED
            self._session.connection.send(answers)

    def _done(self, writers: int, seconds: float) -> None:
        """It is committed, the client has been told, and the links have gone back."""
        session = self._session
        session.ended_simply()
        session.database.counts.commit(Result.COMMITTED, writers)
        self._lane.counted(seconds)
        if not self._lane.left:
            if session.clocks is not None:
                session.clocks.rested(in_block=False)
            self._lane.rest()

    def _answered(self, answer: CommitAnswer, link: ShardLink, answers: bytes, done: asyncio.Future[None]) -> None:
        """COMMIT was answered in another way: the regular commit knows what that means."""
        error = done.exception()
        outcome: Answer | ShardError
        if isinstance(error, ShardError):
            outcome = error
        else:
            try:
                outcome = link.answer_of(answer.collected)
            except ShardError as failure:
                outcome = failure
        answered = Answered(link, outcome)
        spawn(self._commit_answered(answered, answers, link.took), name="commit with an answer of its own")

    async def _commit_answered(self, link: Answered, answers: bytes, seconds: float) -> None:
        self._session.connection.write(answers)
        await self._say(self._session.commit({link.shard: link}), seconds)

    async def _say(self, work: Coroutine[object, object, None], seconds: float) -> None:
        """Tell the client what became of its COMMIT, which took so long."""
        session = self._session
        try:
            await work
            self._lane.counted(seconds)
            session.write(backend.command_complete(b"COMMIT"))
        except RolledBack:
            self._lane.counted(seconds)
            session.write(backend.command_complete(b"ROLLBACK"))
        except CLIENT_ERRORS as error:
            session.report_error(error)
        if not self._lane.left:
            self._lane.finish()

    # --- several shards ---------------------------------------------------------------------------------------

    def _commit_several(self, answers: bytes) -> bool:
        told = partial(self._told, answers, time.monotonic())
        return commit_together(self._session.transaction, self._session.database.coordinator, told)

    def _told(self, answers: bytes, begun: float, outcome: Outcome | None) -> None:
        """The commit has come to its outcome."""
        transaction = self._session.transaction
        if outcome is None:
            self._failed()
            return
        plainly = outcome.committed and not outcome.notices
        if plainly:
            self._answer(answers)
        writers = len(transaction.writers)
        self._session.meter.decided(outcome)
        transaction.committed(outcome)
        took = time.monotonic() - begun
        self._session.database.counts.commit_times.add(took)
        if plainly:
            self._done(writers, took)
        else:
            self._session.database.counts.commit(outcome.result, writers)
            spawn(self._tell(outcome, answers, took), name="outcome of a commit")

    async def _tell(self, outcome: Outcome, answers: bytes, seconds: float) -> None:
        self._session.connection.write(answers)
        await self._say(self._session.committed(outcome), seconds)

    def _failed(self) -> None:
        """A bug of ours, which is in the log: nobody knows the outcome, recovery will see to it."""
        session = self._session
        session.transaction.committing = False
        if session.transaction.abandoned:
            session.transaction.abandon()
        session.write(backend.error_response(BUG))
        session.connection.close()
        self._lane.rest()
