"""What a statement of the fast lane waits for: a link, or commits that are decided and not yet visible on its shard.

No task and no future waits for it: the lane is called in the turn of the loop in which it can go on. Meanwhile the
session is in a query, its lane busy and not armed; what the client sends is kept for later.

Rules of waiting for a link:

1. Only a statement alone, outside a block, waits here. It stands in the pool's own queue (proxy.shards.pool), behind
   those who came before it on either road.
2. It goes on only if all is as it was found when it came: the catalog, a client that reads, settings and statements
   that the link has or can be given. If not, and where the pool has no link but a reason for it (a place to open one,
   its end), the long road does what it would have done from the beginning; from the end of the queue.
3. Who has waited for too long, or is cancelled, is given to the long road as well, with the error that his transaction
   answers to the first link it is asked for: so there is one place from which clients are told of it.

Decided here: which link a statement gets, and when waiting is over. What then is sent is the lane's
(proxy.session.lane).
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

from proxy.connection import Lane
from proxy.errors import QUERY_CANCELED, ProxyError
from proxy.session.lane_answer import is_outrun
from proxy.session.lane_block import can_bring_up
from proxy.settings import NOTHING_APPLIED
from proxy.shards.waiters import Waiter
from proxy.transaction import Block
from proxy.twophase.settling import SETTLE_S
from proxy.wire.frames import HEADER_BYTES, walk

if TYPE_CHECKING:
    from proxy.fields import SessionFields
    from proxy.session.known_binds import KnownBind
    from proxy.session.session import Session
    from proxy.shards.errors import ShardError
    from proxy.shards.link import ShardLink
    from proxy.shards.pool import LinkPool
    from proxy.shards.receiver import Chunk, Frame
    from proxy.transaction import ClientTransaction
    from router.plan import Statement
    from router.shortcut import Shortcut

#: A look that has failed is tried again: what another proxy has prepared is most often applied a moment later, and to
#: ask about it takes a dozen messages.
LOOKS_AGAIN: Final = 3
LOOK_AGAIN_S: Final = 0.001

_log: Final = logging.getLogger(__name__)


class Queued(Waiter):
    """The place of one lane in the queue of a pool: one for all of a session's statements."""

    __slots__ = ("_lane", "_pool", "_transaction")

    def __init__(self, lane: WaitingLane, transaction: ClientTransaction) -> None:
        super().__init__()
        self._lane = lane
        self._transaction = transaction
        self._pool: LinkPool | None = None  # in whose queue it is
        transaction.waiting.also = self._cancelled

    def enter(self, pool: LinkPool) -> bool:
        """Wait for a link; False: the pool has none to wait for."""
        if not pool.enter(self):
            return False
        self._pool = pool
        return True

    def leave(self) -> None:
        """The session ends."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.leave(self)

    def handed(self, link: ShardLink | None) -> bool:
        """Go on with a link; with a place for one, and where the lane cannot, the long road does."""
        pool, self._pool = self._pool, None
        if pool is None:
            return False
        lane = self._lane
        try:
            if link is not None and lane.go_on(link, pool, self.waited_s):
                return True
            lane.left_waiting()
        except Exception:  # noqa: BLE001 - somebody else's callback: he has given a link back, and knows nothing of us
            _log.exception("a statement that had waited for a link could not begin")
            lane.break_off()
            return link is not None and link in self._transaction.links.values()
        return False

    def refused(self, error: ProxyError) -> None:  # noqa: ARG002 - the long road is told the same
        """The pool is closed: ``acquire`` is to say it."""
        self._ended(None)

    def is_late(self, error: ProxyError) -> bool:
        """It has waited for too long."""
        self._ended(error)
        return True

    def _ended(self, error: ProxyError | None) -> None:
        self._pool = None
        self._transaction.refused = error
        self._lane.left_waiting()

    def _cancelled(self) -> None:
        """The client wants its statement cancelled, or has gone."""
        if self._pool is not None:
            self.leave()
            self._ended(ProxyError(QUERY_CANCELED, "canceling statement due to user request"))


class Parked:
    """A statement that waits for commits of this process."""

    __slots__ = ("_lane", "_left", "_timer")

    def __init__(self, lane: WaitingLane) -> None:
        self._lane = lane
        self._left = 0  # how many of them are not visible yet
        self._timer: asyncio.TimerHandle | None = None

    def wait(self, commits: list[asyncio.Future[Any]]) -> None:
        """Tell the lane when all of them are done, or that it takes too long."""
        self._left = len(commits)
        self._timer = asyncio.get_running_loop().call_later(SETTLE_S, self._give_up)
        for told in commits:
            told.add_done_callback(self._told)

    def leave(self) -> None:
        """The session ends."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _told(self, _told: asyncio.Future[Any]) -> None:
        self._left -= 1
        if self._left or self._timer is None:
            return
        self.leave()
        self._lane.unparked()

    def _give_up(self) -> None:
        if self._timer is not None:
            self._timer = None
            self._lane.left_waiting()


class WaitingLane(Lane):
    """What a lane is apart from the statements that it knows and the answers that it passes on."""

    __slots__ = (
        "_applied",
        "_connection",
        "_data",
        "_database",
        "_first",
        "_known",
        "_late",
        "_link",
        "_looks",
        "_outrun",
        "_parked",
        "_pool",
        "_pools",
        "_queued",
        "_said",
        "_session",
        "_shard",
        "_shortcut",
        "_transaction",
        "_version",
        "_waited",
        "_waits",
        "left",
    )

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self._connection = session.connection
        self._database = session.database
        self._transaction = session.transaction
        self._applied = session.settings.applied
        self._version = session.database.catalog_version
        self._pools: dict[int, LinkPool] = {}
        self._pool: LinkPool | None = None  # that gets the link back at once; None: the transaction ends the statement
        self._link: ShardLink | None = None
        self._shard = 0
        self._data = b""  # what the client has sent
        self._waits: list[asyncio.Future[Any]] = []  # why the statement cannot be sent now
        self._waited = False  # and has waited for that
        self._looks = 0  # how often it has looked again
        self._parked: Parked | None = None
        self._queued: Queued | None = None
        self._shortcut: Shortcut | None = None  # what waits in the queue for a link: a Query of this,
        self._known: KnownBind | None = None  # or a pipeline of this
        self._late = 0.0  # for so many seconds
        self._first = True  # no shard had a part in the block before
        self._said = self._outrun = False  # a part of the answer was passed on; it is to be another one
        #: Whether the session has ended.
        self.left = False

    def lost(self, error: ShardError | ProxyError, /) -> None:
        """The link is gone, or what went before the statement failed."""
        raise NotImplementedError

    def _send_query(self, link: ShardLink, shard: int, shortcut: Shortcut, data: bytes) -> None:
        raise NotImplementedError

    def _send_known(self, link: ShardLink, shard: int, known: KnownBind, data: bytes) -> None:
        raise NotImplementedError

    def leave(self) -> None:
        """The session ends: what is under way is its transaction's to end, and no answer is passed on any more."""
        self.left = True
        self.armed = False
        if self._parked is not None:
            self._parked.leave()
        if self._queued is not None:
            self._queued.leave()

    def _borrow(self, shard: int) -> ShardLink | None:
        """Outside a block: a link for one statement, which most often has the right settings."""
        pool = self._pools.get(shard) or self._pool_of(shard)
        link = pool.take()
        if link is None:
            return None
        self._pool = pool
        if link.settings is not self._applied:
            if not can_bring_up(self._transaction, link, pool):
                return None
            if link.settings is not self._applied:
                self._transaction.bring_up(shard, link)
                self._pool = None
        self._transaction.links[shard] = link
        return link

    def _pool_of(self, shard: int) -> LinkPool:
        pool = self._pools[shard] = self._database.pool(shard, self._session.role)
        return pool

    def _queue(self, shard: int, data: bytes, shortcut: Shortcut | None, known: KnownBind | None) -> bool:
        """Wait in the pool's queue for a link; False: that is for the long road."""
        queued = self._queued
        if queued is None:
            queued = self._queued = Queued(self, self._transaction)
        if not queued.enter(self._pools.get(shard) or self._pool_of(shard)):
            del self._pools[shard]  # it may be one that is not used any more
            return False
        self._waits_with(data)
        self._shard, self._shortcut, self._known = shard, shortcut, known
        return True

    def go_on(self, link: ShardLink, pool: LinkPool, late: float) -> bool:
        """Send what has waited for a link, for ``late`` seconds; False: nothing has happened."""
        transaction, known, shortcut, data = self._transaction, self._known, self._shortcut, self._data
        if self._version != self._database.catalog_version or not self._connection.writable:
            return False
        if known is not None and known.prepared.name and not known.is_on(link):
            return False
        if link.settings is not self._applied:
            if link.settings is None:
                link.settings = NOTHING_APPLIED
            if not transaction.can_bring_up(link):
                return False
        self._pool = pool
        if link.settings is not self._applied:
            transaction.bring_up(self._shard, link)
            self._pool = None
        transaction.links[self._shard] = link
        self._late = late
        if known is not None:
            self._send_known(link, self._shard, known, data)
        elif shortcut is not None:
            self._send_query(link, self._shard, shortcut, data)
        return True

    def _park(self, data: bytes) -> None:
        """Keep a statement until what is decided on its shard is visible there."""
        waits, self._waits = self._waits, []
        self._waits_with(data)
        if self._parked is None:
            self._parked = Parked(self)
        self._parked.wait(waits)

    def look_later(self, link: ShardLink, undone: bytes) -> None:
        """Something is prepared there that we know nothing of, the statement has not run: look again, a few times.

        ``undone`` undoes the look that has failed, in front of whatever the link runs next.
        """
        link.prefix_failed = False
        link.prefix(undone)
        if self._looks == LOOKS_AGAIN:
            self._looks = 0
            self._hand_over()
            return
        self._looks += 1
        loop = asyncio.get_running_loop()
        soon = loop.create_future()
        loop.call_later(LOOK_AGAIN_S, soon.set_result, None)
        self._waits = [soon]
        self._connection.received -= len(self._data)  # which are counted where the statement goes on
        self._park(self._data)

    def _waits_with(self, data: bytes) -> None:
        session: SessionFields = self._session
        session.running = ()  # what was run last is not under way
        session.in_query = self.busy = True
        self.armed = self._transaction.cancel_requested = False
        self._data = data

    def unparked(self) -> None:
        """What a statement has waited for is visible."""
        if self._transaction.cancel_requested:
            self.lost(ProxyError("57014", "canceling statement due to user request"))
            return
        self._session.in_query = self.busy = False
        self._waited = True  # what was decided since cannot have been seen by this transaction
        taken = self.take(self._data)
        self._waited = False
        if not taken:
            self.left_waiting()

    def left_waiting(self) -> None:
        """What has waited is not for the lane."""
        if not self.left:
            self._connection.received += len(self._data)
            self._hand_over()

    def break_off(self) -> None:
        """A bug of ours has kept a statement from being sent: the session ends."""
        self._session.in_query = self.busy = False
        self._connection.abort()

    def rest(self) -> None:
        """The statement is over: wait for the next, or leave what has arrived meanwhile to the session."""
        connection = self._connection
        self._session.in_query = self.busy = False
        self._link = connection.source = None
        if self.missed:
            self.missed = False
            connection.wake()
        else:
            self.armed = True

    def _is_outrun(self, statement: Statement, chunk: Chunk, index: list[Frame]) -> bool:
        if not (self._outrun or self._said):
            first = self._first or self._transaction.block is Block.NONE
            self._outrun = is_outrun(self._session, statement, chunk, index, first=first)
        return self._outrun

    def run_anew(self) -> None:
        """A statement has been ended, and its client has heard nothing of it: the session runs it once more."""
        self._late = 0.0
        # The link may be somebody else's soon: a client that does not read must not pause it.
        self._connection.feed_from(None)
        self._session.anew.leaves_lane()
        self._hand_over()

    def _hand_over(self) -> None:
        """Leave the statement to the session after all."""
        data, connection = self._data, self._connection
        index, _ = walk(data, 0, len(data))
        self._session.in_query = self.busy = self.missed = False
        self._link = connection.source = None
        connection.push_back([(kind, data[start + HEADER_BYTES : end]) for kind, start, end in index])
        connection.wake()
