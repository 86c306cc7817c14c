"""COPY ... TO STDOUT from several shards: their streams one after another, as one stream.

Decides what of each shard's stream goes on: one CopyOutResponse, the header line or the binary signature once, the
binary trailer once, one CopyDone. Data is passed on in the blocks in which it came. Postgres sends each line of text or
CSV (and a header line) as one CopyData message; that and the binary layout is all that is relied on.

COPY takes its snapshot when it is executed, not at Bind, so the fence surrounds something else here:

- outside a block, a transaction of our own on each shard, whose snapshot is fixed before COPY is sent;
- inside a block, the start of all COPYs at once: a shard has its snapshot when its CopyOutResponse is here. Locks are
  waited for before that, by a Bind of what is copied, which runs nothing: so no COPY runs behind a fence that it must
  let go. A query that is slow to its first rows outlasts the fence there, and fails.

https://www.postgresql.org/docs/18/protocol-flow.html#PROTOCOL-COPY
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from proxy.encodings import written
from proxy.errors import INTERNAL_ERROR, ProxyError
from proxy.executor import tags
from proxy.executor.copy_binary import TRAILER, header_bytes
from proxy.executor.failure import CombineFailure
from proxy.executor.request import RowBatch, proxy_error
from proxy.executor.shard_stream import ShardStream
from proxy.shards.errors import ShardError
from proxy.shards.link import end_all
from proxy.shards.relay import IDLE
from proxy.tasks import all_ended
from proxy.wire import backend
from proxy.wire.frames import frame
from proxy.wire.frontend import Bind, Parse, Query, Sync
from router.errors import refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from proxy.executor.request import Environment, Fence, Links, Request, ResultStream
    from proxy.shards.link import ShardLink
    from proxy.wire.backend import Field
    from router.plan_copy import CopyFormat, CopyOutExecution

_HEADER_BYTES = 5
_BIND = Bind(b"", b"", (), (), ()).encode() + Sync().encode()


class CopyOutStream(ShardStream):
    """The receiver of one shard's COPY TO; CopyData messages are its rows."""

    row_kind = backend.COPY_DATA
    response: bytes | None = None

    def _other(self, kind: int, message: bytes) -> None:
        if kind == backend.COPY_OUT_RESPONSE:
            self.response = message
            self.described = True
        elif kind != backend.COPY_DONE:
            super()._other(kind, message)


class CopyOutResult:
    """See ``request.ResultStream``: its frames are CopyOutResponse, CopyData and CopyDone, and it has no rows."""

    row_description: tuple[Field, ...] | None = None

    def __init__(
        self,
        links: Sequence[ShardLink],
        query: bytes,
        environment: Environment,
        *,
        copy_format: CopyFormat,
        locks: bytes = b"",
    ) -> None:
        """``locks``: messages that have a shard take the locks which the query takes."""
        self._links = list(links)
        self._query = query
        self._locks = locks
        self._binary = copy_format.format == "binary"
        self._header = copy_format.header
        self._wake = asyncio.Event()
        self._high_water_bytes = environment.limits.max_buffer_bytes
        self._client = environment.client
        self._stream: CopyOutStream | None = None
        self._started: list[CopyOutStream] = []  # inside a block: those that wait for their turn
        self._own_transactions = False
        self._position = -1
        self._response: bytes | None = None
        self._held = b""  # binary: the last message, whose end may be the trailer
        self._first_message = True  # of the current shard
        self._tags: list[bytes] = []
        self._tag: bytes | None = None

    @property
    def tag(self) -> bytes:
        """``COPY n`` over all shards."""
        if self._tag is None:
            raise AssertionError("the statement is not over")
        return self._tag

    async def take_snapshots(self, fence: Fence) -> None:
        """Have all shards see one moment. Raises ShardError, or what the fence raises, with all links idle again."""
        try:
            # What is to be put in front goes out now, and tells whether there is a block.
            await self._on_all("")
            self._own_transactions = all(link.status == IDLE for link in self._links)
            if self._own_transactions:
                if fence.before_bind is not None:
                    await fence.before_bind()
                await self._on_all("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
            else:
                await self._start_at_one_moment(fence)
            if fence.barrier is not None:
                await fence.barrier()
        except BaseException:
            await self.close()
            raise

    async def _start_at_one_moment(self, fence: Fence) -> None:
        await all_ended([self._take_locks(link) for link in self._links])
        if fence.before_bind is not None:
            await fence.before_bind()
        self._started = [self._start(link) for link in self._links]
        for stream in self._started:
            await self._until(stream, lambda stream=stream: stream.described or stream.over)  # type: ignore[misc]  # mypy infers no type of a default

    async def _take_locks(self, link: ShardLink) -> None:
        for kind, body in await link.collect(self._locks):
            if kind == backend.ERROR_RESPONSE:
                raise ShardError(backend.decode_error(body), link.shard, frame(b"E", body))

    async def _on_all(self, sql: str) -> None:
        await all_ended([link.run(sql) for link in self._links])

    async def _end_own_transactions(self) -> None:
        """End what was opened for the snapshot; nothing in it was for keeping. A link that fails is closed."""
        if not self._own_transactions:
            return
        self._own_transactions = False
        await end_all(self._links, "COMMIT")

    async def next_rows(self, max_rows: int = 0) -> RowBatch:  # noqa: ARG002 - COPY knows no row limit
        """Return the next messages."""
        if self._tag is not None:
            return RowBatch([], 0, done=True)
        frames: list[bytes] = []
        while not frames:
            stream = self._stream or self._start_next()
            await self._until(stream, lambda stream=stream: stream.has_rows or stream.over)  # type: ignore[misc]  # mypy infers no type of a default
            self._take_response(stream, frames)
            while stream.has_rows:
                data, rows = stream.take(0 if not (self._binary or self._first_message) else 1)
                self._pass_on(data, rows, frames)
            if stream.over:
                if not self._finish_shard(stream, frames):
                    continue
                try:
                    self._tag = tags.add(self._tags)
                except CombineFailure as failure:
                    raise proxy_error(failure) from failure
                frames.append(backend.copy_done())
                await self._end_own_transactions()
                return RowBatch(frames, 0, done=True)
        return RowBatch(frames, 0, done=False)

    def _start_next(self) -> CopyOutStream:
        self._position += 1
        self._first_message = True
        started = self._started
        self._stream = started.pop(0) if started else self._start(self._links[self._position])
        return self._stream

    def _start(self, link: ShardLink) -> CopyOutStream:
        stream = CopyOutStream(link, self._wake, high_water_bytes=self._high_water_bytes, client=self._client)
        stream.over = False
        try:
            link.exchange(self._query, stream)
        except ShardError as error:
            stream.lost(error)
        return stream

    async def _until(self, stream: CopyOutStream, ready: Callable[[], bool]) -> None:
        while stream.error is None and not ready():
            self._wake.clear()
            await self._wake.wait()
        if stream.error is not None:
            await self.close()
            raise stream.error

    def _take_response(self, stream: CopyOutStream, frames: list[bytes]) -> None:
        if stream.response is None:
            raise ProxyError(INTERNAL_ERROR, f"shard {stream.link.name} answered COPY without CopyOutResponse")
        if self._response is None:
            self._response = stream.response
            frames.append(stream.response)
        elif self._response != stream.response:
            raise refusal("different-columns", one=self._links[0].name, other=stream.link.name)

    def _pass_on(self, data: bytes, rows: int, frames: list[bytes]) -> None:
        first, self._first_message = self._first_message, False
        if self._binary:
            body = data[_HEADER_BYTES:]
            if first and self._position:
                body = body[header_bytes(body) :]
            self._flush_held(frames)
            self._held = body
        elif not (first and self._header and self._position):
            frames.append(data)
        elif rows != 1:
            raise AssertionError("a header is taken alone")

    def _flush_held(self, frames: list[bytes]) -> None:
        if self._held:
            frames.append(backend.copy_data(self._held))
            self._held = b""

    def _finish_shard(self, stream: CopyOutStream, frames: list[bytes]) -> bool:
        """Note the end of a shard's stream; True when it was the last one."""
        if stream.tag is None:
            raise ProxyError(INTERNAL_ERROR, f"shard {stream.link.name} ended COPY without a command tag")
        self._tags.append(stream.tag)
        self._stream = None
        last = self._position == len(self._links) - 1
        if self._binary:
            if not self._held.endswith(TRAILER):
                raise ProxyError(INTERNAL_ERROR, f"shard {stream.link.name} ended a binary COPY without a trailer")
            if not last:
                self._held = self._held[: -len(TRAILER)]
            self._flush_held(frames)
        return last

    async def park(self) -> None:
        """Nothing to do: COPY is never suspended."""

    async def close(self) -> None:
        """Bring the links back to ReadyForQuery, and out of transactions of ours."""
        streams = [*([self._stream] if self._stream is not None else []), *self._started]
        for stream in streams:
            stream.discard()
        try:
            while not all(stream.over for stream in streams):
                self._wake.clear()
                await self._wake.wait()
            await self._end_own_transactions()
        except BaseException:
            for stream in streams:
                if not stream.over:
                    stream.link.abort()
            raise


def _bound(query: str, request: Request) -> bytes:
    """Return the messages that bind a query; errors in it are at its place in the statement."""
    query = " " * max(request.text.find(query), 0) + query
    return Parse(b"", written(query, request.encoding)).encode() + _BIND


async def start_copy_out(
    execution: CopyOutExecution, request: Request, links: Links, environment: Environment
) -> ResultStream:
    """Prepare a COPY TO; without a fence the first shard starts with the first ``next_rows``."""
    joined = await links.join(execution.shards, writes=False)
    result = CopyOutResult(
        [joined[shard] for shard in execution.shards],
        Query(written(request.text, request.encoding)).encode(),
        environment,
        copy_format=execution.plan.format,
        locks=_bound(execution.plan.query, request),
    )
    if environment.fence is not None:
        await result.take_snapshots(environment.fence)
    return result
