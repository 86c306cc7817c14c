"""Locking rows of reference tables exclusively: at home, and then the same rows of every other copy.

Decides the order: home first, the other shards one after the other, and on each the rows in the order in which home has
locked them. So two who lock the same rows in the same order wait for each other at home, and nowhere crosswise. Rows
that are to be passed over on some copy (SKIP LOCKED) are not returned.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from proxy.errors import INTERNAL_ERROR, ProxyError
from proxy.executor.request import Request
from proxy.executor.results import ListResult
from proxy.executor.tags import counted
from proxy.session.moving import MAX_PARAMETERS, read_rows, travelling_format
from proxy.wire import backend
from router.plan import Concat, Execution, Task
from router.plan_steps import Bound

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.executor.request import ResultStream
    from proxy.session.moving import Start
    from proxy.session.session import Session
    from router.plan_steps import CopyLock, LockCopiesExecution


async def start_lock_copies(
    session: Session, execution: LockCopiesExecution, request: Request, start: Start
) -> ResultStream:
    """Lock the rows everywhere; the answer is in memory then."""
    plan = execution.plan
    described = await session.database.descriptions.ask(session, plan.home.text, request.parameter_oids)
    fields = described.fields or ()
    visible = len(fields) - sum(len(table.types) for table in plan.tables)
    asked = request.result_formats
    shown = asked if len(asked) > 1 else (asked or (0,)) * visible
    formats = (*shown, *(travelling_format(field.type_oid) for field in fields[visible:]))
    reading = replace(request, text=plan.home.text, result_formats=formats, describe_rows=False)
    read = await read_rows(session, start, execution.home, reading)
    rows, others, first = read.rows, execution.shards[1:], visible
    if rows and others:
        # A row that home has locked as somebody left it must be so on the others.
        await session.transaction.settle(list(others))
    for table in plan.tables:
        behind = first + len(table.types)
        keys = list(dict.fromkeys(tuple(row[first:behind]) for row in rows))
        for shard in others:
            found = await _lock(session, start, table, keys, (shard, formats[first:behind]))
            if len(found) < len(keys) and not plan.skips:
                detail = f"{len(keys)} rows on the home shard, {len(found)} elsewhere."
                raise ProxyError(
                    INTERNAL_ERROR,
                    "the copies of a reference table differ",
                    detail=detail,
                    hint="See pgchorus doctor.",
                )
            keys = found
        kept = set(keys)
        rows = [row for row in rows if tuple(row[first:behind]) in kept]
        first = behind
    frames = iter([backend.data_row(row[:visible]) for row in rows])
    return ListResult(frames, read.fields[:visible], counted(b"SELECT 0", len(rows)))


async def _lock(
    session: Session,
    start: Start,
    table: CopyLock,
    keys: Sequence[tuple[bytes | None, ...]],
    where: tuple[int, tuple[int, ...]],
) -> list[tuple[bytes | None, ...]]:
    """Lock rows of one copy, in their order; returns the keys of those that are."""
    shard, formats = where
    width = len(table.types)
    most = MAX_PARAMETERS // width
    found = []
    for first in range(0, len(keys), most):
        part = keys[first : first + most]
        groups = (
            f"({number}, {', '.join(f'${number * width + at + 1}::{name}' for at, name in enumerate(table.types))})"
            for number in range(len(part))
        )
        bound = Bound(tuple(value for key in part for value in key), formats * len(part), ())
        task = Task(shard, f"{table.before}VALUES {', '.join(groups)}{table.after}", bound=bound)
        execution = Execution((task,), Concat(), writes=True)
        answer = await read_rows(session, start, execution, Request(text="", describe_rows=False))
        found += [part[int(row[0] or 0)] for row in answer.rows]
    return found
