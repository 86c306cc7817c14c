"""Runs an ``Execution``: one statement on one or several shards, answered as one.

Decides which result class a combine node needs. What the session does beside it: one task without rewriting is better
relayed raw; the transaction's blocks; ReadyForQuery. COPY has files of its own (copy_in.py, copy_out.py).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from proxy.errors import PROTOCOL_VIOLATION, definitions_changed
from proxy.executor.copy_in import start_copy_in
from proxy.executor.copy_out import start_copy_out
from proxy.executor.failure import CombineFailure
from proxy.executor.formats import aggregate_formats, ordered_formats
from proxy.executor.gather import run_gather
from proxy.executor.merged import AggregateResult, OrderedResult
from proxy.executor.request import Environment, Limits, proxy_error
from proxy.executor.results import ConcatResult, InOrderResult, SameResult
from proxy.executor.scatter import Options, Scatter
from proxy.shards.errors import ShardError
from router.plan import Aggregate, GatherExecution, InOrder, Ordered, Same
from router.plan_copy import CopyInExecution, CopyOutExecution
from router.plan_steps import InSteps

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.executor.request import Links, Request, ResultStream
    from proxy.shards.link import ShardLink
    from router.plan import Executable, Execution


async def execute(executable: Executable, request: Request, links: Links, environment: Environment) -> ResultStream:
    """Start a statement; returns when all its shards have described their rows.

    Whoever holds the result reads it to its end or closes it. Raises ShardError or ProxyError with all links at
    ReadyForQuery.
    """
    if isinstance(executable, CopyInExecution):
        return await start_copy_in(executable, request, links, environment)
    if isinstance(executable, CopyOutExecution):
        return await start_copy_out(executable, request, links, environment)
    if isinstance(executable, GatherExecution):
        return await run_gather(executable, request, links, environment)
    if isinstance(executable, InSteps):
        raise TypeError(f"{type(executable).__name__} is done in steps, by the session")
    return await run(executable, request, links, environment)


async def run(execution: Execution, request: Request, links: Links, environment: Environment) -> ResultStream:
    """Do what :func:`execute` does for everything but COPY and gathered statements."""
    limits = environment.limits
    options = Options(
        high_water_bytes=limits.max_buffer_bytes,
        cancel_others=environment.cancel_others,
        client=environment.client,
        fence=environment.fence,
        rows_first=not execution.writes and not isinstance(execution.combine, Same | InOrder),
    )
    joined = await links.join([task.shard for task in execution.tasks], writes=execution.writes)
    combine, tasks = execution.combine, execution.tasks
    formats = _formats(execution, request)
    if isinstance(combine, Same):
        return await _run_same(execution, request, joined, limits, options)
    try:
        scatter = await Scatter.start(tasks, request, formats, joined, options)
    except ShardError as error:
        if error.sqlstate == PROTOCOL_VIOLATION and isinstance(combine, Ordered | Aggregate):
            # The formats are ours: a table of it has more columns by now, or fewer.
            raise definitions_changed() from error
        raise
    try:
        if isinstance(combine, Ordered):
            return OrderedResult(scatter, limits, combine, request, execution)
        if isinstance(combine, Aggregate):
            return AggregateResult(scatter, limits, combine, request, execution)
        if isinstance(combine, InOrder) and scatter.streams[0].fields is not None:
            return InOrderResult(scatter, limits, combine)
        return ConcatResult(scatter, limits, [(joined[task.shard], task) for task in tasks if task.after])
    except BaseException:
        await scatter.finish()
        raise


def _formats(execution: Execution, request: Request) -> tuple[int, ...]:
    """Return the formats that shards are asked for; raises ProxyError when the client's do not fit."""
    combine = execution.combine
    try:
        if isinstance(combine, Ordered):
            return ordered_formats(request.result_formats, combine)
        if isinstance(combine, Aggregate):
            return aggregate_formats(request.result_formats, combine)
    except CombineFailure as failure:
        raise proxy_error(failure) from failure
    return request.result_formats


async def _run_same(
    execution: Execution, request: Request, joined: Mapping[int, ShardLink], limits: Limits, options: Options
) -> ResultStream:
    """Start the same work everywhere, or on the first task's shard alone when that one goes first."""
    tasks, same = execution.tasks, execution.combine
    after = [(joined[task.shard], task) for task in tasks if task.after]
    options = replace(options, notices_from_all=False)
    if isinstance(same, Same) and same.defines and len(tasks) > 1:
        options = replace(options, defines=True)
    if not (isinstance(same, Same) and same.home_first and len(tasks) > 1):
        scatter = await Scatter.start(tasks, request, request.result_formats, joined, options)
        return SameResult(scatter, limits, after)
    silent = replace(options, client=None, home_is_over=True)

    async def start_rest() -> Scatter:
        return await Scatter.start(tasks[1:], request, request.result_formats, joined, silent)

    scatter = await Scatter.start(tasks[:1], request, request.result_formats, joined, options)
    return SameResult(scatter, limits, after, start_rest)
