"""Answers of several shards as one stream of rows, one class for each way to combine that keeps rows as they are.

``ConcatResult`` passes blocks of rows on in the order in which shards deliver them; ``SameResult`` passes one shard's
rows on and sees that the others agree; ``ListResult`` gives rows that need no shard any more (aggregates).
Ordered merging and aggregates are computed by the pure ordered.py and aggregate.py, and driven by merged.py.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from proxy.errors import CONFIGURATION_LIMIT_EXCEEDED, ProxyError
from proxy.executor import tags
from proxy.executor.failure import CombineFailure
from proxy.executor.request import Limits, RowBatch, proxy_error
from proxy.tasks import all_ended
from proxy.turns import Turn

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from proxy.executor.scatter import Scatter
    from proxy.shards.link import ShardLink
    from proxy.wire.backend import Field
    from router.plan import InOrder, Task

_BATCH_BYTES = 64 << 10
_TURN_ROWS = 64  # are encoded before one looks at the clock
_MOST_ROWS = 1 << 62


class ScatterResult:
    """What results over a running scatter have in common: the description, the tag, parking and closing."""

    def __init__(self, scatter: Scatter, limits: Limits, row_description: tuple[Field, ...] | None) -> None:
        self._scatter = scatter
        self._limits = limits
        self._row_description = row_description
        self._tag: bytes | None = None
        self._closed = False

    @property
    def row_description(self) -> tuple[Field, ...] | None:
        """The visible columns; None when the statement returns no rows."""
        return self._row_description

    @property
    def tag(self) -> bytes:
        """The command tag, once the rows are done."""
        if self._tag is None:
            raise AssertionError("the statement is not over")
        return self._tag

    async def next_rows(self, max_rows: int = 0) -> RowBatch:
        """See ``ResultStream.next_rows``."""
        if self._closed:
            raise AssertionError("the result was closed")
        if self._tag is not None:
            return RowBatch([], 0, done=True)
        try:
            return await self._next(max_rows)
        except CombineFailure as failure:
            await self.close()
            raise proxy_error(failure) from failure

    async def _next(self, max_rows: int) -> RowBatch:
        raise NotImplementedError

    async def park(self) -> None:
        """Read everything that is left into memory; see ``ResultStream.park``."""
        for stream in self._scatter.streams:
            stream.unbound()
        limit = self._limits.max_parked_bytes
        await self._scatter.until(lambda: self._scatter.over or self._queued_bytes() > limit)
        if self._queued_bytes() > limit:
            await self.close()
            raise ProxyError(
                CONFIGURATION_LIMIT_EXCEEDED,
                "a suspended portal over several shards has too many rows left to set them aside",
                detail=f"Another statement needs the shards, and more than {limit} bytes of rows are waiting.",
                hint="Fetch the portal to its end first, or raise merge.max_parked_bytes.",
            )

    def _queued_bytes(self) -> int:
        return sum(stream.queued_bytes for stream in self._scatter.streams)

    async def close(self) -> None:
        """Give up what is left."""
        self._closed = True
        await self._scatter.finish()


class ConcatResult(ScatterResult):
    """Rows of all shards in any order; command tags are added up. Also for statements without rows."""

    def __init__(self, scatter: Scatter, limits: Limits, after: Sequence[tuple[ShardLink, Task]] = ()) -> None:
        super().__init__(scatter, limits, scatter.streams[0].fields)
        self._after = after
        self._turn = 0
        self._whole = True  # nothing has limited the rows so far: they need not be counted, the tags tell

    async def _next(self, max_rows: int) -> RowBatch:
        scatter = self._scatter
        streams = scatter.streams
        self._whole = self._whole and not max_rows
        limit = max_rows or _MOST_ROWS
        await scatter.until(
            lambda: any(s.has_rows for s in streams) or all(s.exhausted for s in streams),
            rows_first=scatter.options.rows_first,
        )
        if any(stream.error is not None for stream in streams):
            failed = [stream for stream in streams if stream.error is not None and stream.has_rows]
            await scatter.until(lambda: bool(failed), rows_first=True)
            data, rows = failed[0].take(0 if self._whole else limit)
            return RowBatch([data], rows, done=False)
        frames: list[bytes] = []
        count = size = 0
        # A block of each shard in turn, so that none is paused for long while another one is read.
        while count < limit and size < _BATCH_BYTES:
            stream = next((s for s in streams[self._turn :] + streams[: self._turn] if s.has_rows), None)
            if stream is None:
                break
            data, rows = stream.take(0 if self._whole else limit - count)
            self._turn = (streams.index(stream) + 1) % len(streams)
            frames.append(data)
            count += rows
            size += len(data)
        done = not (max_rows and count == max_rows) and all(s.exhausted for s in streams)
        if done:
            tag = tags.add(scatter.tags())
            await run_after(self._after)
            self._tag = tag
            if self._whole:
                count = tags.count(tag)
        return RowBatch(frames, count, done)


class InOrderResult(ScatterResult):
    """RETURNING rows of an INSERT that was split, in the order of its rows. They are held until all are there."""

    def __init__(self, scatter: Scatter, limits: Limits, combine: InOrder) -> None:
        super().__init__(scatter, limits, scatter.streams[0].fields)
        self._combine = combine
        self._rows: Iterator[bytes] | None = None

    async def _next(self, max_rows: int) -> RowBatch:
        scatter = self._scatter
        if self._rows is None:
            for stream in scatter.streams:
                stream.unbound()
            await scatter.until(lambda: scatter.over)
            self._rows = self._in_order()
        frames = list(islice(self._rows, max_rows or None))
        done = not (max_rows and len(frames) == max_rows)
        if done:
            self._tag = tags.add(scatter.tags())
        return RowBatch(frames, len(frames), done)

    def _in_order(self) -> Iterator[bytes]:
        streams, wanted = self._scatter.streams, self._combine.rows
        if all(stream.queued_rows == wanted.count(position) for position, stream in enumerate(streams)):
            for position in wanted:
                yield streams[position].take_row()
            return
        for stream in streams:
            while stream.has_rows:
                yield stream.take_row()


class SameResult(ScatterResult):
    """The same work on every shard: the first shard's rows are passed on, the tags must agree.

    ``start_rest`` starts the other shards once the first one is over (home shard first: one lock order for all
    writers); without it they run already. ``after`` runs what follows the statement on each link; the statement is over
    when all of that is.
    """

    def __init__(
        self,
        scatter: Scatter,
        limits: Limits,
        after: Sequence[tuple[ShardLink, Task]],
        start_rest: Callable[[], Awaitable[Scatter]] | None = None,
    ) -> None:
        super().__init__(scatter, limits, scatter.streams[0].fields)
        self._after = after
        self._start_rest = start_rest
        self._rest: Scatter | None = None
        for stream in scatter.streams[1:]:
            stream.discard()

    async def _next(self, max_rows: int) -> RowBatch:
        scatter = self._scatter
        first = scatter.streams[0]
        await scatter.until(lambda: first.has_rows or scatter.over)
        if first.has_rows:
            data, rows = first.take(max_rows or _MOST_ROWS)
            return RowBatch([data], rows, done=False)
        found = scatter.tags()
        if self._start_rest is not None:
            rest = self._rest = await self._start_rest()
            for stream in rest.streams:
                stream.discard()
            await rest.until(lambda: rest.over)
            found += rest.tags()
        tag = tags.agree(found)
        await run_after(self._after)
        self._tag = tag
        return RowBatch([], 0, done=True)

    async def close(self) -> None:
        """Give up what is left."""
        await super().close()
        if self._rest is not None:
            await self._rest.finish()


class ListResult:
    """Rows that need no shard any more; encoded as they are asked for."""

    def __init__(self, rows: Iterator[bytes], row_description: tuple[Field, ...] | None, tag: bytes) -> None:
        self._rows = rows
        self._row_description = row_description
        self._tag = tag
        self._turn = Turn()

    @property
    def row_description(self) -> tuple[Field, ...] | None:
        """The visible columns."""
        return self._row_description

    @property
    def tag(self) -> bytes:
        """The command tag."""
        return self._tag

    async def next_rows(self, max_rows: int = 0) -> RowBatch:
        """See ``ResultStream.next_rows``."""
        frames: list[bytes] = []
        size = 0
        done = False
        try:
            while (not max_rows or len(frames) < max_rows) and size < _BATCH_BYTES:
                if not len(frames) % _TURN_ROWS:
                    await self._turn.give_way()
                row = next(self._rows, None)
                if row is None:
                    done = True
                    break
                frames.append(row)
                size += len(row)
        except CombineFailure as failure:
            raise proxy_error(failure) from failure
        return RowBatch(frames, len(frames), done)

    async def park(self) -> None:
        """Nothing to do: no link is involved any more."""

    async def close(self) -> None:
        """Forget the rows."""
        self._rows = iter(())


async def run_after(after: Sequence[tuple[ShardLink, Task]]) -> None:
    """Run what follows a statement, on all links in parallel; raises the first error when all have answered."""
    await all_ended([_run_texts(link, task.after) for link, task in after])


async def _run_texts(link: ShardLink, texts: Sequence[str]) -> None:
    for text in texts:
        await link.run(text)
