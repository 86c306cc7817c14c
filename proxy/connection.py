"""The socket of one client: bytes in, frames out to whoever reads; bytes out with back-pressure.

Decides when reading from the client pauses (too much is waiting to be handled) and when writers must wait (the client
does not read). Left to others: what the bytes mean (proxy.wire) and what happens next (proxy.login, proxy.session).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, cast

from proxy.errors import ClientGone, ClientSaidAll
from proxy.native import mypyc_attr
from proxy.shards.quick import QuickReceiver
from proxy.tls import TlsLayer
from proxy.wire.errors import ProtocolViolation
from proxy.wire.frames import AUTHENTICATION_BYTES, FrameReader
from proxy.wire.startup import StartupReader

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from proxy.shards.link import ShardLink
    from proxy.tls import TlsServer
    from proxy.wire.startup import StartupPacket

INBOX_HIGH_WATER_BYTES = 1 << 20
INBOX_LOW_WATER_BYTES = 1 << 18
TURN_BYTES = 1 << 15  # about 5 ms for the reader of COPY's rows
MAX_UNTYPED_BYTES = 1 + AUTHENTICATION_BYTES
FLUSH_BYTES = 1 << 14


@mypyc_attr(allow_interpreted_subclasses=True)  # stand-ins of tests
class Lane(QuickReceiver):
    """Who may handle what arrives at once (proxy.session.lane): a class for the reason that QuickReceiver is one."""

    __slots__ = ("armed", "busy", "missed")

    def __init__(self) -> None:
        #: Whether it may be shown what arrives: nothing waits, the reader is between two messages.
        self.armed = False
        #: Whether a statement of its own is under way: the reader is not woken.
        self.busy = False
        #: Whether the reader would have been woken meanwhile.
        self.missed = False

    def quick(self, data: bytes) -> bool:
        """Handle what has arrived, if that is what was expected; False: nothing of it."""
        raise NotImplementedError

    def expect_nothing(self) -> None:
        """``quick`` is to handle nothing until a statement has come another way."""
        raise NotImplementedError

    def take(self, data: bytes) -> bool:
        """Handle what has arrived, if it is one whole statement that is known; False: nothing has happened."""
        raise NotImplementedError


class ClientConnection:
    """One accepted connection. ``on_made`` starts the login; frames wait in an inbox until somebody receives them.

    An asyncio.Protocol in all but name: a class that mypyc compiles cannot have it as its base.
    """

    def __init__(self, on_made: Callable[[ClientConnection], None], max_message_bytes: int) -> None:
        self._on_made = on_made
        self._max_message_bytes = max_message_bytes
        self._transport: asyncio.Transport | None = None
        self._startup = StartupReader()  # before the first typed message
        self._reader: FrameReader | None = None
        self.inbox: deque[tuple[int, bytes]] = deque()
        self._inbox_bytes = 0
        self._waiting: asyncio.Future[None] | None = None
        self._violation: ProtocolViolation | None = None
        self._eof = False
        self._said_all = False
        self._void = False  # something has been written since the client is gone
        self._reading_paused = False
        self.queued: list[bytes | bytearray] = []  # written, not yet given to the transport
        self._out_bytes = 0
        self._flush_due = False
        self._writable = asyncio.Event()
        self._writable.set()
        self.writable = True  # the same, for those who do not wait
        self._then: list[Callable[[], None]] = []  # who waits for it to be writable
        self.source: ShardLink | None = None  # the link that feeds us now: paused while the client does not read
        self.lane: Lane | None = None  # looks at what arrives before frames are cut, while it is armed
        self.on_lost: Callable[[], None] | None = None
        #: Bytes from and to the client; those that the lane handles are counted there, which knows how many they are.
        self.received = self.sent = 0
        self.peer = ""
        self.connected_at = time.time()
        self.host = ""  # the client's address, '' where it has none
        self.tls: TlsLayer | None = None

    # --- asyncio.Protocol -------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the login."""
        self._transport = cast("asyncio.Transport", transport)
        address = transport.get_extra_info("peername")
        self.host = address[0] if isinstance(address, tuple) else ""
        self.peer = f"{address[0]}:{address[1]}" if isinstance(address, tuple) else "local"
        self._on_made(self)

    def data_received(self, data: bytes) -> None:
        """Show the lane what has arrived; what it leaves is cut into frames, and the reader is woken."""
        lane = self.lane
        if lane is not None:
            if lane.quick(data) or (lane.armed and lane.take(data)):
                return
            lane.armed = False
        self.received += len(data)
        if self._violation is not None:
            return
        if self._reader is None:
            self._startup.feed(data)
            if self._startup.buffered_bytes > MAX_UNTYPED_BYTES:
                self._too_early()
        else:
            self._feed(data)
        self.wake()

    def _too_early(self) -> None:
        """Of a client that has not logged in no more is held: there is a whole packet, or one that is refused."""
        if self._transport is not None:
            self._reading_paused = True
            self._transport.pause_reading()

    def _feed(self, data: bytes) -> None:
        assert self._reader is not None  # noqa: S101 - narrows the type; callers checked
        reader, inbox = self._reader, self.inbox
        try:
            reader.feed(data)
            while (message := reader.next()) is not None:
                inbox.append(message)
                self._inbox_bytes += len(message[1]) + 5
        except ProtocolViolation as violation:
            self._violation = violation
        if self._inbox_bytes > INBOX_HIGH_WATER_BYTES and not self._reading_paused and self._transport is not None:
            self._reading_paused = True
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """The client says no more. What it has said is done, and answered if it listens; then it is gone."""
        self._said_all = True
        self.wake()
        return True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the reason changes nothing
        """Wake everybody: the reader gets ClientGone, writers write into the void."""
        self._eof = True
        self.resume_writing()
        self.source = None
        if self.on_lost is not None:
            self.on_lost()
        self.wake()

    def pause_writing(self) -> None:
        """The client does not read: stop the source, make writers wait."""
        if self.lane is not None:
            self.lane.expect_nothing()
        self._writable.clear()
        self.writable = False
        if self.source is not None:
            self.source.pause_reading()

    def resume_writing(self) -> None:
        """The client reads again."""
        self._writable.set()
        self.writable = True
        if self.source is not None:
            self.source.resume_reading()
        then, self._then = self._then, []
        for call in then:
            call()

    def when_writable(self, then: Callable[[], None]) -> None:
        """Call ``then`` once when the client reads again, or is gone; for those who find it not writable."""
        self._then.append(then)

    # --- reading ----------------------------------------------------------------------------------------------

    @property
    def has_more(self) -> bool:
        """Whether anything waits to be received: a message, a part of one, or the connection's end."""
        reader, ended = self._reader, self._eof or self._said_all
        return bool(
            self.inbox or ended or self._violation is not None or (reader is not None and reader.buffered_bytes)
        )

    def wake(self) -> None:
        """Wake the reader, unless a statement of the lane must be over first."""
        lane = self.lane
        if lane is not None and lane.busy:
            lane.missed = True
            return
        waiting = self._waiting
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    async def _wait(self) -> None:
        self.flush()
        waiting = self._waiting = asyncio.get_running_loop().create_future()
        try:
            await waiting
        finally:
            if self._waiting is waiting:  # else whoever was cancelled would take the place of the next one
                self._waiting = None

    def start_tls(self, server: TlsServer) -> None:
        """Speak TLS from here on; what came in before it was asked for is its beginning (direct negotiation)."""
        self.flush()
        assert self._transport is not None  # noqa: S101 - narrows the type: packets were received
        early = self._startup.rest()
        self._resume_reading()
        self._startup = StartupReader(encrypted=True)
        layer = TlsLayer(self._transport, cast("asyncio.Protocol", self), server)
        self.tls = self._transport = layer
        if early:
            layer.data_received(early)

    def expect_nothing_yet(self) -> None:
        """Before TLS: bytes that came together with the request for it are not taken for plain (ProtocolViolation)."""
        self._startup.next()

    async def begins_with_tls(self) -> bool:
        """Whether the client negotiates TLS directly; waits for its first bytes."""
        while not self._startup.buffered_bytes:
            await self._more()
        return self._startup.looks_like_tls

    async def receive_startup(self) -> StartupPacket:
        """Return the next packet of the untyped beginning; raises ClientGone or ProtocolViolation."""
        while (packet := self._startup.next()) is None:
            await self._more()
        return packet

    async def receive_proof(self, what: str) -> bytes:
        """Return the body of the next PasswordMessage; raises ClientGone, or ProtocolViolation for anything else."""
        while (body := self._startup.proof(what)) is None:
            await self._more()
        return body

    def start_frames(self) -> None:
        """From here on messages may be of any type: the client is who it says."""
        self._reader = FrameReader(self._max_message_bytes)
        self._resume_reading()
        rest = self._startup.rest()
        if rest:
            self._feed(rest)

    async def receive(self) -> tuple[int, bytes]:
        """Return the next frame; raises ClientGone, or ProtocolViolation once the frames before it are handled."""
        while not self.inbox:
            await self._more()
        return self._take()

    async def receive_many(self) -> list[tuple[int, bytes]]:
        """Return frames that have arrived, at least one, together about ``TURN_BYTES``: COPY sends one for each line.

        Whoever reads a megabyte of rows at once keeps everybody else waiting: with 0.2 s for each turn of the loop,
        recovery's few questions took longer than it waits for a shard, and all shards counted as down.
        """
        while not self.inbox:
            await self._more()
        messages = []
        size = 0
        while self.inbox and size < TURN_BYTES:
            message = self.inbox.popleft()
            size += len(message[1]) + 5
            messages.append(message)
        self._inbox_bytes -= size
        self._resume_reading()
        return messages

    def push_back(self, messages: Sequence[tuple[int, bytes]]) -> None:
        """Return frames that were received too early, to the front."""
        self.inbox.extendleft(reversed(messages))
        self._inbox_bytes += sum(len(body) + 5 for _, body in messages)

    async def _more(self) -> None:
        if self._violation is not None:
            raise self._violation
        if self._eof:
            raise ClientGone
        if self._said_all:
            raise ClientSaidAll
        await self._wait()

    def _take(self) -> tuple[int, bytes]:
        message = self.inbox.popleft()
        self._inbox_bytes -= len(message[1]) + 5
        if self._reading_paused:
            self._resume_reading()
        return message

    def _resume_reading(self) -> None:
        if self._reading_paused and self._inbox_bytes < INBOX_LOW_WATER_BYTES and self._transport is not None:
            self._reading_paused = False
            self._transport.resume_reading()

    # --- writing ----------------------------------------------------------------------------------------------

    @property
    def gone(self) -> bool:
        """Whether the client has hung up."""
        return self._eof

    def send(self, data: bytes | memoryview) -> None:
        """Write at once, behind what is queued; into the void when the client is gone."""
        if self.queued:
            self.flush()
        self.sent += len(data)
        transport = self._transport
        if self._eof:
            self._into_the_void()
        elif transport is not None:
            transport.write(data)

    @property
    def writer(self) -> Callable[[bytes], None]:
        """What writes at once, where nothing is queued and the client has not gone, once TLS has begun or will not."""
        assert self._transport is not None  # noqa: S101 - the lane has come after it
        return self._transport.write

    @property
    def written(self) -> int:
        """How many bytes were written to the client, or queued for it."""
        return self.sent + self._out_bytes

    def write(self, data: bytes | bytearray) -> None:
        """Queue bytes for the client; into the void when it is gone.

        A write of the transport is a system call (15 us measured with uvloop), and an answer comes in pieces: they go
        out together when the session waits for the next message, at the latest two turns of the loop from now.
        """
        self.queued.append(data)
        self._out_bytes += len(data)
        if self._out_bytes > FLUSH_BYTES:
            self.flush()
        elif not self._flush_due:
            self._flush_due = True
            asyncio.get_running_loop().call_soon(self._flush_in_next_turn)

    def _flush_in_next_turn(self) -> None:
        # The turn in between is the session's: it has been woken by what was written, and has more to say.
        if self.queued:
            asyncio.get_running_loop().call_soon(self._flush_now)
        else:
            self._flush_due = False

    def _flush_now(self) -> None:
        self._flush_due = False
        self.flush()

    def flush(self) -> None:
        """Give everything that was written to the transport."""
        out = self.queued
        if not out:
            return
        data = out[0] if len(out) == 1 else b"".join(out)
        self.queued = []
        self.sent += self._out_bytes
        self._out_bytes = 0
        if self._eof:
            self._into_the_void()
        elif self._transport is not None:
            self._transport.write(data)

    def _into_the_void(self) -> None:
        """Nobody hears an answer: what is done for the client ends, as a server's process does at such a write."""
        if not self._void:
            self._void = True
            self.inbox.clear()
            self._inbox_bytes = 0
            if self.on_lost is not None:
                self.on_lost()

    async def drain(self) -> None:
        """Wait until the client has read enough; raises ClientGone, unless what it has said is not done yet."""
        if not self._writable.is_set():
            await self._writable.wait()
        if self._eof and not self.inbox:
            raise ClientGone

    def feed_from(self, link: ShardLink | None) -> None:
        """Name the link whose answers are being passed on (None: nobody's)."""
        if self.source is not None and not self._writable.is_set():
            self.source.resume_reading()
        self.source = link
        if link is not None and not self._writable.is_set():
            link.pause_reading()

    def close(self) -> None:
        """Send what is queued, then close."""
        self.flush()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()
