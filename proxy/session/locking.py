"""Locking some rows of several shards: LIMIT with FOR UPDATE, where every row that is locked is one that is returned.

Decides in which order shards lock, how many rows each, and what is undone:

- Without ORDER BY any rows will do: one shard after the other locks as many as are still wanted.
- With ORDER BY the rows are read first, which tells how many of each shard's first rows are wanted; then each shard
  locks as many, waiting for those who hold them. If these are not the rows that were read, somebody has changed them
  meanwhile: the locks are given back by a savepoint, and all starts again.
- With SKIP LOCKED reading does not tell who holds what, so each shard locks as many as could be wanted; locks of rows
  that are not among the first of all are given back. While one statement has too many, another one of the same kind
  would pass over rows that nobody takes: they exclude each other by an advisory lock on the home shard, which is held
  for this step only.
"""

from __future__ import annotations

import zlib
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from proxy.errors import ProxyError
from proxy.executor.failure import CombineFailure
from proxy.executor.formats import ordered_formats
from proxy.executor.ordered import key_reader
from proxy.executor.request import proxy_error
from proxy.executor.results import ListResult
from proxy.executor.tags import counted
from proxy.session.moving import read_rows
from proxy.wire import backend
from router.plan import Concat, Execution, Ordered, Task

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    from proxy.executor.request import Request, ResultStream
    from proxy.session.moving import Row, Start
    from proxy.session.session import Session
    from proxy.wire.backend import Field
    from router.plan_steps import LockExecution

_ATTEMPTS: Final = 20
_SAVEPOINT: Final = "pgchorus_rows"
_ALONE: Final = "pgchorus_alone"
_CLASS: Final = 0x70676C72  # of our advisory locks; a user's own lock of this number only costs time
Found = dict[int, list["Row"]]


async def start_lock(session: Session, execution: LockExecution, request: Request, start: Start) -> ResultStream:
    """Lock the rows; the answer is in memory then."""
    locking = _Locking(session, execution, request, start)
    plan = execution.plan
    if not plan.keys:
        rows = await locking.in_turn()
    elif plan.skips:
        async with _alone(session, plan.about):
            rows = await locking.skipping()
    else:
        rows = await locking.waiting()
    frames = (backend.data_row(row[: plan.visible]) for row in islice(rows, execution.offset, None))
    count = max(len(rows) - execution.offset, 0)
    return ListResult(frames, locking.fields[: plan.visible], counted(b"SELECT 0", count))


@asynccontextmanager
async def _alone(session: Session, table: str) -> AsyncIterator[None]:
    """Keep other statements that skip locked rows of a table out, on any proxy.

    The lock is the session's on the server, so that it ends with the statement and not with the transaction: it must
    be given back on every way out. After an error the link is in a failed transaction, which a savepoint revives.
    """
    key = zlib.crc32(table.encode()) - (1 << 31)
    home = session.database.logical.home
    link = (await session.transaction.join([home], writes=False))[home]
    await link.run(f"SAVEPOINT {_ALONE}; SELECT pg_catalog.pg_advisory_lock({_CLASS}, {key})")
    unlock = f"SELECT pg_catalog.pg_advisory_unlock({_CLASS}, {key})"
    try:
        yield
        await link.run(f"{unlock}; RELEASE SAVEPOINT {_ALONE}")
    except BaseException:
        if not link.closed:
            try:
                await link.run(f"ROLLBACK TO SAVEPOINT {_ALONE}; {unlock}")
            except BaseException:
                link.abort()  # the lock must not go back into the pool
                raise
        raise


class _Locking:
    """One statement. ``fields``: the columns of its rows, once some shard has been asked."""

    def __init__(self, session: Session, execution: LockExecution, request: Request, start: Start) -> None:
        self._session = session
        self._execution = execution
        self._plan = execution.plan
        self._start = start
        self.fields: tuple[Field, ...] = ()
        plan = execution.plan
        try:
            formats = ordered_formats(request.result_formats, Ordered(plan.keys, plan.visible))
        except CombineFailure as failure:
            raise proxy_error(failure) from failure
        self._request = replace(request, result_formats=formats, describe_rows=False)
        self._reader = key_reader(plan.keys, request.encoding)
        self._most = None if execution.limit is None else execution.limit + execution.offset

    def _key(self, row: Row) -> tuple[Any, ...]:
        return self._reader([row[key.column] for key in self._plan.keys])

    async def in_turn(self) -> list[Row]:
        """Any rows: as many from each shard as are still wanted."""
        rows: list[Row] = []
        for shard in self._execution.shards:
            left = None if self._most is None else self._most - len(rows)
            if left != 0 or not self.fields:
                rows += await self._rows(self._plan.text, shard, left)
        return rows

    async def waiting(self) -> list[Row]:
        """Read first, and lock what was read."""
        for _ in range(_ATTEMPTS):
            found = {shard: await self._rows(self._plan.read, shard, self._most) for shard in self._execution.shards}
            chosen, counts = self._first(found)
            wanted = {shard: found[shard][:count] for shard, count in counts.items() if count}
            await self._each(wanted, f"SAVEPOINT {_SAVEPOINT}")
            if await self._locked(wanted):
                await self._each(wanted, f"RELEASE SAVEPOINT {_SAVEPOINT}")
                return chosen
            await self._back(wanted)
        raise _moving()

    async def skipping(self) -> list[Row]:
        """Lock more than enough, and give back what is not wanted."""
        shards = self._execution.shards
        for _ in range(_ATTEMPTS):
            await self._each(shards, f"SAVEPOINT {_SAVEPOINT}")
            found = {shard: await self._rows(self._plan.text, shard, self._most) for shard in shards}
            chosen, counts = self._first(found)
            spoilt = {shard: found[shard][: counts[shard]] for shard in shards if counts[shard] < len(found[shard])}
            await self._each(spoilt, f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}")
            if await self._locked({shard: rows for shard, rows in spoilt.items() if rows}):
                await self._each(shards, f"RELEASE SAVEPOINT {_SAVEPOINT}")
                return chosen
            await self._back(shards)
        raise _moving()

    def _first(self, found: Found) -> tuple[list[Row], dict[int, int]]:
        """Return the first rows of all, and how many of them each shard has."""
        places = [(self._key(row), order, at, shard) for order, (shard, rows) in enumerate(found.items())
                  for at, row in enumerate(rows)]  # fmt: skip
        places.sort(key=lambda place: place[:3])
        chosen = places[: self._most]
        counts = dict.fromkeys(found, 0)
        for place in chosen:
            counts[place[3]] += 1
        return [found[shard][at] for _, _, at, shard in chosen], counts

    async def _locked(self, wanted: Mapping[int, list[Row]]) -> bool:
        """Lock as many rows as are wanted of each shard; whether these are those that are wanted."""
        for shard, rows in wanted.items():
            if await self._rows(self._plan.text, shard, len(rows)) != rows:
                return False
        return True

    async def _rows(self, text: str, shard: int, most: int | None) -> list[Row]:
        text = text if most is None else f"{text} LIMIT {most}"
        execution = Execution((Task(shard, text),), Concat(), writes=True)
        read = await read_rows(self._session, self._start, execution, self._request)
        self.fields = read.fields
        return read.rows

    async def _each(self, shards: Iterable[int], text: str) -> None:
        shards = list(shards)
        links = await self._session.transaction.join(shards, writes=True)
        for shard in shards:
            await links[shard].run(text)

    async def _back(self, shards: Iterable[int]) -> None:
        await self._each(shards, f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}; RELEASE SAVEPOINT {_SAVEPOINT}")


def _moving() -> ProxyError:
    return ProxyError(
        "40001",
        "could not lock rows of several shards in order: they were changed again and again meanwhile",
        hint="Try again.",
    )
