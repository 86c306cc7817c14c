"""COPY ... FROM STDIN over several shards: one CopyInResponse to the client, its rows dealt out by key, one answer.

The original text goes to each shard. While data comes the session hears nothing from here: this file reads the client's
messages itself, until CopyDone, CopyFail, or a message that has no business there (which is given back). When one shard
fails, the others are told CopyFail, all links come back to ReadyForQuery, and there is one error; line numbers in its
CONTEXT are made the client's own, or left out where they are not known. What the client still sends of a failed COPY is
for the session to ignore.

Rows that go to every shard (a reference table) are not looked at: the same messages go everywhere. But where columns
are of dates or times they are, for words that each copy would read off its own clock; and where values are to be filled
in (``copy_fill``), every row waits until these are known, and goes on behind them.
"""

from __future__ import annotations

import asyncio
import re
from functools import partial
from typing import TYPE_CHECKING, Protocol

from proxy.encodings import UTF_8, by_name, written
from proxy.errors import CONFIGURATION_LIMIT_EXCEEDED, FEATURE_NOT_SUPPORTED, INTERNAL_ERROR, QUERY_CANCELED, ProxyError
from proxy.executor import tags
from proxy.executor.copy_binary import BinarySplitter
from proxy.executor.copy_client import MISPLACED, of_misplaced, out_of_place, receive_in_copy
from proxy.executor.copy_dealt import Dealt, Numbering
from proxy.executor.copy_fill import Writer, prefix_pattern, shown, without_counts
from proxy.executor.copy_key import KeyPlacer
from proxy.executor.copy_rows import CsvSplitter, Dealing, TextSplitter
from proxy.executor.failure import CombineFailure
from proxy.executor.notices import Notices
from proxy.executor.request import RowBatch, proxy_error
from proxy.shards.errors import ShardError
from proxy.wire import backend
from proxy.wire.frontend import CopyData, CopyDone, CopyFail, Query
from router.errors import refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from proxy.executor.copy_fill import Values
    from proxy.executor.request import Client, Environment, Links, Request, ResultStream
    from proxy.shards.link import ShardLink
    from proxy.wire.backend import Field
    from proxy.wire.fields import ErrorFields
    from router.plan_copy import CopyFill, CopyFormat, CopyIn, CopyInExecution

_HEADER_BYTES = 5
_COPY_DATA, _COPY_DONE, _COPY_FAIL = b"dcf"
_FLUSH_SYNC = frozenset(b"HS")
_DONE = CopyDone().encode()
# Of characters that are wrong where a row is read, perhaps in the middle of it.
_WHILE_READING = frozenset({"22021", "22P05"})
_OTHER_FAILED = b"another shard failed"
_SKIPPED = re.compile(r"(\d+) rows? (?:was|were) skipped due to data type incompatibility\Z")
_SKIPPING = re.compile(r"(skipping row due to data type incompatibility) at line (\d+)")
_LINE = re.compile(r"^(COPY [^\n]*?, line )(\d+)", re.MULTILINE)
# Encodings in which a byte below 0x80 may be the second byte of a character: rows cannot be cut at bytes.
_UNSAFE_ENCODINGS = re.compile(r"(shift_?jis|sjis|ms932|cp932|big5|gbk|gb18030|cp949|uhc|johab|cp936|cp950)")


class Splitter(Protocol):
    """What cuts data into rows and deals them out."""

    dealt: Dealt

    @property
    def waiting(self) -> int:
        """How many rows wait for the values in front of them."""

    def fill(self, rows: Sequence[Sequence[bytes | None]]) -> None:
        """Deal out the rows that wait, each behind its values."""

    def feed(self, data: bytes) -> None:
        """Take data."""

    def finish(self) -> None:
        """Hear that it is over."""

    def line(self) -> int | None:
        """Return the number of the client's line that is read now, for a CONTEXT; None: there is none."""


class Filling:
    """What is filled in: where it comes from, how it is written, and what the client sees of it, which is nothing."""

    def __init__(self, plan: CopyIn, fill: CopyFill, values: Values, codec: str) -> None:
        count = len(fill.columns)
        self.values = values
        self.writer = Writer(
            plan.format, count, [column.name for column in fill.columns], partial(written, codec=codec)
        )
        self._count = count
        binary = plan.format.format == "binary"
        self.response = backend.copy_in_response(int(binary), (int(binary),) * (plan.columns - count))
        self._prefix = None if binary else prefix_pattern(plan.format, count)

    def shown(self, context: str) -> str:
        """Return an error's CONTEXT without what was filled in."""
        return context if self._prefix is None else shown(context, self._prefix)

    def counted(self, message: str) -> str:
        """Return an error's message with the numbers of the client's own columns."""
        return without_counts(message, self._count)


class Skipped:
    """What shards tell of rows that ON_ERROR ignore passes over, in the client's own lines and numbers."""

    def __init__(self, on_notice: Callable[[bytes], None], splitter: Splitter | None, *, add_up: bool) -> None:
        self._on_notice = on_notice
        self._splitter = splitter
        self._add_up = add_up  # else every shard has the same rows: the first one tells
        self._rows = 0
        self._last: ErrorFields | None = None

    def of(self, position: int) -> Callable[[bytes], None]:
        """Return who hears a shard's notices."""
        return partial(self._hear, position)

    def _hear(self, position: int, raw: bytes) -> None:
        fields = backend.decode_error(raw[_HEADER_BYTES:])
        total = _SKIPPED.match(fields.message)
        line = _SKIPPING.match(fields.message)
        if (total or line) and not self._add_up and position:
            return
        if total and self._add_up:
            self._rows += int(total[1])
            self._last = fields
            return
        if line and self._add_up and self._splitter is not None:
            own = self._splitter.dealt.numbering.original(position, int(line[2]))
            where = "" if own is None else f" at line {own}"
            raw = backend.notice_response(fields.replace(M=f"{line[1]}{where}{fields.message[line.end() :]}"))
        self._on_notice(raw)

    def tell(self) -> None:
        """Tell how many there were."""
        if self._last is not None:
            rows = "1 row was" if self._rows == 1 else f"{self._rows} rows were"
            text = f"{rows} skipped due to data type incompatibility"
            self._on_notice(backend.notice_response(self._last.replace(M=text)))


class CopyInReceiver:
    """The receiver of one shard's COPY FROM."""

    def __init__(
        self,
        link: ShardLink,
        position: int,
        wake: asyncio.Event,
        client: Client,
        on_notice: Callable[[bytes], None],
    ) -> None:
        self.link = link
        self.position = position
        self.response: bytes | None = None
        self.tag: bytes | None = None
        self.error: ShardError | None = None
        self.over = True
        self.told_end = False  # CopyDone or CopyFail was sent
        self._wake = wake
        self._notices = Notices(link, client, link.resume_reading, on_notice)

    def frames(self, chunk: memoryview | bytes, index: list[tuple[int, int, int]]) -> bool:
        """Take complete frames; True when the exchange is over."""
        for kind, start, end in index:
            if kind == backend.COPY_IN_RESPONSE:
                self.response = bytes(chunk[start:end])
            elif kind == backend.COMMAND_COMPLETE:
                self.tag = backend.decode_command_tag(bytes(chunk[start + _HEADER_BYTES : end]))
            elif kind == backend.ERROR_RESPONSE:
                raw = bytes(chunk[start:end])
                if self.error is None:
                    self.error = ShardError(backend.decode_error(raw[_HEADER_BYTES:]), self.link.shard, raw)
            elif kind == backend.NOTICE_RESPONSE:
                self._notices.hear(bytes(chunk[start:end]))
            elif kind == backend.READY_FOR_QUERY:
                self.over = True
                self._notices.over()
        self._wake.set()
        return self.over

    def lost(self, error: ShardError) -> None:
        """Hear that the link is gone."""
        if self.error is None:
            self.error = error
        self.over = True
        self._notices.over()
        self._wake.set()

    def write(self, message: bytes) -> None:
        """Send data, unless the shard has had enough (it failed, and the error is about to be noticed)."""
        if not self.over:
            self.link.write(message)

    def end(self, message: bytes) -> None:
        """Tell the shard that the data is over, once."""
        if not self.told_end and not self.over:
            self.told_end = True
            self.link.write(message)


class CopyInResult:
    """See ``request.ResultStream``: all work is done by the first ``next_rows``; there are no rows."""

    row_description: tuple[Field, ...] | None = None

    def __init__(  # noqa: PLR0913 - what a COPY is made of
        self,
        links: Sequence[ShardLink],
        query: bytes,
        environment: Environment,
        splitter: Splitter | None,
        *,
        filling: Filling | None = None,
        by_key: bool = True,
        table: str = "",
    ) -> None:
        self._client: Client = environment.client
        self._table = table
        self._query = query
        self._splitter = splitter
        self._filling = filling
        self._add_up = splitter is not None and by_key
        self._failure: CombineFailure | None = None  # found while the data was parked
        self._end: bytes | None = None  # what ended it
        self._given_up = False  # by the client's CopyFail, or what has no place here
        self._misplaced: int | None = None  # the type of that
        self._given_up_at: int | None = None  # in which line of the client's that was
        self._wake = asyncio.Event()
        self._skipped = Skipped(self._client.write, splitter, add_up=self._add_up)
        self._receivers = [
            CopyInReceiver(link, number, self._wake, self._client, self._skipped.of(number))
            for number, link in enumerate(links)
        ]
        self._tag: bytes | None = None

    @property
    def tag(self) -> bytes:
        """``COPY n`` over all shards."""
        if self._tag is None:
            raise AssertionError("the statement is not over")
        return self._tag

    async def next_rows(self, max_rows: int = 0) -> RowBatch:  # noqa: ARG002 - COPY knows no row limit
        """Do the whole COPY; see ``ResultStream.next_rows`` for what is raised."""
        if self._tag is not None:
            return RowBatch([], 0, done=True)
        try:
            if self._filling is not None:
                await self._filling.values.begin()
                if self._filling.values.parked:
                    await self._park()
            await self._open()
            await self._pass_data()
            if self._given_up:
                await self._until_over()
                self._raise_error(besides=QUERY_CANCELED)  # of data that came before CopyFail
                self._check_place()
            await self._until(lambda: all(receiver.over for receiver in self._receivers))
            found = [self._tag_of(receiver) for receiver in self._receivers]
            self._skipped.tell()
            self._tag = tags.add(found) if self._add_up else tags.agree(found)
            self._end_filling()
        except CombineFailure as failure:
            # Rows before the bad one may hold an error that Postgres would have found first.
            if self._splitter is not None:
                await self._flush()
            await self.close()
            self._raise_error(besides=QUERY_CANCELED)
            line = self._splitter.line() if self._splitter is not None else None
            failure.context = "" if line is None else f"COPY {self._table}, line {line}"
            raise proxy_error(failure) from failure
        except BaseException:
            await self.close()
            raise
        return RowBatch([], 0, done=True)

    async def _park(self) -> None:
        """Take all the data before any shard is asked for anything: its values come from the shards' own links."""
        if self._splitter is None or self._filling is None:
            return
        self._client.write(self._filling.response)
        await self._client.drain()
        size, most = 0, self._filling.values.max_parked_bytes
        while self._end is None:
            data: list[bytes] = []
            self._end = self._sort_out(await self._received(), data)
            size += sum(map(len, data))
            if size > most:
                raise ProxyError(
                    CONFIGURATION_LIMIT_EXCEEDED,
                    "COPY has too much data for columns that are filled in",
                    detail=f"In a transaction that has changed definitions or settings it is kept: {most} bytes.",
                    hint="Give the columns in the data, or raise merge.max_parked_bytes.",
                )
            try:
                self._splitter.feed(b"".join(data))
                if self._end == _DONE:
                    self._splitter.finish()
            except CombineFailure as failure:
                self._failure = failure
                break
        await self._fill()

    async def _fill(self) -> None:
        """Let rows that wait have their values."""
        if self._filling is not None and self._splitter is not None and self._splitter.waiting:
            self._splitter.fill(await self._filling.values.rows(self._splitter.waiting))

    def _end_filling(self) -> None:
        if self._filling is not None:
            self._filling.values.end()

    # --- the beginning ----------------------------------------------------------------------------------------

    async def _open(self) -> None:
        for receiver in self._receivers:
            receiver.over = False
            try:
                receiver.link.exchange(self._query, receiver)
            except ShardError as error:
                receiver.lost(error)
        await self._until(lambda: all(receiver.response is not None or receiver.over for receiver in self._receivers))
        first = self._receivers[0]
        for receiver in self._receivers:
            if receiver.response is None or first.response is None:
                raise ProxyError(INTERNAL_ERROR, f"shard {receiver.link.name} answered COPY without CopyInResponse")
            if receiver.response != first.response:
                raise refusal("different-columns", one=first.link.name, other=receiver.link.name)
        assert first.response is not None  # noqa: S101 - narrows the type; checked above
        if self._filling is None:
            self._client.write(first.response)
        elif not self._filling.values.parked:
            self._client.write(self._filling.response)
        await self._client.drain()

    # --- data -------------------------------------------------------------------------------------------------

    async def _pass_data(self) -> None:
        if self._filling is not None and self._filling.values.parked:
            await self._flush()
            if self._failure is not None:
                raise self._failure
            self._given_up = self._misplaced is not None
            for receiver in self._receivers:
                receiver.end(self._end or _DONE)
            return
        while (messages := await self._receive()) is not None:
            data: list[bytes] = []
            end = self._sort_out(messages, data)
            await self._send(b"".join(data))
            if end is None:
                continue
            if end == _DONE and self._splitter is not None:
                self._splitter.finish()
                await self._flush()
            self._given_up = end != _DONE
            if self._given_up and self._splitter is not None:
                self._given_up_at = self._splitter.line()
            for receiver in self._receivers:
                receiver.end(end)
            return

    async def _received(self) -> list[tuple[int, bytes]]:
        received, self._misplaced = await receive_in_copy(self._client)
        return received

    async def _receive(self) -> list[tuple[int, bytes]] | None:
        """Return the client's next messages; raises a shard's error if one comes first."""
        receiving = asyncio.ensure_future(self._received())
        try:
            while not receiving.done():
                self._raise_error()
                self._wake.clear()
                waking = asyncio.ensure_future(self._wake.wait())
                try:
                    await asyncio.wait({receiving, waking}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    waking.cancel()
        finally:
            if not receiving.done():
                receiving.cancel()
        return receiving.result()

    def _sort_out(self, messages: list[tuple[int, bytes]], data: list[bytes]) -> bytes | None:
        """Collect the data of the client's messages.

        Returns how the COPY ends (a message for the shards), if it does.
        """
        for position, (kind, body) in enumerate(messages):
            if kind == _COPY_DATA:
                data.append(body)
            elif kind not in _FLUSH_SYNC:  # those two are ignored during COPY
                if kind == _COPY_DONE:
                    end = _DONE
                elif kind == _COPY_FAIL:
                    end = CopyFail(body.rstrip(b"\0")).encode()
                else:
                    self._misplaced = kind
                    self._client.push_back(messages[position:])
                    return MISPLACED
                self._client.push_back(messages[position + 1 :])
                return end
        return None if self._misplaced is None else MISPLACED

    async def _send(self, data: bytes) -> None:
        if not data:
            return
        if self._splitter is None:
            message = CopyData(data).encode()
            for receiver in self._receivers:
                receiver.write(message)
            await self._drain(self._receivers)
        else:
            self._splitter.feed(data)
            await self._flush()

    async def _flush(self) -> None:
        """Send what was dealt, one message for each shard. Nothing is kept back.

        A slow client's errors are not either.
        """
        assert self._splitter is not None  # noqa: S101 - narrows the type
        await self._fill()
        dealt = self._splitter.dealt
        written = []
        for receiver in self._receivers:
            if dealt.sizes[receiver.position]:
                receiver.write(CopyData(dealt.take(receiver.position)).encode())
                written.append(receiver)
        await self._drain(written)

    async def _drain(self, receivers: Sequence[CopyInReceiver]) -> None:
        """Wait until the shards have taken most of it. An error of a shard is noticed by :meth:`_receive`."""
        for receiver in receivers:
            if not receiver.over:
                try:
                    await receiver.link.drain()
                except ShardError as error:
                    receiver.lost(error)

    # --- the end ----------------------------------------------------------------------------------------------

    def _tag_of(self, receiver: CopyInReceiver) -> bytes:
        if receiver.tag is None:
            raise ProxyError(INTERNAL_ERROR, f"shard {receiver.link.name} ended COPY without a command tag")
        return receiver.tag

    async def _until(self, ready: Callable[[], bool]) -> None:
        while True:
            self._raise_error()
            if ready():
                return
            self._wake.clear()
            await self._wake.wait()

    async def _until_over(self) -> None:
        while not all(receiver.over for receiver in self._receivers):
            self._wake.clear()
            await self._wake.wait()

    def _raise_error(self, besides: str = "") -> None:
        for receiver in self._receivers:
            if receiver.error is not None and receiver.error.sqlstate != besides:
                raise self._renumbered(receiver, receiver.error)

    def _check_place(self) -> None:
        """Tell the client of a message that has no place here, and end the connection: nothing was wrong before it."""
        for receiver in self._receivers:
            if receiver.error is not None:
                told = of_misplaced(self._renumbered(receiver, receiver.error).fields, self._misplaced)
                if told is not None:
                    self._client.write(backend.error_response(told))
                    raise out_of_place()

    def _renumbered(self, receiver: CopyInReceiver, error: ShardError) -> ShardError:
        """Make the line number in the CONTEXT the client's; the CONTEXT goes if the line is not known."""
        where = error.fields.get("W")
        if self._filling is not None:
            where = self._filling.shown(where)
            fields = error.fields.replace(W=where or None, M=self._filling.counted(error.fields.message))
            error = ShardError(fields, error.shard, backend.error_response(fields), lost=error.lost)
        match = _LINE.search(where)
        if self._splitter is None or match is None:
            return error
        whole = error.sqlstate not in _WHILE_READING
        line = self._given_up_at if error.sqlstate == QUERY_CANCELED else None
        if line is None:
            line = self._splitter.dealt.numbering.original(receiver.position, int(match[2]), whole=whole)
        where_now = None if line is None else f"{where[: match.end(1)]}{line}{where[match.end() :]}"
        fields = error.fields.replace(W=where_now)
        return ShardError(fields, error.shard, backend.error_response(fields), lost=error.lost)

    async def park(self) -> None:
        """Nothing to do: COPY is never suspended."""

    async def close(self) -> None:
        """Make every shard give up, and bring the links back to ReadyForQuery."""
        self._end_filling()
        fail = CopyFail(_OTHER_FAILED).encode()
        try:
            while not all(receiver.over for receiver in self._receivers):
                for receiver in self._receivers:
                    # Only a shard that is waiting for data may be told so; one that is not yet would take it for
                    # anything.
                    if receiver.response is not None:
                        receiver.end(fail)
                self._wake.clear()
                await self._wake.wait()
        except BaseException:
            for receiver in self._receivers:
                if not receiver.over:
                    receiver.link.abort()
            raise


async def start_copy_in(
    execution: CopyInExecution, request: Request, links: Links, environment: Environment
) -> ResultStream:
    """Prepare a COPY FROM; everything happens in the first ``next_rows``."""
    fill, by_key = execution.plan.fill, execution.plan.key_column is not None
    filling = None
    if fill is not None and environment.copy_values is not None:
        filling = Filling(execution.plan, fill, environment.copy_values, _codec(execution.plan.format, request))
    try:
        cuts = by_key or filling is not None or execution.plan.clocked
        splitter = _splitter(execution, request, environment, filling) if cuts else None
        joined = await links.join(execution.shards, writes=True)
    except BaseException:
        if filling is not None:
            filling.values.end()
        raise
    text = request.text if fill is None else fill.text
    query = Query(written(text, request.encoding)).encode()
    return CopyInResult(
        [joined[shard] for shard in execution.shards],
        query,
        environment,
        splitter,
        filling=filling,
        by_key=by_key,
        table=execution.plan.table,
    )


def _splitter(
    execution: CopyInExecution, request: Request, environment: Environment, filling: Filling | None
) -> Splitter:
    plan, copy_format = execution.plan, execution.plan.format
    column, placer = plan.key_column or 0, None
    positions = {shard: position for position, shard in enumerate(execution.shards)}
    binary = copy_format.format == "binary"
    codec = _codec(copy_format, request)
    if plan.key_type is not None:
        owners = [positions[owner] for owner in execution.slot_owners]
        placer = KeyPlacer(plan.key_type, owners, plan.key_modifier, codec if binary else UTF_8)
    dealt = Dealt(len(positions), Numbering(len(positions), everywhere=placer is None))
    writer = None if filling is None else filling.writer
    if binary:
        return BinarySplitter(column, placer, dealt, writer)
    if _UNSAFE_ENCODINGS.search(codec.lower()):
        raise ProxyError(
            FEATURE_NOT_SUPPORTED,
            f"COPY into a sharded table is not supported while the encoding of its data is {codec}",
            hint="Send UTF-8, with the option ENCODING 'UTF8' or after SET client_encoding TO 'UTF8'.",
        )
    by = Dealing(copy_format, column, placer, dealt, writer, plan.clocked, codec)
    if copy_format.format == "csv":
        return CsvSplitter(by, dot_ends=environment.server_version < 18)  # noqa: PLR2004 - where that changed
    return TextSplitter(by)


def _codec(copy_format: CopyFormat, request: Request) -> str:
    """Return Python's name for the encoding of the data. Raises Refused for one that is not read here as by a shard."""
    # ENCODING says nothing about binary data.
    if copy_format.format == "binary" or not copy_format.encoding:
        return request.encoding
    encoding = by_name(copy_format.encoding)
    if encoding is None or not encoding.several:
        raise refusal("copy-option", name=f"ENCODING {copy_format.encoding}")
    return encoding.codec
