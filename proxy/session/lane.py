"""The fast lane: statements that are known go to their shard in the callback that brought them.

Theory of operation. A session that waits for its client's next message *arms* its lane, if nothing about the session is
out of the ordinary. The connection then shows the lane each chunk of bytes before it cuts frames. If a chunk is one
whole statement for which there is a shortcut (router.shortcut), the lane finds the shard, takes a link, writes, and is
itself the receiver of the answer, which it passes on as it came, in one write. No task is woken, no frame is copied.
Anything else is left to the session (proxy.session.loop) with nothing consumed: ``take`` answers False. What each trick
has gained is in docs/hot-path.md.

Rules:

1. The lane may do nothing that the long road would not do; where that has a decision to make, the lane leaves it alone.
   What one statement leaves to the next is the same on both (tests/integration/test_fast_lane.py compares them).
2. ``session.in_query`` and ``transaction.links`` are true while a statement is under way: cancels, drains and lost
   clients find what they look for.
3. Bytes that arrive meanwhile wait in the connection's inbox; the session is woken when the statement is over.
4. What the lane has noted when it was armed (settings, search_path, pins) can change only on the long road, which arms
   it anew, or in an answer that is not plain, after which it arms itself anew. Only the catalog can change at any time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final, cast

from proxy.admin.statements import Tally
from proxy.errors import QUERY_CANCELED, ProxyError
from proxy.session.known_binds import KnownBinds
from proxy.session.lane_ahead import forget, put_look
from proxy.session.lane_answer import pass_on
from proxy.session.lane_block import (
    begin_at_once,
    can_bring_up,
    filled_in,
    is_ordinary,
    is_plain,
    joined,
    must_settle,
)
from proxy.session.lane_commit import LaneCommit
from proxy.session.lane_shared import (
    BOUND,
    GOES_ON,
    NOT_SHARED,
    QUERY_BOUND,
    REFUSED,
    UNDECIDED,
    Opening,
    prepare_and_bind,
)
from proxy.session.lane_waits import WaitingLane
from proxy.session.meter import rows_of_tag
from proxy.session.outcome import Reported
from proxy.shards.relay import IDLE, IN_TRANSACTION, PLAIN
from proxy.tasks import spawn
from proxy.timings import LAST, Histogram
from proxy.transaction import Block
from proxy.twophase.settling import LOOK_FAILED
from proxy.wire import backend
from proxy.wire.frames import HEADER, HEADER_BYTES
from proxy.wire.pipeline import DESCRIBED_TAIL_BYTES, TAIL_BYTES, read_pipeline
from router.plan_control import Control
from router.shortcut import SHARED

if TYPE_CHECKING:
    from proxy.session.extended import ExtendedProtocol
    from proxy.session.known_binds import KnownBind
    from proxy.session.session import Session
    from proxy.shards.errors import ShardError
    from proxy.shards.link import ShardLink
    from proxy.shards.receiver import Chunk, Frame
    from proxy.wire.pipeline import Pipeline
    from router.plan import Statement
    from router.shortcut import Expected, Shortcut

_QUERY: Final = ord("Q")
_SHORTEST_QUERY: Final = HEADER_BYTES + 1
_READY: Final = backend.READY_FOR_QUERY
_PIPELINES: Final = frozenset(b"PB")
_PARSED: Final = backend.parse_complete()
_BOUND: Final = backend.bind_complete()
_BOUND_NO_DATA: Final = _BOUND + backend.no_data()
_OUTSIDE: Final = Block.NONE  # a look into an enumeration is ten into a module
_DIGIT_0, _BLANK = ord("0"), ord(" ")
NOBODYS: Final = Tally("", "", Histogram())
_unpack_header: Final = HEADER.unpack_from


class FastLane(WaitingLane):
    """The lane of one session, and the receiver of the one exchange that it has under way."""

    takes_runs: ClassVar[bool] = True  # proxy.shards.receiver.RunReceiver

    __slots__ = (
        "_before",
        "_binds",
        "_commit",
        "_counts",
        "_extended",
        "_failed",
        "_opening",
        "_previous",
        "_running",
        "_shared",
        "_shortcuts",
        "_special",
        "_sqlstate",
        "_statement",
        "_tally",
        "_undone",
    )

    def __init__(self, session: Session, extended: ExtendedProtocol) -> None:
        super().__init__(session)
        self._extended = extended
        self._counts = session.database.counts
        self._commit = LaneCommit(self, session)
        self._shortcuts = session.database.shortcuts(session.search_path)
        self._previous = self._shortcuts.start
        self._binds = KnownBinds(session, self._shortcuts)
        self._before: KnownBind | None = None
        self._running: Expected = self._previous  # the latest of both
        self._statement = self._previous.statement
        self._tally = NOBODYS
        self._failed = False  # an ErrorResponse was passed on
        self._special = False  # the answer has something in it that the session must hear of
        self._sqlstate = ""
        self._undone = b""  # what undoes the look that stands before the statement, if one does
        self._shared = NOT_SHARED  # how the statement under way differs from what the client has sent, until it
        self._opening: Opening | None = None  # is known that it has begun

    # --- the session's side -----------------------------------------------------------------------------------

    def arm(self) -> None:
        """The session waits for a message and nothing of one has arrived: see whether the lane may look at the next."""
        session = self._session
        self.armed = False
        if self.left or self._extended.under_way or not is_ordinary(session):
            return
        self._version = self._database.catalog_version
        self._applied = session.settings.applied
        shortcuts = self._database.shortcuts(session.search_path)
        if shortcuts is not self._shortcuts:
            self._shortcuts = shortcuts
            self._previous = self._running = shortcuts.start
        if shortcuts is not self._binds.shortcuts or self._applied is not self._binds.applied:
            self._binds = KnownBinds(session, shortcuts)
            self._before = None
            self._running = self._previous
        self.armed = True

    def statement_under_way(self) -> Statement | None:
        """Return the statement that a shard runs for the lane; one that waits goes by the catalog when it is sent."""
        return self._statement if self._link is not None else None

    # --- the connection's side --------------------------------------------------------------------------------

    def take(self, data: bytes) -> bool:
        """Handle what has arrived, if it is one whole statement that is known; False: nothing has happened."""
        kind = data[0]
        if self._version != self._database.catalog_version or not self._connection.writable:
            return False
        if kind == _QUERY:
            taken = self._query(data)
        elif kind in _PIPELINES:
            taken = self._pipeline(data)
        else:
            return False
        if not taken and self._waits:
            self._park(data)
            return True
        return taken

    def _query(self, data: bytes) -> bool:
        """A Query message."""
        size = len(data)
        if size < _SHORTEST_QUERY or _unpack_header(data)[1] + 1 != size:
            return False
        previous = self._previous
        found = self._shortcuts.predicted(data, previous)
        if found is None:
            found = self._shortcuts.look_up(data)
            if found is None:
                return False
            previous.followed_by(found[0])
        shortcut, shard = found
        if shortcut.control is not None:
            if not self._control(shortcut.control, shortcut, b""):
                return False
        else:
            outside = self._transaction.block is _OUTSIDE
            link = self._borrow(shard) if outside else self._join(shard, writes=shortcut.writes)
            if link is None:
                return outside and self._queue(shard, data, shortcut, None)
            if outside:
                sent = self._sent_query(link, shortcut, data) if shortcut.link_name else data
            else:
                sent = filled_in(self._session, shortcut, data) if shortcut.filled else data
            self._tally = shortcut.tally or self._session.meter.tally_in_lane(shortcut)
            self._exchange(link, shard, sent, shortcut.statement, data, typeless=True)
        # As in ``_send_query``: a call is a fortieth of all that there are.
        self._connection.received += size
        self._previous = self._running = shortcut
        session = self._session
        if session.statements:
            session.statements.pop(b"", None)
        if session.portals:
            session.portals.pop(b"", None)
        return True

    def _send_query(self, link: ShardLink, shard: int, shortcut: Shortcut, data: bytes) -> None:
        """Send a Query that was waiting."""
        sent = self._sent_query(link, shortcut, data) if shortcut.link_name else data
        self._tally = shortcut.tally or self._session.meter.tally_in_lane(shortcut)
        self._exchange(link, shard, sent, shortcut.statement, data, typeless=True)
        self._connection.received += len(data)
        self._previous = self._running = shortcut
        session = self._session
        if session.statements:
            session.statements.pop(b"", None)
        if session.portals:
            session.portals.pop(b"", None)

    def _sent_query(self, link: ShardLink, shortcut: Shortcut, data: bytes) -> bytes:
        """Return what a link gets of a Query whose integers may be bound, outside a block."""
        if self._pool is None or not self._binds.lifts:
            return data
        return self._sent_as(QUERY_BOUND, link, shortcut, data)

    def _pipeline(self, data: bytes) -> bool:  # noqa: C901, PLR0911 - one for each thing that is not known
        """Parse, Bind, Describe, Execute, Sync of one statement."""
        before = self._before
        if before is not None:
            for likely in before.following:
                shard = likely.matched(data)
                if shard is not None:
                    return self._predicted(data, likely, shard)
        cut = read_pipeline(data)
        if cut is None:
            return False
        parses = cut.bind > 0
        name = data[cut.bind + HEADER_BYTES + 1 : cut.name_end]
        if parses == bool(name):  # the unnamed statement is parsed anew on every link
            return False
        known = self._binds.parsed(data[: cut.bind]) if parses else self._binds.named(name)
        shard = known.shard_of(data, cut) if known is not None else None
        if known is None or shard is None:
            return False
        replaced = self._session.portals.get(b"")
        if replaced is not None and replaced.result is not None:
            return False
        if not self._bind(data, cut, known, shard, parses=parses):
            return False
        if known.learn(data, cut) and parses:
            known.share(self._session)
        if before is not None:
            before.followed_by(known)
        self._before = self._running = known
        return True

    def _predicted(self, data: bytes, known: KnownBind, shard: int) -> bool:
        """Run a pipeline that is like one that was read before."""
        session = self._session
        name = known.prepared.name
        if name and session.statements.get(name) is not known.prepared:
            return False
        replaced = session.portals.get(b"")
        if replaced is not None and replaced.result is not None:
            return False
        self._before = self._running = known
        if self._transaction.block is not _OUTSIDE or known.control is not None or known.moments:
            return self._bind(data, known.cut(data), known, shard, parses=not name)
        # One statement alone, as ``_bind`` does it: half of its steps are for what it cannot be here.
        link = self._borrow(shard)
        if link is None:
            return self._queue(shard, data, None, known)
        if name and not known.is_on(link):
            self._transaction.finish_statement()
            return False
        counts = self._counts
        if name:
            sent = known.sent_alike(data)
        else:
            sent = self._sent_shared(link, known, data) if known.kind == SHARED else data
            counts.client_parses += 1
            counts.server_parses += self._shared == NOT_SHARED
            session.statements[b""] = known.prepared
        counts.binds += 1
        self._connection.received += len(data)
        self._tally = known.tally or session.meter.tally_in_lane(known)
        self._exchange(link, shard, sent, known.statement, data, typeless=known.typeless)
        return True

    def _bind(self, data: bytes, cut: Pipeline, known: KnownBind, shard: int, *, parses: bool) -> bool:
        """Run a pipeline whose statement and shard are known."""
        session = self._session
        if known.control is not None:
            answers = _PARSED if parses else b""
            answers += _BOUND_NO_DATA if cut.described else _BOUND
            if not self._control(known.control, known, answers):
                return False
            if known.control is Control.BEGIN:
                session.portals[b""] = known.portal(None)
        else:
            if self._transaction.block is _OUTSIDE:
                link = None if known.moments else self._borrow(shard)
                if link is not None and not parses and not known.is_on(link):
                    self._transaction.finish_statement()
                    return False
                if link is None:
                    return not known.moments and self._queue(shard, data, None, known)
            else:
                link = self._join(shard, writes=known.writes, statement=None if parses else known)
                if link is None:
                    return False
                session.portals[b""] = known.portal(shard)
            self._send_bound(link, shard, known, data, cut)
            return True
        self._bound(known, cut)
        return True

    def _sent_shared(self, link: ShardLink, known: KnownBind, data: bytes) -> bytes:
        """Return what a link gets of an unnamed statement that may be a prepared one there, outside a block."""
        if self._pool is None:
            return data  # its settings come first, which may fail
        self._known = known
        return self._sent_as(BOUND, link, known, data)

    def _sent_as(self, bound: int, link: ShardLink, known: Expected, data: bytes) -> bytes:
        if known.link_name in link.statements:
            link.statements.move_to_end(known.link_name)
            self._shared = bound
            return known.sent_alike(data)
        self._shared = bound + 1  # and prepared
        self._counts.server_parses += 1
        return prepare_and_bind(link, known, data, self._database.limits.statements_per_link)

    def _send_bound(self, link: ShardLink, shard: int, known: KnownBind, data: bytes, cut: Pipeline) -> None:
        """Send a pipeline on a link that has its statement."""
        self._tally = known.tally or self._session.meter.tally_in_lane(known)
        sent = known.sent(self._session, data, cut)
        self._exchange(link, shard, sent, known.statement, data, typeless=known.typeless)
        self._bound(known, cut)

    def _bound(self, known: KnownBind, cut: Pipeline) -> None:
        counts = self._counts
        self._connection.received += cut.bind_end + (DESCRIBED_TAIL_BYTES if cut.described else TAIL_BYTES)
        counts.binds += 1
        if cut.bind:
            counts.client_parses += 1
            counts.server_parses += 1
            self._session.statements[b""] = known.prepared

    def _send_known(self, link: ShardLink, shard: int, known: KnownBind, data: bytes) -> None:
        """Send a pipeline that was waiting."""
        if known.kind == SHARED and known.matched(data) is not None:
            sent = self._sent_shared(link, known, data)
            self._counts.server_parses -= self._shared != NOT_SHARED
            self._tally = known.tally or self._session.meter.tally_in_lane(known)
            self._exchange(link, shard, sent, known.statement, data, typeless=known.typeless)
            self._bound(known, known.cut(data))
            return
        cut = known.cut(data) if known.matched(data) is not None else read_pipeline(data)
        assert cut is not None  # noqa: S101 - it was read before
        self._send_bound(link, shard, known, data, cut)

    def _control(self, control: Control, known: Shortcut | KnownBind, answers: bytes) -> bool:
        self._tally = known.tally or self._session.meter.tally_in_lane(known)
        if control is Control.COMMIT:
            begun = self._commit.begin(known.statement, answers)
        else:
            begun = control is Control.BEGIN and begin_at_once(self._session, known.statement, answers)
            if begun:
                self._tally.add(0.0)
        if begun:
            self._counts.fast += 1
        return begun

    def counted(self, seconds: float, *, alone: bool = False) -> None:
        """Count the statement that has ended, where a call does not matter; ``alone``: outside any block."""
        self._session.meter.counted(self._tally, seconds, alone=alone)

    def _join(self, shard: int, *, writes: bool, statement: KnownBind | None = None) -> ShardLink | None:
        """Return the block's link to a shard or one from the pool, with a statement prepared; None: none at hand."""
        transaction = self._transaction
        link = self._link_in_block(shard, statement) if is_plain(transaction) else None
        if link is None:
            return None
        transaction.touched.add(shard)
        if writes:
            transaction.writers.add(shard)
        return link

    def _exchange(  # noqa: PLR0913 - all that there is to say
        self, link: ShardLink, shard: int, data: bytes, statement: Statement, original: bytes, *, typeless: bool
    ) -> None:
        transaction = self._transaction
        self._counts.fast += 1
        self._session.in_query = self.busy = True
        self.armed = False
        transaction.cancel_requested = False
        transaction.command = statement.tag
        self._link = link
        self._data = original
        self._shard = shard
        self._statement = statement
        self._connection.source = link
        link.ask(data, self, typeless=typeless)

    def _link_in_block(self, shard: int, statement: KnownBind | None) -> ShardLink | None:
        """Inside a block: its link, or one that joins it, with a look before the statement if there must be one."""
        transaction = self._transaction
        self._pool = None
        self._first = not transaction.links
        settles = must_settle(transaction, shard)
        if settles and not self._waited:
            self._looks = 0
            self._waits = self._database.settler.must_wait(shard)
            if self._waits:
                return None
        link = transaction.links.get(shard)
        if link is not None:
            if link.closed or (statement is not None and not statement.is_on(link)):
                return None
            if settles:
                self._undone = put_look(link, self._database.settler)
            return link
        pool = self._pools.get(shard) or self._pool_of(shard)
        link = pool.take()
        if link is None:
            del self._pools[shard]
            return None
        if link.settings is not self._applied and not can_bring_up(transaction, link, pool):
            return None
        ready = statement is None or statement.is_on(link)
        settler = self._database.settler if settles and ready else None
        self._undone = joined(transaction, shard, link, settler, at_once=ready)
        return link if ready else None

    # --- the answer (proxy.shards.relay.Receiver) -------------------------------------------------------------

    def whole(self, data: Chunk, /) -> bool:
        """Pass on an answer that is whole and plain, as most are."""
        transaction = self._transaction
        link, pool, session, connection = self._link, self._pool, self._session, self._connection
        outside = transaction.block is _OUTSIDE
        if self._special or self.left or link is None or data[-1] != (IDLE if outside else IN_TRANSACTION):
            return False
        connection.send(data)
        took, tally, counts = link.took, self._tally, self._counts
        if self._late:
            took += self._late
            self._late = 0.0
        tally.recent[tally.count & LAST] = took  # as proxy.timings says
        tally.count += 1
        if not tally.count & LAST:
            tally.fold()
        # The tag ends before a NUL and the six bytes of ReadyForQuery; most often its number has one digit.
        tally.rows += data[-8] - _DIGIT_0 if data[-9] == _BLANK else rows_of_tag(bytes(data[-32:-7]))
        if outside:
            counts.alone += 1
            counts.alone_seconds += took
        if took > counts.notable_s:
            session.meter.notable(tally, took, self._shard)
        if pool is not None:
            transaction.links.clear()
            pool.take_back(link)
        elif outside:
            transaction.finish_statement()
        else:
            self._undone = b""
        session.in_query = self.busy = False
        if session.clocks is not None:
            session.clocks.rested(in_block=not outside)
        self._link = connection.source = None
        if self.missed:
            self.missed = False
            connection.wake()
        else:
            self.armed = True
        return True

    def frames(self, chunk: Chunk, index: list[Frame], /) -> bool:
        """Pass on a part of a longer answer, or one with an error, a notice or a changed setting in it."""
        over = index[-1][0] == _READY
        if self.left:
            return over
        if self._shared:
            passed = self._opened(chunk, index)
            if passed is None:
                return over
            chunk, index = passed.chunk, passed.index
        if self._session.outrun and self._is_outrun(self._statement, chunk, index):
            self._special = not over  # nor is its end an answer
            if over:
                self._outrun = False
                self.run_anew()
            return over
        if over and not self._special and all(frame[0] in PLAIN for frame in index[:-1]):
            # Behind a prefix, or the last piece of a long answer.
            start, stop = index[0][1], index[-1][2]
            if self.whole(chunk if stop - start == len(chunk) else chunk[start:stop]):
                self._said = False
                return True
        special, sqlstate = pass_on(self._session, chunk, index)
        self._said = not over
        self._special = self._special or special
        if sqlstate is not None:
            self._failed, self._sqlstate = True, sqlstate
        if over:
            self._end()
        return over

    def _opened(self, chunk: Chunk, index: list[Frame]) -> Opening | None:
        """Look at how the answer of a shared statement begins; None: there is nothing to pass on."""
        link = self._link
        known: Expected | None = self._running if self._shared >= QUERY_BOUND else self._known
        assert link is not None and known is not None  # noqa: PT018, S101 - the statement is under way
        opening = self._opening
        if opening is None:
            opening = self._opening = Opening(self._shared, known, link)
        if opening.state == UNDECIDED:
            opening.came(chunk, index)
        if opening.state == GOES_ON:
            self._shared, self._opening = NOT_SHARED, None
            return opening
        if opening.state == REFUSED and index[-1][0] == _READY:
            query = self._shared >= QUERY_BOUND
            if query:
                self._binds.lifts = known.link_name not in link.statements
            else:
                cast("KnownBind", known).share_no_more(self._session)
            self._shared, self._opening = NOT_SHARED, None
            if link.cancelled:  # for the server had nothing to cancel
                error = ProxyError(QUERY_CANCELED, "canceling statement due to user request")
                self._session.report_error(error, self._tally)
                self._finish_failed()
            else:
                self._counts.server_parses += not query
                link.ask(self._data, self, typeless=known.typeless)
        return None

    def lost(self, error: ShardError | ProxyError, /) -> None:
        """The link is gone, or what went before the statement failed."""
        if self.left:
            return
        self._shared, self._opening = NOT_SHARED, None
        link, undone = self._link, self._undone
        self._special = self._failed = self._said = self._outrun = False
        self._undone = b""
        self._late = 0.0
        if link is not None and not link.closed:
            looked = bool(undone) and error.sqlstate == LOOK_FAILED
            forget(link, looked=looked)
            if looked:
                self._counts.fast -= 1
                self.look_later(link, undone)
                return
        self._session.report_error(error, self._tally)
        self._finish_failed()

    def _end(self) -> None:
        """An answer that was not plain has come to its end."""
        session, late = self._session, self._late
        self._late = 0.0
        self._special = False
        self._undone = b""
        if self._failed:
            self._failed = False
            session.count_error(Reported(self._sqlstate), self._tally)
            self._finish_failed()
        else:
            took = late + (self._link.took if self._link is not None else 0.0)
            self.counted(took, alone=self._transaction.block is _OUTSIDE)
            session.note_effects(self._statement, [self._shard])
            self.finish()

    def _finish_failed(self) -> None:
        """After an error; a block over several shards lets go of its locks on the others before the client hears."""
        if self._transaction.block is _OUTSIDE or len(self._transaction.links) < 2:  # noqa: PLR2004 - several
            self.finish()
        else:
            spawn(self._let_go(), name="release of a failed block's locks")

    async def _let_go(self) -> None:
        await self._transaction.release_locks()
        if not self.left:
            self.finish()

    def finish(self) -> None:
        """The statement is over; the client gets its ReadyForQuery."""
        # The link may be somebody else's from the next line on: a client that does not read must not pause it.
        self._connection.feed_from(None)
        self._transaction.finish_statement()
        self._session.ready()
        self._connection.flush()
        self.rest()
        if self.armed:
            self.arm()
