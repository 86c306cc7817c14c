"""A forward cursor over several shards: one SQL cursor on each, read in chunks and combined as a SELECT's rows are.

``open_cursor`` declares the cursors, behind the fence if there is one (DECLARE takes the snapshot when it completes).
``CursorScatter`` stands in for a Scatter under the results of results.py and merged.py, with two differences: it asks a
shard for more rows when they are wanted, and between two chunks every link is at ReadyForQuery, free for other
statements. So a cursor of any length holds one chunk of each shard in memory. How rows become one answer is for those
results; what FETCH and MOVE mean is the session's (proxy.session.cursors).
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Final, cast

from proxy.encodings import written
from proxy.executor.failure import CombineFailure
from proxy.executor.formats import aggregate_formats, ordered_formats
from proxy.executor.merged import AggregateResult, OrderedResult
from proxy.executor.request import proxy_error
from proxy.executor.results import ConcatResult
from proxy.executor.scatter import Options, same_columns
from proxy.executor.shard_stream import ShardStream
from proxy.shards.errors import ShardError
from proxy.wire import backend
from proxy.wire.frames import frame
from proxy.wire.frontend import Bind, Describe, Execute, Parse, Sync
from router.errors import refusal
from router.plan import Aggregate, Ordered

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from proxy.executor.request import Environment, Fence, Links, Request, ResultStream
    from proxy.executor.scatter import Scatter
    from proxy.shards.link import ShardLink
    from proxy.wire.backend import Field
    from router.plan import Execution, Task

#: What a chunk should have, from the width of the rows before it; the first has FIRST_ROWS.
CHUNK_BYTES: Final = 128 << 10
FIRST_ROWS: Final = 64
MOST_ROWS: Final = 8192
_SYNC: Final = Sync().encode()
_BINARY: Final = 1


class CursorStream(ShardStream):
    """One shard's cursor, as the merges read it: ``over`` when it has no more rows for us."""

    def __init__(self, link: ShardLink, wake: asyncio.Event, name: str, environment: Environment) -> None:
        # A chunk is small and its link must come back to ReadyForQuery: it is never paused.
        super().__init__(link, wake, high_water_bytes=1 << 62, client=environment.client)
        self._name = name
        self._asked = 0
        self._rows = FIRST_ROWS
        self.busy = False
        self.over = False
        self._chunk_bytes = 0

    def frames(self, chunk: memoryview | bytes, index: list[tuple[int, int, int]]) -> bool:
        """Take complete frames; True when the chunk is over."""
        over_before, self.over = self.over, False
        self._chunk_bytes += sum(end - start for kind, start, end in index if kind == backend.DATA_ROW)
        ended = super().frames(chunk, index)
        if not ended:
            self.over = over_before
            return False
        self.busy = False
        self.over = self.discarding or self._rows_of_chunk() < self._asked
        if self._asked and not self.over:
            width = max(self._chunk_bytes // self._asked, 1)
            self._rows = max(1, min(CHUNK_BYTES // width, MOST_ROWS))
        return True

    def lost(self, error: ShardError) -> None:
        """The link died."""
        self.busy = False
        super().lost(error)

    def _rows_of_chunk(self) -> int:
        words = (self.tag or b"").split()
        return int(words[-1]) if words and words[-1].isdigit() else 0

    def ask(self, formats: tuple[int, ...]) -> None:
        """Ask for the next chunk."""
        self._asked, self._chunk_bytes, self.busy = self._rows, 0, True
        text = f"FETCH FORWARD {self._rows} FROM {self._name}".encode()
        packet = Parse(b"", text, ()).encode() + Bind(b"", b"", (), (), formats).encode() + Execute(b"", 0).encode()
        self.link.exchange(packet + _SYNC, self)

    def discard(self) -> None:
        """Want no more rows."""
        super().discard()
        if not self.busy:
            self.over = True


class CursorScatter:
    """The cursors of one statement; what results use of a Scatter. ``streams`` are in the order of the tasks."""

    def __init__(self, streams: Sequence[CursorStream], wake: asyncio.Event, fields: tuple[Field, ...]) -> None:
        self.streams = list(streams)
        self._wake = wake
        self._fields = fields
        self.formats: tuple[int, ...] = ()
        self.options = Options()

    def use(self, formats: tuple[int, ...]) -> None:
        """Fetch in these formats from now on."""
        self.formats = formats
        codes = formats * len(self._fields) if len(formats) == 1 else formats or (0,) * len(self._fields)
        described = tuple(
            type(f)(f.name, f.table_oid, f.column, f.type_oid, f.type_size, f.type_modifier, code)
            for f, code in zip(self._fields, codes, strict=False)
        )
        for stream in self.streams:
            stream.fields = described

    @property
    def over(self) -> bool:
        """Whether no shard has more rows for us."""
        return all(stream.over for stream in self.streams)

    def tags(self) -> list[bytes]:
        """Stand in for the tags of SELECTs: FETCH counts for itself."""
        return [b"SELECT 0" for _ in self.streams]

    async def until(self, ready: Callable[[], bool], *, rows_first: bool = False) -> None:  # noqa: ARG002 - as a Scatter's
        """Fetch until ``ready``; raises the first error of any shard, after all links are back."""
        while not ready():
            for stream in self.streams:
                if not (stream.over or stream.busy or stream.has_rows or stream.discarding):
                    stream.ask(self.formats)
            await self.settle()

    async def settle(self) -> None:
        """Wait until every link is at ReadyForQuery; raises the first error."""
        try:
            while any(stream.busy for stream in self.streams):
                self._wake.clear()
                await self._wake.wait()
        except BaseException:
            for stream in self.streams:
                if stream.busy:
                    stream.link.abort()
            raise
        for stream in self.streams:
            if stream.error is not None:
                raise stream.error

    async def finish(self) -> None:
        """Forget the rows; the cursors on the shards are the session's to close."""
        for stream in self.streams:
            stream.discard()


class SpreadCursor:
    """A declared cursor. Its result is made at the first FETCH, which says in which formats rows are wanted."""

    def __init__(
        self, scatter: CursorScatter, execution: Execution, request: Request, environment: Environment
    ) -> None:
        self._scatter = scatter
        self._execution = execution
        self._request = request
        self._environment = environment
        self._formats: tuple[int, ...] | None = None
        self._result: ResultStream | None = None

    async def result(self, formats: tuple[int, ...]) -> ResultStream:
        """Return the merged rows; raises ProxyError when they were read in other formats before."""
        formats = _shortest(formats)
        if self._result is None:
            self._result = await self._combine(formats)
            self._formats = formats
        elif formats != self._formats:
            raise refusal("cursor-formats")
        return self._result

    async def _combine(self, formats: tuple[int, ...]) -> ResultStream:
        execution, combine, limits = self._execution, self._execution.combine, self._environment.limits
        scatter = self._scatter
        request = replace(self._request, result_formats=formats)
        shards = cast("Scatter", scatter)  # it has what results use
        try:
            if isinstance(combine, Ordered) and len(execution.tasks) > 1:
                scatter.use(ordered_formats(formats, combine))
                return OrderedResult(shards, limits, combine, request, execution)
            if isinstance(combine, Aggregate) and len(execution.tasks) > 1:
                scatter.use(aggregate_formats(formats, combine))
                return await AggregateResult(shards, limits, combine, request, execution).combined()
        except CombineFailure as failure:
            raise proxy_error(failure) from failure
        scatter.use(formats)
        return ConcatResult(shards, limits)

    async def settle(self) -> None:
        """Have all links free again."""
        await self._scatter.settle()


def _shortest(formats: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shortest way to say it: text is asked for by no codes, by one for all, or by one for each column."""
    if not any(formats):
        return ()
    return (1,) if all(formats) else formats


async def open_cursor(
    name: str, execution: Execution, request: Request, links: Links, environment: Environment
) -> SpreadCursor:
    """Declare ``name`` (an identifier as SQL writes it) on every shard of the execution, all at one moment.

    Raises ShardError, ProxyError, and what the fence raises; then some of the cursors may exist.
    """
    joined = await links.join([task.shard for task in execution.tasks], writes=False)
    fence = environment.fence
    if fence is None:
        described = _all_of(await _declare_all(name, execution, request, joined))
    else:
        await asyncio.gather(*(joined[task.shard].run("") for task in execution.tasks))  # BEGIN, settings
        described = await _declare_at_one_moment(name, execution, request, joined, fence)
        if fence.barrier is not None:
            await fence.barrier()
    for task, other in zip(execution.tasks[1:], described[1:], strict=True):
        if not same_columns(described[0], other):
            first = joined[execution.tasks[0].shard].name
            raise refusal("different-columns", one=first, other=joined[task.shard].name)
    wake = asyncio.Event()
    streams = [CursorStream(joined[task.shard], wake, name, environment) for task in execution.tasks]
    return SpreadCursor(CursorScatter(streams, wake, described[0]), execution, request, environment)


async def _declare_at_one_moment(
    name: str, execution: Execution, request: Request, joined: Mapping[int, ShardLink], fence: Fence
) -> list[tuple[Field, ...]]:
    """Declare behind the fence; who waits for a lock lets it go, and declares again with the locks it has then."""
    for patience_s in fence.patience():
        if fence.before_bind is not None:
            await fence.before_bind()
        declaring = _declare_all(name, execution, request, joined)
        try:
            await asyncio.wait([declaring], timeout=patience_s)
            if declaring.done():
                break
            if fence.let_go is not None:
                await fence.let_go()
            await asyncio.wait([declaring])
        except BaseException:
            declaring.cancel()
            raise
        _all_of(declaring.result())
        await asyncio.gather(*(joined[task.shard].run(f"CLOSE {name}") for task in execution.tasks))
    return _all_of(declaring.result())


def _declare_all(
    name: str, execution: Execution, request: Request, joined: Mapping[int, ShardLink]
) -> asyncio.Future[list[tuple[Field, ...] | BaseException]]:
    return asyncio.gather(
        *(_declare(joined[task.shard], name, task, request) for task in execution.tasks), return_exceptions=True
    )


def _all_of(found: Sequence[tuple[Field, ...] | BaseException]) -> list[tuple[Field, ...]]:
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return [one for one in found if not isinstance(one, BaseException)]


async def _declare(link: ShardLink, name: str, task: Task, request: Request) -> tuple[Field, ...]:
    text = request.text if task.text is None else task.text
    declare = written(f"DECLARE {name} NO SCROLL CURSOR FOR {text}", request.encoding)
    packet = (
        Parse(b"", declare, request.parameter_oids).encode()
        + Bind(b"", b"", request.parameter_formats, request.parameters, ()).encode()
        + Execute(b"", 0).encode()
        + Describe(b"P", name.encode()).encode()
        + _SYNC
    )
    fields: tuple[Field, ...] = ()
    for kind, body in await link.collect(packet):
        if kind == backend.ERROR_RESPONSE:
            raise ShardError(backend.decode_error(body), link.shard, frame(b"E", body))
        if kind == backend.ROW_DESCRIPTION:
            fields = backend.decode_row_description(body)
    return fields
