"""The wire of a shard link: frames in, frames out, one exchange at a time.

Rules:

1. One exchange at a time. It starts with ``exchange()`` and is over when its receiver says so, usually at
   ReadyForQuery.
2. ``status`` comes from ReadyForQuery and from nothing else.
3. A prefix is answered before the exchange and its answers never reach the receiver. If it fails, neither does anything
   else.
4. The receiver gets whole frames, one call for each chunk that the socket gave, and no chunk runs on past a
   ReadyForQuery: an exchange's end is always the last frame of a call.
5. A link that is lost, or that says something nobody asked for, is closed and never used again; its receiver hears of
   it once.

Decided here: where frames begin and end, whose they are, and when a link is beyond use. Left to others: what the frames
mean (receivers), who may use the link (pool), how connections come about (lending), which frames answer a prefix
(prefix.py), how a frame that the socket has cut is put together again (cut.py).

``data_received`` is the hottest loop of the proxy. It copies nothing.
"""

from __future__ import annotations

import asyncio
import logging
from time import monotonic
from typing import TYPE_CHECKING, Final, cast

from proxy.shards.cut import CutFrame, may_have_runs
from proxy.shards.doomed import Doomed
from proxy.shards.draining import Drain
from proxy.shards.errors import ShardError, broken_protocol, is_fatal, lost_link, spoken, unhandled
from proxy.shards.prefix import Prefix, SentPrefix
from proxy.shards.strays import unsolicited, without_notifications
from proxy.shards.translating import Known, Translating
from proxy.shards.types import AS_AT_HOME
from proxy.timings import LAST, Timings
from proxy.wire import backend
from proxy.wire.errors import ProtocolViolation
from proxy.wire.frames import HEADER, HEADER_BYTES, LENGTH_BYTES, run_end

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.shards.receiver import Chunk, Frame, Receiver, WholeReceiver
    from proxy.shards.receivers import Told
    from proxy.wire.oids import TypeMap

IDLE: Final = ord("I")
IN_TRANSACTION: Final = ord("T")
FAILED: Final = ord("E")

_DATA_ROW: Final = backend.DATA_ROW
_READY: Final = backend.READY_FOR_QUERY
_ERROR: Final = backend.ERROR_RESPONSE
_PARAMETER: Final = backend.PARAMETER_STATUS
_COLUMNS: Final = backend.ROW_DESCRIPTION
#: Frames of an answer that neither the link nor a session looks at: rows and what stands around them.
PLAIN: Final = frozenset(b"TDC12nI")
READY_HEADER: Final = b"Z\0\0\0\5"
READY_BYTES: Final = len(READY_HEADER) + 1
#: Frames that the link itself looks at, wherever they turn up.
_NOTABLE: Final = frozenset({_ERROR, _PARAMETER})
_LONG_HEAD: Final = 1024
_RUNS: Final = frozenset({_DATA_ROW, backend.COPY_DATA})
_LONG_CHUNK: Final = 2048  # in less there are not many rows
_NOBODYS: Final = Timings()  # of links that no pool has

_log = logging.getLogger(__name__)


class Relay:
    """The protocol that stands at the other end of a lent transport for as long as the link lives.

    An asyncio.Protocol in all but name: a class that mypyc compiles cannot have it as its base.
    """

    __slots__ = (
        "_ahead",
        "_at_ready",
        "_doomed",
        "_drain",
        "_fatal",
        "_gone",
        "_head",
        "_head_types",
        "_known_columns",
        "_loop",
        "_plain",
        "_prefix",
        "_reading",
        "_receiver",
        "_serial",
        "_tail",
        "_told",
        "_translating",
        "_transport",
        "_untranslated",
        "asked_at",
        "closed",
        "left",
        "load",
        "lost_error",
        "name",
        "on_lost",
        "on_notification",
        "parameters",
        "prefix_failed",
        "shard",
        "status",
        "took",
        "types",
        "watcher",
    )

    def __init__(self, transport: asyncio.Transport, shard: int, name: str, parameters: dict[str, str]) -> None:
        self.shard = shard
        self.name = name
        self.parameters = parameters
        self.status = IDLE
        self.closed = False
        #: Whether our own side ended it (abort, close), rather than the server or the network.
        self.left = False
        self.lost_error: ShardError | None = None
        #: Called once when the link ends, also by abort() and close(), after its receiver: who counts links hears it
        #: here.
        self.on_lost: Callable[[ShardError], None] | None = None
        #: Called with the body of a NotificationResponse that no receiver got.
        self.on_notification: Callable[[bytes], None] | None = None
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._receiver: Receiver | None = None
        self._plain: WholeReceiver | None = None  # the last one of this kind; it counts while it is the receiver
        self._told: Told | None = None  # the same, of those that know answers by what they have read before
        self._serial = 0
        self._at_ready = False
        self._prefix: Prefix | None = None  # that waits for an exchange
        self._ahead: SentPrefix | None = None  # that is to be answered before the exchange under way
        #: Whether a prefix has failed; for those who noted what it was to do, and who reset this.
        self.prefix_failed = False
        #: How long the shard takes to answer; the pool's, for all links to a shard.
        self.load = _NOBODYS
        self.asked_at = 0.0  # when the exchange under way went out, by time.monotonic(); 0 once it was answered
        self.watcher: Callable[[str, float, float], None] | None = None  # hears of each answer: name, asked_at, took
        self.took = 0.0  # the seconds of the last one, and
        self.types = AS_AT_HOME  # or how user-defined types are called here (proxy.shards.types)
        self._translating: Translating | None = None
        self._untranslated: TypeMap | None = None  # of the exchange under way, as long as it needs no translating
        self._known_columns = Known()
        self._head = b""  # how the last plain answer began, up to its columns' description: the next most often does
        self._head_types: TypeMap | None = None  # by which it needed no translation
        self._doomed = False
        self._tail: CutFrame | None = None
        self._fatal: ShardError | None = None
        self._reading = True
        self._drain = Drain(self._loop)
        self._gone: asyncio.Future[None] = self._loop.create_future()
        transport.set_protocol(cast("asyncio.Protocol", self))

    # ---- what the owner calls ----------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether an exchange is under way (not any more while its receiver is being told of its last frame)."""
        return self._receiver is not None and not self._at_ready

    @property
    def exchanges(self) -> int:
        """How many exchanges there have been; while busy, the number of the one under way."""
        return self._serial

    @property
    def has_prefix(self) -> bool:
        """Whether a prefix waits for an exchange."""
        return self._prefix is not None

    def prefix(self, frames: bytes, cycles: int = 1, *, executes: int = 0, gate: bool = False) -> None:
        """Put ``frames``, which ``cycles`` ReadyForQuery answer, before the next exchange, in the same packet.

        If one of them fails, the exchange's receiver hears ``lost(error)`` when all is answered, and nothing else. The
        server has run the exchange's own statements all the same, unless the prefix left it in a failed transaction;
        ``gate`` holds them back until the prefix has succeeded, for one more round trip. ``executes``: they are so many
        Executes (and what goes with them) without a Sync, stand alone, and if one fails nothing behind it is run.
        """
        if self._prefix is None:
            self._prefix = Prefix()
        self._prefix.add(frames, cycles, executes, gate)

    def exchange(self, data: bytes, receiver: Receiver) -> None:
        """Write the prefix and ``data`` and give what comes to ``receiver`` until it says that the exchange is over.

        On a closed link ``receiver.lost`` is called in the loop's next round.
        """
        if self.busy:
            msg = f"{self!r}: an exchange is under way already"
            raise RuntimeError(msg)
        if self.closed:
            self._loop.call_soon(receiver.lost, self.loss())
            return
        self._serial += 1
        types, self._translating, self._untranslated = self.types.current, None, None
        if types is not None:
            receiver = self._translating = Translating(types, self._known_columns, self.name, receiver)
            data = bytes(self._translating.outgoing(data))
        self._receiver = receiver
        self.asked_at = monotonic()
        if not self._reading:
            self.resume_reading()
        if self._prefix is not None:
            self._send_with_prefix(self._prefix, data)
        else:
            self._transport.write(data)

    def ask(self, data: bytes, receiver: WholeReceiver, *, typeless: bool = True) -> None:
        """Write ``data`` as ``exchange`` does, for a receiver that takes plain answers whole.

        ``typeless``: the messages name no type of users, and ask for no binary values that could hold an OID.
        """
        self._plain = receiver
        types = self.types.current
        if self._receiver is not None or self.closed or not self._reading or (types is not None and not typeless):
            self.exchange(data, receiver)
            return
        # Almost every shard calls some table's row type as home does not. A Translating for each point query cost
        # 25 us of 55: here only descriptions of columns are looked at, and those that have come before are known.
        self._translating, self._untranslated = None, types
        known = self._known_columns
        if known.portals or known.statements:
            known.passed_by(data)
        self._serial += 1
        self._receiver = receiver
        self.asked_at = monotonic()
        if self._prefix is not None:
            self._send_with_prefix(self._prefix, data)
        else:
            self._transport.write(data)

    def divert(self, receiver: Receiver) -> Receiver:
        """Give the rest of the exchange under way to another receiver; returns the one that had it."""
        if self._receiver is None:
            msg = f"{self!r}: no exchange is under way"
            raise RuntimeError(msg)
        self._serial += 1
        previous, self._receiver = self._receiver, receiver
        self.resume_reading()
        return previous

    def write(self, data: bytes | memoryview) -> None:
        """Send more whole messages within the exchange (CopyData, the rest of a pipeline); dropped on a closed link."""
        if self.closed or self._doomed:
            return
        if self._translating is not None:
            data = self._translating.outgoing(data)
        ahead = self._ahead
        if ahead is not None:
            if ahead.held is not None:
                ahead.held.append(bytes(data))
                return
            ahead.sent.append(bytes(data))
        self._transport.write(data)

    async def drain(self) -> None:
        """Wait until what was written is mostly on its way. Raises ShardError when the link is or gets lost."""
        if self.closed:
            raise self.loss()
        await self._drain.wait()

    def pause_reading(self) -> None:
        """Let the server wait: it stops when the kernel's buffers are full. What has arrived already may still come."""
        if self._reading and not self.closed:
            self._reading = False
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again; the end of an exchange does so by itself."""
        if not self._reading:
            self._reading = True
            if not self.closed:
                self._transport.resume_reading()

    def abort(self) -> None:
        """Close the socket now. A waiting receiver hears of it; what the server does with its statement is unknown."""
        if not self.closed:
            self.left = True
            self._lose(lost_link(self.shard, self.name))

    # ---- what the event loop calls -----------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:  # noqa: C901, PLR0912, PLR0915 - one loop, no calls, on purpose
        """Cut what the socket gave into frames and hand them on."""
        if self.closed:
            return
        if self._ahead is not None:
            data = self._past_prefix(self._ahead, data)
        plain = self._plain
        if plain is not None and plain is self._receiver and self._tail is None and self._ahead is None:
            told = self._told
            if told is not None and told is plain and told.recognises(data) and self._take_whole(told, data):
                return
            # Most answers are a few plain frames in one piece: no index is made of them (2 us of 12 for a point query).
            last = len(data) - READY_BYTES
            if last >= 0 and data.startswith(READY_HEADER, last):
                unpack, types, head = HEADER.unpack_from, self._untranslated, self._head
                start = described = 0
                if types is self._head_types and data.startswith(head):
                    start = len(head)
                while start < last:
                    kind, length = unpack(data, start)
                    if kind not in PLAIN or length < LENGTH_BYTES:
                        break
                    if kind == _COLUMNS:
                        described = start + length + 1
                        if types is not None and not types.is_same(data[start:described]):
                            break
                    start += length + 1
                if start == last:
                    if 0 < described < _LONG_HEAD:
                        self._head, self._head_types = data[:described], types
                    if self._take_whole(plain, data):
                        return
        chunk: Chunk = data
        if self._tail is not None:
            joined = self._tail.join(data)
            if joined is None:
                return
            self._tail = None
            chunk = joined
        index: list[Frame] = []
        add = index.append
        unpack = HEADER.unpack_from
        start = ready_count = 0
        end = len(chunk)
        last_header = end - HEADER_BYTES
        notable = False
        # Whether rows that stand together are one entry: an index of each was half of what passing them on costs.
        runs = end > _LONG_CHUNK and self._ahead is None and may_have_runs(self._receiver, chunk)
        while start <= last_header:
            kind, length = unpack(chunk, start)
            stop = start + 1 + length
            if stop > end or length < LENGTH_BYTES:
                break
            if runs and kind in _RUNS:
                stop = run_end(cast("bytes", chunk), start, end)
            add((kind, start, stop))
            if kind != _DATA_ROW:
                if kind == _READY:
                    ready_count = len(index)
                    self.status = chunk[start + HEADER_BYTES]
                elif kind in _NOTABLE:
                    notable = True
                elif kind == _COLUMNS and self._untranslated is not None:
                    self._look_at_columns(bytes(chunk[start:stop]))
                    runs = runs and may_have_runs(self._receiver, chunk)
            start = stop
        if start < end and not self._keep(chunk, start, end):
            return
        if notable:
            self._observe(chunk, index)
        elif index:
            if ready_count and ready_count != len(index):
                self._route_split(chunk, index, ready_count)
            else:
                self._route(chunk, index)

    def _look_at_columns(self, description: bytes) -> None:
        """Translate the rest of the exchange, if its columns are of types that home calls otherwise."""
        types = self._untranslated
        if types is not None and not types.is_same(description):
            self._untranslated = None
            plain = self._plain
            if plain is not None and plain is self._receiver:  # another one swallows what comes
                self._receiver = Translating(types, self._known_columns, self.name, plain)

    def _take_whole(self, receiver: WholeReceiver, data: bytes) -> bool:
        """Give an answer to a receiver in one piece, as ``_route`` gives frames; False if it wants frames."""
        self.status = data[-1]
        self._receiver = None  # not busy any more: what it asks next goes out as it would from anybody
        load = self.load  # as proxy.timings says
        load.recent[load.count & LAST] = self.took = monotonic() - self.asked_at
        if self.watcher is not None:
            self.watcher(self.name, self.asked_at, self.took)
        self.asked_at = 0.0
        load.count += 1
        if not load.count & LAST:
            load.fold()
        try:
            taken = receiver.whole(data)
        except Exception as error:  # noqa: BLE001 - as in _route
            _log.exception("%r: the receiver of an answer failed", self)
            if self._receiver is None:
                self._receiver = receiver
            self._lose(unhandled(self.shard, self.name, error))
            return True
        if not taken:
            self._receiver = receiver
        elif not self._reading and self._receiver is None:
            self.resume_reading()
        return taken

    def eof_received(self) -> None:
        """Let the transport close itself: the server has nothing more to say."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Hear that the socket is gone."""
        if not self.closed:
            self._lose(self._fatal or lost_link(self.shard, self.name, exc))
        if not self._gone.done():
            self._gone.set_result(None)

    def pause_writing(self) -> None:
        """Hear that the server lags behind what we write."""
        self._drain.shut()

    def resume_writing(self) -> None:
        """Hear that it has caught up."""
        self._drain.clear()

    def _keep(self, chunk: Chunk, start: int, end: int) -> bool:
        """Keep the beginning of a frame until the rest comes; False if it cannot be one."""
        try:
            self._tail = CutFrame(chunk, start, end)
        except ProtocolViolation as violation:
            self._lose(broken_protocol(self.shard, self.name, violation.message))
            return False
        return True

    # ---- whose frames they are ---------------------------------------------------------------------------------------

    def _observe(self, chunk: Chunk, index: list[Frame]) -> None:
        """Look at a chunk that holds parameters or errors before it goes its way."""
        ready_count = 0
        for position, (kind, start, stop) in enumerate(index):
            if kind == _READY:
                ready_count = position + 1
            elif kind == _PARAMETER:
                try:
                    name, value = backend.decode_parameter_status(bytes(chunk[start + HEADER_BYTES : stop]))
                except ProtocolViolation as violation:
                    self._lose(broken_protocol(self.shard, self.name, violation.message))
                    return
                self.parameters[name] = value
            elif kind == _ERROR and is_fatal(raw := bytes(chunk[start:stop])):
                # The server's last words. Kept from the receiver's frames, so that it hears of the end in one way only.
                self._fatal = spoken(raw, self.shard, self.name, lost=True)
                if position:
                    self._route_split(chunk, index[:position], ready_count or position)
                if not self.closed:
                    self._lose(self._fatal)
                return
        self._route_split(chunk, index, ready_count or len(index))

    def _route_split(self, chunk: Chunk, index: list[Frame], ready_count: int) -> None:
        """Hand on the frames up to the last ReadyForQuery, then those after it: most often nobody's answer."""
        if ready_count == len(index):
            self._route(chunk, index)
            return
        self._route(chunk, index[:ready_count])
        if not self.closed:
            self._route(chunk, index[ready_count:])

    def _route(self, chunk: Chunk, index: list[Frame]) -> None:
        if self._ahead is not None:
            index = self._skip_prefix(self._ahead, chunk, index)
            if not index:
                return
        if self.on_notification is not None:
            index = without_notifications(chunk, index, self._notify)
            if not index:
                return
        receiver = self._receiver
        if receiver is None:
            self._unsolicited(chunk, index)
            return
        serial = self._serial
        self._at_ready = index[-1][0] == _READY
        if self._at_ready:
            self._answered()
        try:
            over = receiver.frames(chunk, index)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is logged and ends the link
            # The receiver no longer knows where it is, so neither does the link. Its own error is the reason given.
            _log.exception("%r: the receiver of an answer failed", self)
            self._lose(unhandled(self.shard, self.name, error))
            return
        finally:
            self._at_ready = False
        if over and serial == self._serial:
            self._receiver = None
            if not self._reading:
                self.resume_reading()

    def _answered(self) -> None:
        """The server is ready: what it was asked last has taken so long, if that was not counted before."""
        if self.asked_at:
            self.took = monotonic() - self.asked_at
            if self.watcher is not None:
                self.watcher(self.name, self.asked_at, self.took)
            self.asked_at = 0.0
            self.load.add(self.took)

    def _unsolicited(self, chunk: Chunk, index: list[Frame]) -> None:
        stray = unsolicited(self, chunk, index, self._notify)
        if stray is not None:
            self._lose(broken_protocol(self.shard, self.name, f"message of type {chr(stray)!r} outside an exchange"))

    def _notify(self, chunk: Chunk, start: int, stop: int) -> None:
        if self.on_notification is not None:
            self.on_notification(bytes(chunk[start + HEADER_BYTES : stop]))

    # ---- prefixes ----------------------------------------------------------------------------------------------------

    def _send_with_prefix(self, prefix: Prefix, data: bytes) -> None:
        self._prefix = None
        frames = prefix.frames
        if prefix.gates:
            self._ahead = SentPrefix(prefix, [], [data])
        else:
            self._ahead = SentPrefix(prefix, [data], None)
            frames.append(data)
        self._transport.write(b"".join(frames))

    def drop_prefix(self) -> None:
        """Forget a prefix that was never sent."""
        self._prefix = None

    def _past_prefix(self, ahead: SentPrefix, data: bytes) -> bytes:
        """Return what comes behind the prefix's answers, if they are like those of one before."""
        passed = ahead.known(data) if self._tail is None and ahead.held is None else 0
        if not passed:
            return data
        self._ahead = None
        if not ahead.executes:
            self.status = data[passed - 1]
        return data[passed:]

    def _skip_prefix(self, ahead: SentPrefix, chunk: Chunk, index: list[Frame]) -> list[Frame]:
        """Swallow the prefix's answers; returns the frames that come after them."""
        try:
            count = ahead.swallow(chunk, index, self._notify)
        except ProtocolViolation as violation:
            self._lose(broken_protocol(self.shard, self.name, violation.message))
            return []
        if not count:
            return []
        self._ahead = None
        if ahead.failed_with is not None:
            self._prefix_failed(ahead, ahead.failed_with)
        elif ahead.held is not None:
            self._transport.write(b"".join(ahead.held))
        return index[count:]

    def _prefix_failed(self, ahead: SentPrefix, raw: bytes) -> None:
        self.prefix_failed = True
        receiver = self._receiver
        assert receiver is not None  # noqa: S101 - a prefix goes out with an exchange only
        error = spoken(raw, self.shard, self.name)
        if ahead.held is not None:
            self._end_unsent(receiver, error)
            return
        self._doomed = True
        self._receiver = Doomed(self, receiver, error, ahead.sent, skipped=ahead.executes > 0)

    def _end_unsent(self, receiver: Receiver, error: ShardError) -> None:
        """End an exchange whose gate did not open: its own messages were never sent."""
        serial = self._serial
        self._at_ready = True
        try:
            receiver.lost(error)
        finally:
            self._at_ready = False
        if serial == self._serial:
            self._receiver = None

    # ---- the end -----------------------------------------------------------------------------------------------------

    def _lose(self, error: ShardError) -> None:
        """Close the link for good and tell whoever waits for it, once."""
        if self.closed:
            return
        self.closed = True
        self.lost_error = error
        self._tail = None
        self._transport.abort()
        receiver, self._receiver = self._receiver, None
        self._drain.fail(error)
        if receiver is not None:
            try:
                receiver.lost(error)
            except Exception:  # noqa: BLE001 - logged; whoever counts links must hear of the end all the same
                _log.exception("%r: a receiver failed when told of the link's end", self)
        if self.on_lost is not None:
            self.on_lost(error)

    def loss(self) -> ShardError:
        """Return why the link ended, or what an exchange is told that is to end with it."""
        return self.lost_error or lost_link(self.shard, self.name)
