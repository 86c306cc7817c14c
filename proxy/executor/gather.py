"""Gathered statements: rows of several shards are loaded to one place, and a real Postgres finishes the work there.

Theory of operation. Every shard sends its part of all loads in one answer (router.gathered), read like any other
statement over several shards: behind the fence, on the transaction's own links, as the client's own role. Meanwhile a
scratch link has tables for them. One table is filled at a time, from whichever shards have its rows at hand; a shard
that is further on is paused when its rows become too many. When all rows are there the statement runs on the scratch
link and its rows stream to the client, under the description that the original statement has.

Decides the order of loading, and that what came from the scratch link is what the client was told to expect. What is
loaded and what is run is the router's.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from struct import Struct
from typing import TYPE_CHECKING, Final

from proxy.encodings import written
from proxy.errors import CONFIGURATION_LIMIT_EXCEEDED, ProxyError
from proxy.executor.copy_out import CopyOutResult
from proxy.executor.failure import CombineFailure
from proxy.executor.formats import expand
from proxy.executor.request import RowBatch, proxy_error
from proxy.executor.results import ConcatResult
from proxy.executor.scatter import Options, Scatter
from proxy.executor.scratch import Loading, bodies
from proxy.shards.errors import ShardError
from proxy.wire.frontend import Query
from router.errors import refusal
from router.gathered import offsets
from router.plan import Task
from router.printer import quoted

if TYPE_CHECKING:
    from proxy.executor.request import Environment, Limits, Links, Request, ResultStream
    from proxy.executor.scratch import Scratch
    from proxy.wire.backend import Field
    from router.errors import Refused
    from router.plan import GatherExecution
    from router.plan_copy import CopyFormat

_TEXT_OID: Final = 25
_FIRST_OWN_OID: Final = 16384
_INVALID_TABLE: Final = "42P16"
_BINARY: Final = 1
_BATCH_ROWS: Final = 512
_NULL: Final = b"\xff\xff\xff\xff"
_COUNT: Final = Struct(">h")
_TAG_AT: Final = 5 + 2 + 4  # of a DataRow: its header, the number of columns, the length of the first
_COLUMNS_AT: Final = _TAG_AT + 2
_MISFIT: Final = frozenset({"42", "0A"})  # classes of errors that a statement has when it is parsed


async def run_gather(
    execution: GatherExecution, request: Request, links: Links, environment: Environment
) -> ResultStream:
    """Load and run; returns when the statement has described its rows. The result holds the scratch link."""
    expected, copies = request.fields, execution.plan.copies
    if environment.scratch is None or (expected is None and copies is None):
        raise AssertionError("a gathered statement needs its description and a scratch link")
    joined = await links.join([task.shard for task in execution.tasks], writes=False)
    scratch = await environment.scratch()
    try:
        options = Options(
            high_water_bytes=environment.limits.max_buffer_bytes,
            cancel_others=environment.cancel_others,
            client=environment.client,
            same_columns=False,
            fence=environment.fence,
            rows_first=True,
        )
        reading = await Scatter.start(execution.tasks, _reading(execution, request), (_BINARY,), joined, options)
        try:
            await _create(execution, scratch, reading.streams[0].fields or ())
            try:
                await _Loader(execution, reading, scratch, environment.gather_max_bytes).load()
            except ShardError as error:
                error.columns = expected  # it has been planned, and runs
                raise
        finally:
            await reading.finish()
        scratch.check_cancelled()
        if copies is not None:
            return GatherCopy(written(execution.plan.text, request.encoding), copies, scratch, environment)
        return await _run(execution, request, scratch, environment, expected or ())
    except BaseException:
        scratch.release()
        raise


async def _create(execution: GatherExecution, scratch: Scratch, described: tuple[Field, ...]) -> None:
    """Create the tables; nothing else may be written on the link then."""
    link = scratch.link
    loads = execution.plan.loads
    if any(not definition for load in loads for definition in load.definitions):
        (load,) = loads
        open_ = (field for field, known in zip(described, load.definitions, strict=True) if not known)
        if any(field.type_oid >= _FIRST_OWN_OID for field in open_):
            raise _misfit("A column of a user-defined type would have to be made out of nothing.")
        types = [f"pg_catalog.format_type({field.type_oid}, {field.type_modifier})" for field in described]
        answer = await link.run(f"SELECT {', '.join(types)}")
        names = [(value or b"").decode() for value in answer.rows[0]]
    else:
        names = []
    texts = []
    for load in loads:
        parts = [
            f"{quoted(name)} {definition or names[at]}"
            for at, (name, definition) in enumerate(zip(load.columns, load.definitions, strict=True))
        ]
        if load.key:
            parts.append(f"PRIMARY KEY ({', '.join(map(quoted, load.key))})")
        texts.append(f"CREATE TEMP TABLE {load.table} ({', '.join(parts)}); ")
    try:
        await link.run("".join(texts) + "SET TRANSACTION READ ONLY")
    except ShardError as error:
        if names and error.sqlstate == _INVALID_TABLE:
            raise _misfit(error.message) from error  # a pseudo-type
        raise


def _reading(execution: GatherExecution, request: Request) -> Request:
    """Leave out the parameters that are not read on the shards: their types may not be known there."""
    used = execution.plan.parameters
    count = len(request.parameters)
    formats = expand(request.parameter_formats, count) if count else ()
    positions = range(count)
    return replace(
        request,
        parameter_oids=tuple(request.parameter_oids[at] if at + 1 in used else _TEXT_OID for at in positions),
        parameter_formats=formats,
        parameters=tuple(request.parameters[at] if at + 1 in used else None for at in positions),
    )


class _Loader:
    """Fills the tables, one at a time, with the rows that come from all shards."""

    def __init__(self, execution: GatherExecution, reading: Scatter, scratch: Scratch, max_bytes: int) -> None:
        self._loads = execution.plan.loads
        self._reading = reading
        self._scratch = scratch
        self._left = self._limit = max_bytes
        self._offsets = offsets(self._loads)
        # A row that was taken and belongs to another table than the one being filled, for each shard.
        self._ahead: dict[int, bytes] = {}

    async def load(self) -> None:
        """Load everything; raises ShardError, or ProxyError when it is too much."""
        if len(self._loads) == 1:
            await self._fill(0)
            return
        while True:
            table = await self._next_table()
            if table is None:
                return
            await self._fill(table)

    async def _fill(self, table: int) -> None:
        self._scratch.check_cancelled()
        loading = Loading(self._scratch.link, self._loads[table].table)
        try:
            await loading.start()
            if len(self._loads) == 1:
                await self._whole_blocks(loading)
            else:
                await self._rows_of(loading, table)
            await loading.finish()
        except Exception:
            await loading.abandon()
            raise

    def _count(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise ProxyError(
                CONFIGURATION_LIMIT_EXCEEDED,
                "the statement needs too many rows of several shards in one place",
                detail=f"More than {self._limit} bytes would have to be gathered.",
                hint="Name one sharding key, join on the sharding keys, or filter more; or raise gather.max_bytes.",
            )

    async def _whole_blocks(self, loading: Loading) -> None:
        reading = self._reading
        streams = reading.streams
        while True:
            await reading.until(lambda: any(stream.has_rows for stream in streams) or reading.over)
            for stream in streams:
                if stream.has_rows:
                    data, _ = stream.take(_BATCH_ROWS)
                    self._count(len(data))
                    for body in bodies(data):
                        loading.add(body)
                    await loading.flush()
            if reading.over and not any(stream.has_rows for stream in streams):
                return
            await asyncio.sleep(0)

    # --- several tables -----------------------------------------------------------------------------------------------

    async def _next_table(self) -> int | None:
        """Return a table that has rows at hand; None when all rows of all shards are loaded."""
        positions = range(len(self._reading.streams))
        await self._reading.until(lambda: any(self._row_is_there(at) for at in positions) or self._reading.over)
        for position in positions:
            if self._row_is_there(position):
                if position not in self._ahead:
                    self._ahead[position] = self._reading.streams[position].take_row()
                return _table_of(self._ahead[position])
        return None

    def _row_is_there(self, position: int) -> bool:
        return position in self._ahead or self._reading.streams[position].has_rows

    async def _rows_of(self, loading: Loading, table: int) -> None:
        """Load rows of one table until every shard has ended or comes to another one."""
        positions = range(len(self._reading.streams))
        while True:
            for position in positions:
                await self._take(loading, table, position)
            if all(self._is_elsewhere(position, table) for position in positions):
                return
            await self._reading.until(lambda: any(self._has_more(at) for at in positions) or self._done(table))

    def _is_elsewhere(self, position: int, table: int) -> bool:
        if position in self._ahead:
            return _table_of(self._ahead[position]) != table
        return self._reading.streams[position].exhausted

    def _has_more(self, position: int) -> bool:
        return position not in self._ahead and self._reading.streams[position].has_rows

    def _done(self, table: int) -> bool:
        return all(self._is_elsewhere(at, table) for at in range(len(self._reading.streams)))

    async def _take(self, loading: Loading, table: int, position: int) -> None:
        stream = self._reading.streams[position]
        before, own, behind = self._offsets[table]
        count = _COUNT.pack(own)
        start, cut = _COLUMNS_AT + before * len(_NULL), behind * len(_NULL)
        while True:
            row = self._ahead.pop(position, None)
            if row is None:
                if not stream.has_rows:
                    return
                row = stream.take_row()
            if _table_of(row) != table:
                self._ahead[position] = row
                return
            self._count(len(row))
            loading.add(count + row[start : len(row) - cut])
            await loading.flush()


def _table_of(row: bytes) -> int:
    number: int = _COUNT.unpack_from(row, _TAG_AT)[0]
    return number


# --- the statement over what was loaded -------------------------------------------------------------------------------


async def _run(
    execution: GatherExecution,
    request: Request,
    scratch: Scratch,
    environment: Environment,
    expected: tuple[Field, ...],
) -> ResultStream:
    plan = execution.plan
    options = Options(
        high_water_bytes=environment.limits.max_buffer_bytes,
        client=environment.client,
        rows_first=True,
    )
    try:
        formats = expand(request.result_formats, len(expected))
    except CombineFailure as failure:
        raise proxy_error(failure) from failure
    task = Task(execution.home, plan.text)
    running: Scatter | None = None
    try:
        running = await Scatter.start([task], request, formats, {execution.home: scratch.link}, options)
        _check(expected, running.streams[0].fields)
    except ShardError as error:
        if error.sqlstate[:2] in _MISFIT and error.sqlstate != "42501":
            raise _misfit(error.fields.message) from error
        raise
    except BaseException:
        if running is not None:
            await running.finish()
        raise
    fields = tuple(replace(field, format=form) for field, form in zip(expected, formats, strict=True))
    return GatherResult(running, environment.limits, fields, scratch)


def _check(expected: tuple[Field, ...], found: tuple[Field, ...] | None) -> None:
    if found is None or [field.type_oid for field in found] != [field.type_oid for field in expected]:
        raise _misfit("Its columns would have other types.")


def _misfit(detail: str) -> Refused:
    return refusal("gather-types", detail=detail)


class GatherResult(ConcatResult):
    """The rows of the statement on the scratch link, which goes back with the last of them."""

    def __init__(self, scatter: Scatter, limits: Limits, fields: tuple[Field, ...], scratch: Scratch) -> None:
        super().__init__(scatter, limits)
        self._row_description = fields
        self._scratch = scratch

    async def _next(self, max_rows: int) -> RowBatch:
        batch = await super()._next(max_rows)
        if batch.done:
            self._scratch.release()
        return batch

    async def park(self) -> None:
        """Nothing to do: the rows that are left wait on a link that no other statement needs."""

    async def close(self) -> None:
        """Give up what is left, and the link."""
        try:
            await super().close()
        finally:
            self._scratch.release()


class GatherCopy(CopyOutResult):
    """COPY (query) TO STDOUT over what was gathered."""

    def __init__(self, text: bytes, copies: CopyFormat, scratch: Scratch, environment: Environment) -> None:
        super().__init__([scratch.link], Query(text).encode(), environment, copy_format=copies)
        self._scratch = scratch

    async def next_rows(self, max_rows: int = 0) -> RowBatch:
        """Return the next messages."""
        batch = await super().next_rows(max_rows)
        if batch.done:
            self._scratch.release()
        return batch

    async def close(self) -> None:
        """Give up what is left, and the link."""
        try:
            await super().close()
        finally:
            self._scratch.release()
