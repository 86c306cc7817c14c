"""COMMIT on the fast lane: a block that has used one shard ends there, in one round trip and without a task.

What is sent is what the coordinator sends for a transaction with at most one writer. The answer that is expected, and
nothing else, is handled here; any other becomes the outcome of the regular commit, which is told that its COMMIT has
been answered already (``Answered``) and decides what that means.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from proxy.session.lane_block import commit_at_once, committed_at_once
from proxy.session.outcome import RolledBack
from proxy.session.session import CLIENT_ERRORS
from proxy.shards.errors import ShardError
from proxy.shards.receivers import Collector
from proxy.tasks import spawn
from proxy.transaction import Block
from proxy.twophase.events import Result
from proxy.twophase.points import Point
from proxy.wire import backend
from proxy.wire.frontend import Query

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from proxy.session.session import Session
    from proxy.shards.link import ShardLink
    from proxy.shards.receiver import Chunk
    from proxy.shards.receivers import Answer
    from router.plan import Statement

COMMIT: Final = Query(b"COMMIT").encode()
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
        """COMMIT of a block that has used one shard: sent there (proxy.session.lane_commit)."""
        session, transaction = self._session, self._session.transaction
        if transaction.block is not Block.EXPLICIT or not session.ends_simply or not commit_at_once(transaction):
            return False
        (link,) = transaction.links.values()
        lane = self._lane
        session.in_query = lane.busy = True
        lane.armed = transaction.cancel_requested = False
        transaction.command = statement.tag
        answer = CommitAnswer(link, partial(self._committed, answers))
        answer.done.add_done_callback(partial(self._answered, answer, link, answers))
        if transaction.writers:
            self._session.database.coordinator.checkpoint(Point.PLAINLY)
        link.ask(COMMIT, answer)
        return True

    def _committed(self, answers: bytes) -> None:
        """COMMIT was answered plainly, as almost always."""
        session, transaction = self._session, self._session.transaction
        coordinator = self._session.database.coordinator
        writers = len(transaction.writers)
        if writers:
            coordinator.checkpoint(Point.PLAINLY_DONE)
        committed_at_once(transaction)
        session.ended_simply()
        self._session.database.metrics.commit(Result.COMMITTED, writers)
        if not self._lane.left:
            self._session.connection.send(answers + COMMITTED)
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
        spawn(self._commit_answered(Answered(link, outcome), answers), name="commit with an answer of its own")

    async def _commit_answered(self, link: Answered, answers: bytes) -> None:
        session = self._session
        self._session.connection.write(answers)
        try:
            await session.commit({link.shard: link})
            session.write(backend.command_complete(b"COMMIT"))
        except RolledBack:
            session.write(backend.command_complete(b"ROLLBACK"))
        except CLIENT_ERRORS as error:
            session.report_error(error)
        if not self._lane.left:
            self._lane.finish()
