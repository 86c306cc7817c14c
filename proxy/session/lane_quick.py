"""The quick lane: the fast lane's most usual case in as few steps as there can be.

A statement alone, outside any block, of which the lane has expected that it comes next (router.shortcut.Expected): two
functions, one for the message and one for its answer, with nothing between them but the sockets' writes. What the fast
lane looks at for each statement is known here beforehand:

- ``_likely`` is empty while the lane may expect nothing: while a statement is under way, inside a block, when the
  session or the client is out of the ordinary. So there is no other look at the lane's state.
- ``link.fit`` is the link's settings as long as nothing about the link is out of the ordinary, and None otherwise. So
  it is one comparison with the settings of the session, and one look whether it still is when the answer has come.
- How the answer of a statement begins on a shard, up to the end of its columns' description, is noted with the shard's
  types; one row and its tag end it. Any other answer, and any that comes in pieces, goes the fast lane's way.
- What is counted of it goes into a ledger (proxy.ledger), and is counted five hundred at a time.

Whatever is not so is the fast lane's (proxy.session.lane), as if this were not here: before the message was sent
nothing has happened, and afterwards ``slowed`` makes it a statement of the fast lane that is under way.
"""

from __future__ import annotations

from struct import Struct
from time import monotonic
from typing import TYPE_CHECKING, Final, cast

from proxy.ledger import FULL
from proxy.session.lane import FastLane
from proxy.session.lane_shared import BEFORE_QUERY, BOUND, BOUND_FRAME, NOT_SHARED, PARSED_FRAME, QUERY_BOUND
from proxy.transaction import Block
from proxy.wire import backend
from proxy.wire.frames import HEADER
from router.bound_query import QUERY_TAIL
from router.digits import NATIVE
from router.sharding import integer_slot
from router.sharding_noted import NOTED, noted_slots
from router.shortcut import NAMED, QUERY, SHARED, Shortcut, nothing_matches

if TYPE_CHECKING:
    from proxy.fields import CountsFields, DatabaseFields, SessionFields
    from proxy.session.extended import ExtendedProtocol
    from proxy.session.known_binds import KnownBind
    from proxy.session.session import Session
    from proxy.shards.link import ShardLink
    from proxy.shards.pool import LinkPool
    from proxy.shards.receiver import Chunk
    from router.plan import Statement
    from router.shortcut import Expected

_NOBODY: Final[list[Expected]] = []
_OUTSIDE: Final = Block.NONE
#: How a row begins that is no longer than two bytes can say, and what reads these.
_ROW: Final = b"D\0\0"
_row_length: Final = Struct(">H").unpack_from
_COLUMNS: Final = backend.ROW_DESCRIPTION
#: How the answer of a SELECT of one row ends.
_END: Final = backend.command_complete(b"SELECT 1") + backend.ready_for_query(b"I")
_ENDS: Final = len(_END)
_TAG: Final = 67  # C
_TAG_LENGTH: Final = 13  # the last byte of its length
_LENGTH_AT: Final = 4
_READY: Final = 90  # Z
_READY_BYTES: Final = 6
_IDLE: Final = 73  # I
#: What a row's length does not count, from its two bytes on.
_BEHIND: Final = len(_END) - 2
_BEFORE: Final = frozenset(b"12")
_BOUND_BYTES: Final = len(BOUND_FRAME)
_BOUND_KIND: Final = BOUND_FRAME[0]
_LONGEST_HEAD: Final = 1024
#: A link with no more than these will not have to close the one that was used the longest time ago.
_FEW_STATEMENTS: Final = 16
_unpack_header: Final = HEADER.unpack_from
_now: Final = monotonic
_NO_TIME: Final = 1e-9  # by which a statement that has waited for less than a clock shows is known


def _has_end(data: bytes) -> bool:
    """Whether an answer ends with ``_END``, where that begins behind a row: whose tag it is, is known by the statement.

    For compiled code, to which ``endswith`` is a method that is looked up by its name.
    """
    size = len(data)
    return (
        size > _ENDS
        and data[size - _ENDS] == _TAG
        and data[size - _ENDS + _LENGTH_AT] == _TAG_LENGTH
        and data[size - _READY_BYTES] == _READY
        and data[size - 1] == _IDLE
    )


class QuickLane(FastLane):
    """The lane of one session."""

    __slots__ = (
        "_by_shard",
        "_common",
        "_fields",
        "_ledger",
        "_likely",
        "_limits",
        "_note",
        "_noted",
        "_odd",
        "_owners",
        "_prepared",
        "_slots",
        "_waiting",
        "_write",
    )

    def __init__(self, session: Session, extended: ExtendedProtocol) -> None:
        super().__init__(session, extended)
        self._likely = _NOBODY
        self._odd = False  # something has happened meanwhile
        self._waiting: Expected | None = None  # was expected, and waits for a link
        # Struct fields when compiled, and fewer look-ups in any build.
        self._fields: SessionFields = session
        self._limits: CountsFields = session.database.counts
        self._common: DatabaseFields = session.database
        self._by_shard = session.transaction.links
        self._prepared = session.statements
        self._ledger = session.database.counts.ledger
        self._write = session.connection.writer
        self._owners = self._shortcuts.owners
        self._slots = self._shortcuts.slots
        noted = noted_slots(self._slots)
        self._noted, self._note = noted.noted, noted.note

    # --- the client's message ---------------------------------------------------------------------------------

    def quick(self, data: bytes) -> bool:  # noqa: C901, PLR0912, PLR0915 - one road, no calls, on purpose
        """Send what has arrived, if it is a statement that is expected; False: nothing has happened."""
        for running in self._likely:
            if NATIVE and running.keyed is not None:
                key = running.keyed.key(data)
                if key < 0:
                    continue
                shard = self._owners[integer_slot(key, self._slots)]
            else:
                match = running.shape(data)
                if match is None:
                    continue
                shard = running.shard
                if shard < 0:
                    key = int(match[match.lastindex or 0])
                    shard = self._owners[(self._noted[key] or self._note(key)) if key < NOTED else self._slot(key)]
            try:
                pool = self._pools[shard]
            except KeyError:
                break
            if self._version != self._common.catalog_version:
                break
            idle = pool.idle
            if not idle:
                return self._late_one(shard, running, data)
            link = idle[-1]
            now = _now()
            if link.fit is not self._applied or now - link.idle_since > link.usable_s or not pool.is_spare or pool.down:
                break
            statements = self._prepared
            kind, sent = running.kind, data
            link_name = running.link_name
            if link_name and (kind != QUERY or self._binds.lifts):
                if kind == NAMED and statements.get(running.name) is not running.prepared:
                    break
                on_link = link.statements
                if link_name not in on_link:
                    break
                if len(on_link) > _FEW_STATEMENTS:
                    on_link.move_to_end(link_name)
                head = running.heads.get(len(data))
                if kind == QUERY:
                    self._shared = QUERY_BOUND
                    if head is not None:
                        sent = head + data[running.behind : running.end] + QUERY_TAIL
                    else:
                        sent = running.sent_alike(data)
                else:
                    if kind == SHARED:
                        self._shared = BOUND
                    sent = running.sent_alike(data) if head is None else head + data[running.behind :]
            if kind == QUERY:
                if statements:
                    statements.pop(b"", None)
            elif kind != NAMED:
                statements[b""] = running.prepared
            idle.pop()
            link.asked_at = now
            link.quick = self
            self._data = data
            self._likely = _NOBODY
            self._running = running
            self._link = link
            self._fields.in_query = True
            self._by_shard[shard] = link
            self._connection.received += len(data)
            link.send(sent)
            return True
        self._general()
        return False

    def _late_one(self, shard: int, running: Expected, data: bytes) -> bool:
        """Have a statement wait for a link, if it is one that may."""
        self._general()
        if isinstance(running, Shortcut):
            queued = self._queue(shard, data, running, None)
        else:
            name = running.name
            if name and self._session.statements.get(name) is not running.prepared:
                return False
            queued = self._queue(shard, data, None, cast("KnownBind", running))
        if queued:
            self._waiting = running
        return queued

    def go_on(self, link: ShardLink, pool: LinkPool, late: float) -> bool:
        """Send what has waited for a link: by the quick way, if it was expected and the link is fit for that."""
        running, self._waiting = self._waiting, None
        if running is None or self.missed or not self._is_as_before():
            return super().go_on(link, pool, late)
        now = _now()
        link.rests(now, pool.limits.idle_check_s)
        statements, kind, data = self._prepared, running.kind, self._data
        lifts = kind == QUERY and running.link_name != "" and self._binds.lifts
        lacks = (lifts or kind in {NAMED, SHARED}) and running.link_name not in link.statements
        if link.fit is not self._applied or lacks:
            return super().go_on(link, pool, late)
        if kind == QUERY:
            if statements:
                statements.pop(b"", None)
            if lifts:
                link.statements.move_to_end(running.link_name)
                data = running.sent_alike(data)
                self._shared = QUERY_BOUND
        elif kind == NAMED:
            if statements.get(running.name) is not running.prepared:
                return super().go_on(link, pool, late)
            link.statements.move_to_end(running.link_name)
            data = running.sent_alike(data)
        else:
            statements[b""] = running.prepared
            if kind == SHARED:
                link.statements.move_to_end(running.link_name)
                data = running.sent_alike(data)
                self._shared = BOUND
        self._fields.in_query = self.armed = True
        self.busy = self._odd = False
        self._late = max(late, _NO_TIME)
        self._running = running
        self._link = link
        self._by_shard[self._shard] = link
        self._connection.received += len(self._data)
        link.asked_at = now
        link.quick = self
        link.send(data)
        return True

    def _waits_with(self, data: bytes) -> None:
        self._waiting = None
        super()._waits_with(data)

    def _is_as_before(self) -> bool:
        """Whether all that was looked at when a statement was expected is so when it has waited."""
        return (
            self._version == self._common.catalog_version
            and self._connection.writable
            and not self._transaction.cancel_requested
            and self._session.clocks is None
            and not self._session.portals
            and not self._transaction.links
        )

    def _slot(self, key: int) -> int:
        return integer_slot(key, self._slots)

    def _general(self) -> None:
        """What has arrived is not for here."""
        self._likely = _NOBODY
        if isinstance(self._running, Shortcut):
            self._previous = self._running
        else:
            self._before = self._running  # type: ignore[assignment]  # there are two kinds
        if self._link is not None and self._link.quick is self:
            self.busy = self._odd = True
            self.armed = False

    # --- the answer (proxy.shards.receiver.QuickReceiver) -----------------------------------------------------

    def answered(self, link: ShardLink, data: bytes, /) -> bool:
        """Pass on an answer that is one row, as it was expected."""
        running, connection = self._running, self._connection
        head = link.types.heads.get(running)
        shared = self._shared
        if shared:
            if shared == BOUND:
                data = PARSED_FRAME + data  # an answer as it was expected
            elif data[0] == _BOUND_KIND:
                data = data[_BOUND_BYTES:]
        if head is None or not data.startswith(head) or not (_has_end(data) if NATIVE else data.endswith(_END)):
            return False
        # Not in one line: of four values the interpreter makes a tuple.
        at = len(head)
        size = len(data)
        now = _now()
        pool = link.lender
        took = now - link.asked_at
        late = self._late
        row: int = data[at] * 256 + data[at + 1] if NATIVE else _row_length(data, at)[0]
        if (
            row + at + _BEHIND != size
            or self._odd
            or link.fit is None
            or took + late > self._limits.notable_s
            or connection.queued
            or pool is None
        ):
            return False
        # Before anything is written: the transport may tell us that the client does not read.
        if shared:
            self._shared = NOT_SHARED
        self._likely = running.likely
        self._link = None
        self._fields.in_query = False
        self._by_shard.clear()
        connection.sent += size
        self._write(data)
        if late:
            self._count_late(took, link)
        else:
            ledger = self._ledger
            entries, end = ledger.entries, ledger.end
            entries[end] = took
            entries[end + 1] = running
            entries[end + 2] = link.load
            ledger.end = end = end + 3
            if end == FULL:
                self._counts.settle()
        link.idle_since = now
        if pool.waiters:
            pool.take_back(link)
        else:
            pool.idle.append(link)
        return True

    def _count_late(self, took: float, link: ShardLink) -> None:
        """Count a statement that had waited for its link, which the pool has counted as lent."""
        running, counts = self._running, self._counts
        link.load.add(took)
        took += self._late
        self._late = 0.0
        # Only Shortcut and KnownBind are Expected, and it is one of these.
        tally = running.tally or self._session.meter.tally_in_lane(running)  # type: ignore[arg-type]
        tally.add(took)
        tally.rows += 1
        counts.alone += 1
        counts.alone_seconds += took
        self._count_sent(running.kind)

    def _count_sent(self, kind: int) -> None:
        counts = self._counts
        counts.fast += 1
        if kind != QUERY:
            counts.binds += 1
            if kind != NAMED:
                counts.client_parses += 1
                if kind != SHARED:
                    counts.server_parses += 1

    def slowed(self) -> None:
        """Make it a statement of the fast lane."""
        link, running = self._link, self._running
        assert link is not None  # noqa: S101 - it has called
        self._odd = False
        self.busy, self.armed = True, False
        self._statement = running.statement
        self._tally = running.tally or self._session.meter.tally_in_lane(running)  # type: ignore[arg-type]
        self._pool, self._shard = link.lender, link.shard
        if self._shared == BOUND:
            self._known = cast("KnownBind", running)
        self._transaction.command = running.statement.tag
        self._connection.feed_from(link)
        if not self._late:  # else the pool has counted it
            self._counts.lent += 1
        self._count_sent(running.kind)

    # --- the fast lane's ends and beginnings -------------------------------------------------------------------

    def arm(self) -> None:
        """See what may be expected as well."""
        super().arm()
        shortcuts = self._shortcuts
        self._owners = shortcuts.owners
        if shortcuts.slots != self._slots:
            self._slots = shortcuts.slots
            noted = noted_slots(self._slots)
            self._noted, self._note = noted.noted, noted.note
        self._expect()

    def whole(self, data: Chunk, /) -> bool:
        """Learn how answers begin."""
        link, running = self._link, self._running
        if self._opening is not None:
            return False  # it has begun otherwise
        shared = self._shared
        if shared == BOUND:
            data = PARSED_FRAME + bytes(data)
        elif shared >= QUERY_BOUND:
            before = BEFORE_QUERY[shared]
            if bytes(data[: len(before)]) != before:
                return False
            data = bytes(data[len(before) :])
        taken = super().whole(data)
        if taken:
            self._shared = NOT_SHARED
            self._expect()
            if link is not None and self._likely is not _NOBODY and isinstance(data, bytes):
                self._learn(link, running, data)
        return taken

    def rest(self) -> None:
        """Expect the next statement."""
        super().rest()
        self._expect()

    def leave(self) -> None:
        """Nothing is passed on any more."""
        super().leave()
        self._likely, self._odd = _NOBODY, True

    def expect_nothing(self) -> None:
        """The client does not read what it was sent."""
        self._likely = _NOBODY

    def statement_under_way(self) -> Statement | None:
        """Return the statement that a shard runs for the lane."""
        link = self._link
        if link is not None and link.quick is self:
            return self._running.statement
        return super().statement_under_way()

    def _expect(self) -> None:
        session = self._session
        expects = (
            self.armed
            and self._transaction.block is _OUTSIDE
            and self._connection.writable
            and session.clocks is None
            and not session.portals
            and not self._transaction.links
        )
        self._likely = self._running.likely if expects else _NOBODY

    def _learn(self, link: ShardLink, running: Expected, data: bytes) -> None:
        """Note how an answer outside a block begins that needs no translation, up to its row's length."""
        known = link.types.heads.get(running)
        if (known is not None and data.startswith(known)) or not data.endswith(_END):
            return
        at = 0
        while True:
            kind, length = _unpack_header(data, at)
            at += length + 1
            if kind == _COLUMNS:
                break
            if kind not in _BEFORE or at >= len(data):
                return
        if at <= _LONGEST_HEAD and running.shape is not nothing_matches and data.startswith(_ROW, at):
            link.types.note_head(running, data[:at] + _ROW)
