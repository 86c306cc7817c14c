"""A shard link: one server connection of a client role, and the comfortable ways to use its wire.

Decides what happens to a link whose user is cancelled in mid-exchange (it is closed). The wire itself is relay.py's,
opening it lending.py's, lending it out pool.py's; what is prepared and set on it is noted here by those who do so.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from contextlib import contextmanager
from math import inf
from typing import TYPE_CHECKING, Any, Final

from proxy.encodings import UTF_8, written
from proxy.errors import QUERY_CANCELED
from proxy.shards import bound, lending
from proxy.shards.errors import FOREIGN_ERRORS, ShardError, lost_link, standby, translate, unhandled, unreachable
from proxy.shards.receivers import COPY_FAIL, DEFAULT_HIGH_WATER_BYTES, Answer, Collector, FrameStream, Remainder, Told
from proxy.shards.relay import FAILED, IDLE, Relay
from proxy.wire import backend
from proxy.wire.frames import frame

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping

    from proxy.shards.endpoint import ShardEndpoint
    from proxy.shards.pool import LinkPool
    from proxy.shards.quick import QuickReceiver
    from proxy.shards.receiver import Receiver
    from proxy.wire.backend import Field
    from proxy.wire.fields import ErrorFields

DEFAULT_CONNECT_TIMEOUT_S: Final = 10.0
DEFAULT_CANCEL_TIMEOUT_S: Final = 5.0
DEFAULT_CLOSE_TIMEOUT_S: Final = 5.0
_FIRST_INTERRUPT_PAUSE_S: Final = 0.05

_TERMINATE: Final = frame(b"X", b"")
_SYNC: Final = frame(b"S", b"")

_log = logging.getLogger(__name__)


class ShardLink(Relay):
    """A link to one shard, logged in as ``role`` to ``database``.

    ``dirty`` asks for DISCARD ALL before the next user, ``resettable`` = False for closing instead (a custom setting
    that DISCARD leaves behind). ``settings`` is whatever the one who applied settings notes here (None: as after
    log-in), ``codec`` the Python codec of its client_encoding (likewise noted: the link does not look at it),
    ``sequences`` whose sequence values it has (None: nobody's); ``statements`` are the server-side prepared statements
    by name, oldest first.
    """

    __slots__ = (
        "_cancels",
        "_loan",
        "cancelled",
        "codec",
        "database",
        "dirty",
        "fit",
        "idle_since",
        "late",
        "lender",
        "pid",
        "quick",
        "replica",
        "resettable",
        "role",
        "send",
        "sequences",
        "settings",
        "statements",
        "trusted_s",
        "unprepared",
        "usable_s",
        "washed_settings",
    )

    def __init__(self, endpoint: ShardEndpoint, loan: lending.Loan, role: str, database: str) -> None:
        super().__init__(loan.transport, endpoint.index, endpoint.name, loan.parameters)
        self._loan = loan
        self._cancels: set[asyncio.Future[None]] = set()
        self.role = role
        self.database = database
        self.pid = loan.pid
        self.dirty = False
        self.resettable = True
        self.settings: object | None = None
        #: What ``settings`` is behind a wash: DISCARD ALL does not take all of them off.
        self.washed_settings: object | None = None
        self.codec = UTF_8
        self.sequences: object | None = None
        self.statements: OrderedDict[str, object] = OrderedDict()
        #: Whether a CancelRequest was sent that may still be on its way to the backend.
        self.cancelled = False
        #: Whether the server has waited for us with a statement: a statement_timeout that came then is noticed by some
        #: with the next one only, which must not be another client's.
        self.late = False
        #: When the pool got it back, by the loop's clock.
        self.idle_since = 0.0
        #: How long after that it is taken to be there without being tried: its server may have closed it.
        self.trusted_s = inf
        #: ``settings``, while nothing about the link is out of the ordinary: a lane that has the same may use it at
        #: once, if it has not been idle for more than ``usable_s`` seconds (proxy.session.lane_quick).
        self.fit: object | None = None
        self.usable_s = 0.0
        #: A lane whose statement is under way and was not sent by ``exchange`` or ``ask``.
        self.quick: QuickReceiver | None = None
        self.send = loan.transport.write
        #: The pool that it goes back to.
        self.lender: LinkPool | None = None
        #: Why Postgres may refuse to PREPARE a transaction here, by what earlier ones have left ('': nothing).
        self.unprepared = ""
        #: Whether it leads to a standby.
        self.replica = False

    # ---- quick exchanges ---------------------------------------------------------------------------------------------

    def rests(self, now: float, check_s: float) -> None:
        """The pool keeps it, idle and clean: see whether it is fit for quick exchanges until something changes."""
        self.idle_since = now
        self.usable_s = min(check_s, self.trusted_s)
        known = self._known_columns
        if known.portals or known.statements:
            known.passed_by(b"P")  # a quick exchange may replace both unnamed ones
        odd = self.cancelled or self.late or self.dirty or self.closed or not self.resettable or self.has_prefix
        odd = odd or not self._reading or bool(known.portals) or self.on_notification is not None
        self.fit = None if odd else self.settings

    @property
    def busy(self) -> bool:
        """Whether an exchange is under way (not any more while its receiver is being told of its last frame)."""
        return self.quick is not None or (self._receiver is not None and not self._at_ready)

    def data_received(self, data: bytes) -> None:
        """Show a quick lane its answer first."""
        quick = self.quick
        if quick is not None:
            self.quick = None
            try:
                if quick.answered(self, data):
                    return
            except Exception as error:  # noqa: BLE001 - as for any receiver
                _log.exception("%r: the receiver of an answer failed", self)
                self._slow_down(quick)
                self._lose(unhandled(self.shard, self.name, error))
                return
            self._slow_down(quick)
        super().data_received(data)

    def _slow_down(self, quick: QuickReceiver) -> None:
        """Make a quick exchange one as any other."""
        self.quick = None
        self._plain = self._receiver = quick
        self._translating, self._untranslated = None, self.types.current
        self._serial += 1
        quick.slowed()

    def divert(self, receiver: Receiver) -> Receiver:
        """Give the rest of the exchange under way to another receiver; returns the one that had it."""
        if self.quick is not None:
            self._slow_down(self.quick)
        return super().divert(receiver)

    def _lose(self, error: ShardError) -> None:
        self.fit = None
        if self.quick is not None:
            self._slow_down(self.quick)
        super()._lose(error)

    # ---- exchanges ---------------------------------------------------------------------------------------------------

    def encode(self, text: str) -> bytes:
        """Encode a text in what the link's client_encoding is. Raises ProxyError 22P05 for a character not in there."""
        return written(text, self.codec)

    async def run(self, sql: str) -> Answer:
        """Run a simple query and collect its answer. Raises ShardError, once the link is at ReadyForQuery again.

        Being cancelled closes the link: its state is unknown then.
        """
        collector = Collector(self, rejects_copy=True)
        self.exchange(frame(b"Q", self.encode(sql) + b"\0"), collector)
        await self._wait(collector)
        return self.answer_of(collector.collected)

    def post(self, sql: str, told: Callable[[Answer | Exception], None]) -> None:
        """Run a simple query and have ``told`` called with its answer, or with the ShardError; nobody waits for it.

        The answer is read as ``Told`` does it. The link may be used, or released, in that call.
        """
        receiver = self._told = Told(self, told)
        self.ask(bound.message(self, sql), receiver)

    async def collect(self, data: bytes, cycles: int = 1) -> list[tuple[int, bytes]]:
        """Write ``data``, return all frames (type byte, body) up to its last ReadyForQuery, errors among them.

        Raises ShardError when the link is lost or the prefix failed. Being cancelled closes the link.
        """
        collector = Collector(self, cycles)
        self.exchange(data, collector)
        await self._wait(collector)
        return collector.collected

    def stream(self, data: bytes, cycles: int = 1, high_water_bytes: int = DEFAULT_HIGH_WATER_BYTES) -> FrameStream:
        """Write ``data``; the answer is pulled from the stream that this returns."""
        stream = FrameStream(self, cycles, high_water_bytes)
        self.exchange(data, stream)
        return stream

    def cancel(self, timeout_s: float = DEFAULT_CANCEL_TIMEOUT_S) -> Coroutine[Any, Any, None]:
        """Ask the server to cancel what this link is running; done when it has hung up, having sent the signal.

        The cancelled statement answers for itself. Raises ShardError when the request could not be delivered in time.
        The link is marked at once, before anything is awaited: released meanwhile, it is washed before it is lent.
        """
        self.cancelled = not self.closed
        self.fit = None
        delivered = asyncio.get_running_loop().create_future()
        self._cancels.add(delivered)
        return self._cancel(delivered, timeout_s)

    async def _cancel(self, delivered: asyncio.Future[None], timeout_s: float) -> None:
        try:
            if self.closed:
                return
            async with asyncio.timeout(timeout_s):
                await self._loan.cancel()
        except FOREIGN_ERRORS as error:
            raise translate(error, self.shard, self.name, connecting=True) from error
        finally:
            self._cancels.discard(delivered)
            delivered.set_result(None)

    @contextmanager
    def being_cancelled(self) -> Iterator[None]:
        """Surround a cancellation by other means: the link is washed before it is lent again, and not before the end.

        A signal may come late; it must not hit the next user.
        """
        delivered = asyncio.get_running_loop().create_future()
        self.cancelled = not self.closed
        self.fit = None
        self._cancels.add(delivered)
        try:
            yield
        finally:
            self._cancels.discard(delivered)
            delivered.set_result(None)

    def has_waited(self) -> None:
        """The server has waited for data, or for its answer to be read: the link is washed before it is lent again."""
        self.late = True
        self.fit = None

    def pause_reading(self) -> None:
        """Let the server wait; see :meth:`has_waited`."""
        self.has_waited()
        super().pause_reading()

    async def interrupt(self, timeout_s: float = DEFAULT_CANCEL_TIMEOUT_S) -> None:
        """Stop the exchange under way before the link is closed; its receiver hears that the link is lost.

        A server does not look at its socket while a statement runs, and would finish it, locks and all. One
        CancelRequest is not enough: one that overtakes the statement finds nothing to cancel. Returns when the server
        has answered, or after ``timeout_s``. Of several statements sent at once only the first is sure to be stopped.
        """
        if not self.busy:
            return
        rest = Remainder()
        abandoned = self.divert(rest)
        abandoned.lost(self.loss())
        # A COPY FROM STDIN waits for us and cannot be cancelled; elsewhere the server ignores this. A Sync that came
        # while it waited was ignored as well, and behind its error it skips to another one.
        self.write(COPY_FAIL + _SYNC)
        try:
            async with asyncio.timeout(timeout_s):
                pause = _FIRST_INTERRUPT_PAUSE_S
                while not rest.over.is_set() and not self.closed:
                    await self.cancel(timeout_s)
                    try:
                        async with asyncio.timeout(pause):
                            await rest.over.wait()
                    except TimeoutError:
                        pause *= 2
        except (TimeoutError, ShardError) as error:
            _log.warning("%r is closed with its statement still running: %s", self, error or "timed out")

    async def wash(self) -> None:
        """Bring an idle link back to how it was after log-in. Raises ShardError if that cannot be done."""
        self.drop_prefix()
        await self.outlive_cancels()
        if self.dirty:
            await self.run("DISCARD ALL")
            self.statements.clear()
            self.settings, self.washed_settings = self.washed_settings, None
            self.codec = UTF_8
            self.sequences = None
            self.dirty = False

    async def cancels_sent(self) -> None:
        """Return when the server has been told of all cancels that were asked for."""
        if self._cancels:
            await asyncio.wait(self._cancels)

    async def outlive_cancels(self) -> ShardError | None:
        """See that no cancel, or timeout, is still on its way: it hits an empty statement and not the next one.

        Inside a transaction that fails it: then its error is returned, which nobody else will tell. Raises ShardError.
        """
        struck = None
        if not (self.cancelled or self.late):
            return None
        await self.cancels_sent()
        try:
            await self.run("")
        except ShardError as error:
            if error.sqlstate != QUERY_CANCELED:
                raise
            struck = error if self.status == FAILED else None
        self.cancelled = self.late = False
        return struck

    async def close(self, timeout_s: float = DEFAULT_CLOSE_TIMEOUT_S) -> None:
        """Take leave of the server; the socket is closed when this returns."""
        if self.busy:
            self.abort()
        self._part()
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(self._gone)
        except TimeoutError:
            self._transport.abort()

    def _part(self) -> None:
        """Say Terminate and close when it is sent; from here on the link is closed."""
        if self.closed:
            return
        self.closed = True
        self.left = True
        self.lost_error = lost_link(self.shard, self.name)
        self._transport.write(_TERMINATE)
        self._transport.close()
        if self.on_lost is not None:
            self.on_lost(self.lost_error)

    async def _wait(self, collector: Collector) -> None:
        try:
            await collector.done
        except asyncio.CancelledError:
            self.abort()
            raise

    def answer_of(self, collected: list[tuple[int, bytes]]) -> Answer:
        """Return what a simple query gave; raises ShardError if it failed."""
        tags: list[bytes] = []
        rows: list[list[bytes | None]] = []
        fields: tuple[Field, ...] = ()
        notices: list[ErrorFields] = []
        ended = False
        for kind, body in collected:
            if kind == backend.DATA_ROW:
                if ended:
                    rows, ended = [], False
                rows.append(backend.decode_data_row(body))
            elif kind == backend.ROW_DESCRIPTION:
                fields = backend.decode_row_description(body)
                rows = []
            elif kind == backend.COMMAND_COMPLETE:
                tags.append(backend.decode_command_tag(body))
                ended = True  # rows behind it are another statement's, also where no description says so
            elif kind == backend.NOTICE_RESPONSE:
                notices.append(backend.decode_error(body))
            elif kind == backend.ERROR_RESPONSE:
                raise ShardError(backend.decode_error(body), self.shard, frame(b"E", body))
        return Answer(tuple(tags), rows, fields, tuple(notices), self.status)

    def __repr__(self) -> str:
        state = "closed" if self.closed else chr(self.status)
        return f"<link to {self.name} as {self.role}, pid {self.pid}, {state}>"


async def open_link(  # noqa: PLR0913 - as many as a login has parts
    endpoint: ShardEndpoint,
    *,
    role: str,
    password: str | None,
    database: str | None = None,
    connect_timeout_s: float = DEFAULT_CONNECT_TIMEOUT_S,
    server_settings: Mapping[str, str] | None = None,
    replica: bool = False,
) -> ShardLink:
    """Log in and take the wire. ``database`` None is the DSN's. Raises ShardError, with the server's fields if any.

    A standby is refused, unless a ``replica`` is meant.
    """
    name = database or endpoint.database
    try:
        loan = await lending.borrow(
            endpoint,
            role=role,
            password=password,
            database=name,
            connect_timeout_s=connect_timeout_s,
            server_settings=server_settings,
        )
    except FOREIGN_ERRORS as error:
        raise translate(error, endpoint.index, endpoint.name, connecting=True) from error
    if loan.transport.is_closing():
        # Lost between asyncpg's last look and ours: asyncpg was told, and nobody will tell us.
        raise unreachable(endpoint.index, endpoint.name)
    link = ShardLink(endpoint, loan, role, name or role)
    if replica:
        link.replica = True
        # Clients are not told which server has answered.
        link.parameters["in_hot_standby"] = "off"
    elif link.parameters.get("in_hot_standby") == "on":
        link.abort()
        raise standby(endpoint.index, endpoint.name)
    return link


async def end_all(links: Iterable[ShardLink], sql: str) -> None:
    """End the transactions that are open on some links; a link that cannot is closed, which ends it as well."""
    links = [link for link in links if not link.closed and link.status != IDLE]
    results = await asyncio.gather(*(_end(link, sql) for link in links), return_exceptions=True)
    for link, result in zip(links, results, strict=True):
        if isinstance(result, BaseException):
            link.abort()
            if not isinstance(result, ShardError):
                raise result


async def _end(link: ShardLink, sql: str) -> None:
    """End a link's transaction. Raises ShardError.

    A statement_timeout, or a cancel, that came while COPY FROM waited for data hits the next statement when no row came
    behind it: this one, which has done nothing then. Once more, or whatever the link keeps for a session were lost.
    """
    try:
        await link.run(sql)
    except ShardError as error:
        if link.closed or link.status == IDLE or error.sqlstate != QUERY_CANCELED:
            raise
        await link.run(sql)
