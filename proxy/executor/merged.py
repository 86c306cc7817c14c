"""Results for which rows of several shards are compared or combined: the merge of sorted streams, and aggregates.

Drives the pure merging.py and aggregate.py with the streams of a scatter.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from proxy.errors import INTERNAL_ERROR, ProxyError
from proxy.executor.aggregate import Combiner
from proxy.executor.failure import CombineFailure
from proxy.executor.formats import expand
from proxy.executor.merging import Merge
from proxy.executor.request import Limits, Request, RowBatch, proxy_error
from proxy.executor.results import ListResult, ScatterResult
from proxy.turns import Turn, beside

if TYPE_CHECKING:
    from proxy.executor.scatter import Scatter
    from proxy.executor.shard_stream import ShardStream
    from proxy.wire.backend import Field
    from router.plan import Aggregate, Execution, Ordered

_BATCH_ROWS = 512
_TURN_ROWS = 64  # are combined before one looks at the clock
_MANY_GROUPS = 512  # are put in order beside the loop


class OrderedResult(ScatterResult):
    """Sorted streams merged; the first ``visible`` columns of each row go out."""

    def __init__(self, scatter: Scatter, limits: Limits, node: Ordered, request: Request, execution: Execution) -> None:
        fields = scatter.streams[0].fields
        if fields is None:
            raise ProxyError(INTERNAL_ERROR, "an ordered statement returns no rows")
        super().__init__(scatter, limits, fields[: node.visible])
        self._merge = Merge(
            scatter.streams,
            node.keys,
            node.visible,
            limit=execution.limit,
            offset=execution.offset,
            encoding=request.encoding,
        )
        self._sent = 0

    async def _next(self, max_rows: int) -> RowBatch:
        merge, scatter = self._merge, self._scatter
        frames: list[bytes] = []
        most = min(max_rows or _BATCH_ROWS, _BATCH_ROWS)
        await asyncio.sleep(0)  # much may be at hand, and other sessions want their turn
        while not frames and not merge.finished:
            await scatter.until(lambda: not merge.blocked, rows_first=scatter.options.rows_first)
            frames = merge.take(most)
        self._sent += len(frames)
        done = merge.finished and not (max_rows and len(frames) == max_rows)
        if done:
            for stream in scatter.streams:  # what lies behind the limit
                stream.discard()
            await scatter.until(lambda: scatter.over)
            self._tag = b"SELECT %d" % self._sent
        return RowBatch(frames, len(frames), done)


class AggregateResult:
    """The rows that partial rows of all shards add up to: these are read when the first one is asked for.

    Until then it is known what the columns are, which Postgres tells before it computes anything.
    """

    def __init__(
        self, scatter: Scatter, limits: Limits, node: Aggregate, request: Request, execution: Execution
    ) -> None:
        fields = scatter.streams[0].fields
        if fields is None:
            raise ProxyError(INTERNAL_ERROR, "an aggregating statement returns no rows")
        self._scatter = scatter
        self._execution = execution
        try:
            self._combiner = Combiner(
                node,
                fields,
                expand(request.result_formats, node.visible),
                max_groups=limits.max_rows,
                max_bytes=limits.max_bytes,
                extra_float_digits=request.extra_float_digits,
                encoding=request.encoding,
            )
        except CombineFailure as failure:
            raise proxy_error(failure) from failure
        self._combined: ListResult | None = None

    @property
    def row_description(self) -> tuple[Field, ...] | None:
        """The visible columns."""
        return self._combiner.row_description

    @property
    def tag(self) -> bytes:
        """The command tag, once the rows are done."""
        if self._combined is None:
            raise AssertionError("the statement is not over")
        return self._combined.tag

    async def next_rows(self, max_rows: int = 0) -> RowBatch:
        """See ``ResultStream.next_rows``."""
        return await (await self.combined()).next_rows(max_rows)

    async def park(self) -> None:
        """See ``ResultStream.park``."""
        await self.combined()

    async def close(self) -> None:
        """See ``ResultStream.close``."""
        await self._scatter.finish()
        if self._combined is not None:
            await self._combined.close()

    async def combined(self) -> ListResult:
        """Read the partial rows of all shards, combine them, and return the combined rows."""
        if self._combined is not None:
            return self._combined
        scatter, combiner, execution = self._scatter, self._combiner, self._execution
        streams = scatter.streams
        try:
            while True:
                await scatter.until(lambda: any(stream.has_rows for stream in streams) or scatter.over)
                for stream in streams:
                    await _combine(combiner, stream)
                if scatter.over:
                    break
            if combiner.sorts and combiner.groups > _MANY_GROUPS:
                count, rows = await beside(combiner.rows, limit=execution.limit, offset=execution.offset)
            else:
                count, rows = combiner.rows(limit=execution.limit, offset=execution.offset)
        except CombineFailure as failure:
            await scatter.finish()
            raise proxy_error(failure) from failure
        except BaseException:
            await scatter.finish()
            raise
        self._combined = ListResult(rows, combiner.row_description, b"SELECT %d" % count)
        return self._combined


async def _combine(combiner: Combiner, stream: ShardStream) -> None:
    """Take the rows that are at hand, giving way to other sessions now and then."""
    turn = Turn()
    while stream.has_rows:
        for _ in range(_TURN_ROWS):
            if not stream.has_rows:
                break
            combiner.add(stream.take_row())
        await turn.give_way()
