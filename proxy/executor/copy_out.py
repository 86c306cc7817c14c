"""COPY ... TO STDOUT from several shards: their streams one after another, as one stream.

Decides what of each shard's stream goes on: one CopyOutResponse, the header line or the binary signature once, the
binary trailer once, one CopyDone. Data is passed on in the blocks in which it came. Postgres sends each line of text or
CSV (and a header line) as one CopyData message; that and the binary layout is all that is relied on.

https://www.postgresql.org/docs/18/protocol-flow.html#PROTOCOL-COPY
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from proxy.errors import FEATURE_NOT_SUPPORTED, INTERNAL_ERROR, ProxyError
from proxy.executor import tags
from proxy.executor.copy_binary import TRAILER, header_bytes
from proxy.executor.failure import CombineFailure
from proxy.executor.request import RowBatch, proxy_error
from proxy.executor.shard_stream import ShardStream
from proxy.shards.errors import ShardError
from proxy.wire import backend
from proxy.wire.frontend import Query

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from proxy.executor.request import Environment, Links, Request, ResultStream
    from proxy.shards.link import ShardLink
    from proxy.wire.backend import Field
    from router.plan import CopyOutExecution

_HEADER_BYTES = 5


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
        self, links: Sequence[ShardLink], query: bytes, environment: Environment, *, binary: bool, header: bool
    ) -> None:
        self._links = list(links)
        self._query = query
        self._binary = binary
        self._header = header
        self._wake = asyncio.Event()
        self._high_water_bytes = environment.limits.max_buffer_bytes
        self._on_notice: Callable[[bytes], None] = environment.on_notice or environment.client.write
        self._stream: CopyOutStream | None = None
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

    async def next_rows(self, max_rows: int = 0) -> RowBatch:  # noqa: ARG002 - COPY knows no row limit
        """Return the next messages."""
        if self._tag is not None:
            return RowBatch([], 0, done=True)
        frames: list[bytes] = []
        while not frames:
            stream = self._stream or self._start_next()
            await self._until(stream, lambda stream=stream: stream.has_rows or stream.over)  # type: ignore[misc]
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
                return RowBatch(frames, 0, done=True)
        return RowBatch(frames, 0, done=False)

    def _start_next(self) -> CopyOutStream:
        self._position += 1
        self._first_message = True
        stream = self._stream = CopyOutStream(
            self._links[self._position],
            self._wake,
            high_water_bytes=self._high_water_bytes,
            on_notice=self._on_notice,
        )
        stream.over = False
        try:
            stream.link.exchange(self._query, stream)
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
            raise ProxyError(
                FEATURE_NOT_SUPPORTED,
                f"shards {self._links[0].name} and {stream.link.name} would copy different columns",
                hint="The schemas of the shards differ; see pgchorus doctor.",
            )

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
        """Bring the current link back to ReadyForQuery."""
        stream = self._stream
        if stream is None:
            return
        stream.discard()
        try:
            while not stream.over:
                self._wake.clear()
                await self._wake.wait()
        except BaseException:
            stream.link.abort()
            raise


async def start_copy_out(
    execution: CopyOutExecution, request: Request, links: Links, environment: Environment
) -> ResultStream:
    """Prepare a COPY TO; the first shard starts with the first ``next_rows``."""
    joined = await links.join(execution.shards, writes=False)
    copy_format = execution.plan.format
    return CopyOutResult(
        [joined[shard] for shard in execution.shards],
        Query(request.text.encode(request.encoding, "surrogateescape")).encode(),
        environment,
        binary=copy_format.format == "binary",
        header=copy_format.header,
    )
