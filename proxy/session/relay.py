"""Passing a shard's answer to the client as it came.

A relay is the receiver of one exchange on a link. It walks the frames, drops those the client did not ask for (answers
to our own Parse, ReadyForQuery) and writes the rest on, in runs as long as they stand together, never decoded. A
shard's ReadyForQuery is not the client's: the session sends its own.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from proxy.executor.copy_client import MISPLACED, of_misplaced, out_of_place, receive_in_copy
from proxy.session.anew import Outrun
from proxy.session.meter import rows_of_tag
from proxy.wire import backend, frontend
from proxy.wire.backend import decode_error, decode_parameter_status

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable

    from proxy.connection import ClientConnection
    from proxy.session.anew import Anew
    from proxy.shards.errors import ShardError
    from proxy.shards.link import ShardLink
    from proxy.wire.fields import ErrorFields

_READY, _ERROR, _PARAMETER, _COPY_IN, _COMPLETE = ord("Z"), ord("E"), ord("S"), ord("G"), ord("C")
_ASYNCHRONOUS, _ROWS = frozenset(b"NA"), frozenset(b"Dd")
_COPY_DATA, _COPY_MESSAGES, _FLUSH_SYNC, _SYNC = ord("d"), frozenset(b"dcf"), frozenset(b"HS"), ord("S")
_SYNC_FRAME = frontend.Sync().encode()
_CLOSED = ord("3")
_TAG_END_BYTES = 24  # in which a number of rows has room
# Behind a COPY: a Sync among its data was ignored, if the shard was reading it; it is answered, if it had failed by
# then. Either way the answer to this Close of nothing comes before the last ReadyForQuery. The extended protocol's own
# Sync behind Execute is one of them.
_MARKER = frontend.Close(b"S", b"pgchorus_copy").encode() + _SYNC_FRAME
_END_OF_COPY = _SYNC_FRAME + _MARKER

PARSE_ENDS, BIND_ENDS, CLOSE_ENDS = frozenset(b"1"), frozenset(b"2"), frozenset(b"3")
DESCRIBE_ENDS, EXECUTE_ENDS = frozenset(b"Tn"), frozenset(b"CIs")


@dataclass(slots=True)
class Step:
    """One message of ours and what becomes of its answer: up to a frame of a type in ``ends``, passed on or dropped.

    ``after`` holds replies that the session itself owes the client behind this one; ``undo`` is called when an error
    kept the shard from getting that far. So are ``undo_after``, for what the session itself has done behind it.
    """

    ends: frozenset[int]
    forward: bool
    after: bytearray = field(default_factory=bytearray)
    undo: Callable[[], object] | None = None
    undo_after: list[Callable[[], object]] = field(default_factory=list)
    place: Callable[[ErrorFields], ErrorFields | None] | None = None  # for an error's in the client's text
    sqlstate: str = ""  # of the error that it met, before ``undo`` is called


def take_back(script: deque[Step]) -> None:
    """Undo what stands in a script, the last first: it has not happened."""
    while script:
        step = script.pop()
        while step.undo_after:
            step.undo_after.pop()()
        if step.undo is not None:
            step.undo()


class Relay:
    """Receiver of one exchange. ``script`` None: a simple query, everything is passed on."""

    takes_runs = True  # proxy.shards.receiver.RunReceiver

    def __init__(
        self,
        client: ClientConnection,
        on_parameter: Callable[[str, str], None],
        script: deque[Step] | None = None,
        explain: Callable[[ErrorFields], ErrorFields | None] = lambda _error: None,
        anew: Anew | None = None,
    ) -> None:
        self._client = client
        self._on_parameter = on_parameter  # tells the client in its own time
        self._script = script
        self._explain = explain  # what the client is told instead of an error
        self._anew = anew  # knows of errors of which it is told nothing
        self._outrun = False  # such a one has come
        self._future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lost: ShardError | None = None
        self._over = False  # ReadyForQuery has ended the exchange
        self._awaits_closed = False  # the answer to our Close, before which ReadyForQuery ends nothing
        self._answered_before = 0  # how many of those there were
        self._synced = 0  # Syncs of the client's, among its data
        self.alone = False  # a simple query that is one COPY: nothing of the client's message comes behind it
        self.failed = False  # an ErrorResponse was passed on
        self.sqlstate = ""  # of that
        self.rows = 0  # that the shard returned or changed
        self._reported: list[tuple[str, str]] = []  # settings that have changed
        self._copying = False  # the client's CopyData go to the shard
        self._copied = False  # they have
        self._misplaced: int | None = None  # the type of a message of the client's that has no place in a COPY
        self._desynchronized = False  # by that
        self.copy_in = False  # the shard waits for CopyData now
        self.hold_tag = False  # keep CommandComplete back: its transaction must commit first
        self.tag = b""  # what was held back

    def frames(  # noqa: C901 - one walk over the frames, no calls for rows
        self, chunk: bytes | bytearray | memoryview, index: list[tuple[int, int, int]]
    ) -> bool:
        """Pass on the frames of one chunk; True when ReadyForQuery ended the exchange."""
        run_start = run_end = 0
        over = False
        write = self._client.write
        rows_go: bool | None = None  # whether rows are passed on here: until another frame comes, all or none
        after: bytes | bytearray
        for kind, start, end in index:
            if kind in _ROWS and rows_go is not None:
                forward, after = rows_go, b""
            elif kind == _READY and not self._awaits_closed:
                over = True
                self._end()
                break
            else:
                forward, after = self._judge(kind, chunk, start, end)
                rows_go = forward if kind in _ROWS else None
                if kind == _ERROR and self._outrun:
                    run_start = run_end = 0  # nor of what stands before it
            if forward:
                if run_end != start:
                    if run_end > run_start:
                        write(bytes(chunk[run_start:run_end]))
                    run_start = start
                run_end = end
            if after:
                if run_end > run_start:
                    write(bytes(chunk[run_start:run_end]))
                run_start = run_end = end
                write(after)
        if run_end > run_start:
            write(bytes(chunk[run_start:run_end]))
        if (over or self.copy_in or (self._copying and self.failed)) and not self._future.done():
            self._future.set_result(None)
        return over

    def _end(self) -> None:
        """The exchange is over.

        Those Syncs among the data of a COPY that came behind its error are the session's to answer. The settings that
        have changed are handed on in the order of the changes: Postgres reports the latest first.
        """
        self._over = True
        if self._synced and self.failed:
            # One ReadyForQuery is the Query's, or the end's; one more that of our Sync, if no data was read at all.
            answered = self._answered_before - 1
            if self._script is not None:
                answered = min(answered, self._synced)
            self._client.push_back([(_SYNC, b"")] * answered)
        for name, value in reversed(self._reported):
            self._on_parameter(name, value)
        self._reported.clear()

    def _judge(
        self, kind: int, chunk: bytes | bytearray | memoryview, start: int, end: int
    ) -> tuple[bool, bytes | bytearray]:
        """Return whether to pass a frame on, and what follows it."""
        if kind == _PARAMETER:
            self._reported.append(decode_parameter_status(bytes(chunk[start + 5 : end])))
            return False, b""
        if kind == _ERROR:
            return self._judge_error(decode_error(bytes(chunk[start + 5 : end])))
        if kind in _ASYNCHRONOUS:
            return True, b""
        if self._awaits_closed and kind in (_READY, _CLOSED):
            self._awaits_closed = kind == _READY
            self._answered_before += kind == _READY
            return False, b""
        if kind == _COPY_IN:
            self.copy_in = True
        if kind == _COMPLETE:
            self.rows += rows_of_tag(bytes(chunk[max(start + 5, end - _TAG_END_BYTES) : end - 1]))
        held = self.hold_tag and kind == _COMPLETE
        if held:
            self.tag = bytes(chunk[start:end])
        return self._follow(kind, held=held)

    def _judge_error(self, error: ErrorFields) -> tuple[bool, bytes]:
        self.failed = True
        self.copy_in = False  # also where it had asked for data and then thought better of it
        self._outrun = self._anew is not None and self._anew.takes(error)
        misplaced = of_misplaced(error, self._misplaced)
        self._desynchronized = misplaced is not None
        instead = misplaced or self._explain(error)
        if instead is None and self._script and (place := self._script[0].place) is not None:
            instead = place(error)
        self.sqlstate = (instead or error).sqlstate
        if self._script:
            self._script[0].sqlstate = error.sqlstate
            take_back(self._script)  # after an error the shard skips to Sync
        if self._outrun:
            return False, b""
        return instead is None, b"" if instead is None else backend.error_response(instead)

    def _follow(self, kind: int, *, held: bool) -> tuple[bool, bytes | bytearray]:
        """Say what the script makes of a frame; without one everything is passed on."""
        if not self._script:
            return self._script is None and not held, b""
        step = self._script[0]
        if kind not in step.ends:
            return step.forward, b""
        self._script.popleft()
        return step.forward and not held, step.after

    def lost(self, error: ShardError) -> None:
        """The link died."""
        self._lost = error
        if not self._future.done():
            self._end_with(error)

    def _end_with(self, error: ShardError) -> None:
        self._future.set_exception(error)
        self._future.exception()  # who has gone in the middle of COPY waits for nothing: asyncio would complain

    def _go_on(self) -> None:
        """Wait for something new."""
        self._future = asyncio.get_running_loop().create_future()
        if self._lost is not None:
            self._end_with(self._lost)

    async def wait(self, link: ShardLink) -> None:
        """Wait for the end of the exchange, or for the shard to ask for COPY data; raises ShardError if it dies."""
        self._client.feed_from(link)
        try:
            await self._future
            while not (self._over or self.copy_in):
                self._go_on()
                await self._future
        finally:
            self._client.feed_from(None)
        if self._copied and self._over:
            link.has_waited()
        if self._desynchronized and self._over:
            raise out_of_place()
        if self._outrun and self._over:
            raise Outrun

    async def pass_copy_data(self, link: ShardLink) -> None:
        """Feed the client's CopyData to the shard until CopyDone or CopyFail, or until the shard has had enough."""
        self._go_on()
        self.copy_in = False
        self._copying = self._copied = True
        try:
            while not self._future.done():
                receiving = asyncio.ensure_future(receive_in_copy(self._client))
                waited: set[asyncio.Future[Any]] = {receiving, self._future}
                await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                if not receiving.done():
                    receiving.cancel()
                    break
                received, self._misplaced = receiving.result()
                if self._over:
                    self._client.push_back(received)
                    break
                if self._write_copy_data(link, received):
                    return
                await link.drain()
        finally:
            self._copying = False
        # The shard failed first. What the client still sends is ignored by the session, as Postgres does.
        if not link.closed:
            link.write(self._behind_copy())

    def _behind_copy(self) -> bytes:
        """Return what has to follow the data, or the error that came instead."""
        if self._over or (self._script is None and not self._synced):
            return b""
        self._awaits_closed = True
        return _MARKER if self._script is None else _END_OF_COPY

    def _write_copy_data(self, link: ShardLink, messages: list[tuple[int, bytes]]) -> bool:
        """Write what belongs to the COPY in one go; True when it was its end, or something else has come."""
        out = bytearray()
        for position, (kind, body) in enumerate(messages):
            if kind in _FLUSH_SYNC:
                if kind == _SYNC and (self._script is not None or self.alone):
                    self._synced += 1
                    self._awaits_closed = True  # until the marker is answered ReadyForQuery ends nothing
                    out += _SYNC_FRAME
                continue
            if kind not in _COPY_MESSAGES:
                self._misplaced = kind
                self._client.push_back(messages[position:])
                break
            out += bytes((kind,)) + (len(body) + 4).to_bytes(4, "big") + body
            if kind != _COPY_DATA:
                self._client.push_back(messages[position + 1 :])
                out += self._behind_copy()
                self._send(link, out)
                return True
        if self._misplaced is not None:
            out += MISPLACED + self._behind_copy()
        self._send(link, out)
        return self._misplaced is not None

    def _send(self, link: ShardLink, data: bytearray) -> None:
        """Write to the shard, unless the exchange has ended meanwhile: then nobody would expect the answers."""
        if not self._over:
            link.write(bytes(data))
