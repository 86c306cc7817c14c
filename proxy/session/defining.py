"""Definitions over several shards: that they are planned by the catalog as it is, and what shards may lack.

Decides when the catalog is asked for first, and how a statement about an object runs that home has and other shards may
not have. Left to others: where objects belong.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from proxy.executor.home_alone import told_of
from proxy.executor.results import ListResult
from proxy.session.filling import moment_literal
from proxy.shards.errors import ShardError
from router.plan import MOMENT, Ddl, Execution, Same, ShardByShard, Task
from router.plan_steps import CreateFrom, CreateSchema, FillView, Moment

if TYPE_CHECKING:
    from proxy.executor.request import Request, ResultStream
    from proxy.session.moving import Start
    from proxy.session.session import Session
    from proxy.shards.link import ShardLink
    from router.plan import Statement
    from router.plan_steps import FoundExecution


#: Where Postgres says that there is no such role, which is no word about the object.
_OF_ROLES: Final = frozenset({"get_role_oid", "get_rolespec_oid", "get_rolespec_tuple"})


async def has_news(session: Session, statement: Statement) -> bool:
    """Whether a definition must be planned anew: the catalog has changed, and has been read.

    A name that the catalog does not have yet (somebody has made it behind the proxy, a moment ago) would be taken for
    one of the home shard, and a temporary relation could hide it.
    """
    transaction, database = session.transaction, session.database
    plan = statement.plan
    defines = isinstance(plan, CreateFrom | CreateSchema | FillView) or (
        isinstance(plan, Ddl | ShardByShard) and plan.catalog_changes
    )
    if not defines or transaction.shard_count == 1 or transaction.failed:
        return False
    if session.planner_in_block is None:
        if await database.versions.read() == database.catalog.version:
            return False
        await database.reload_catalog()
        return True
    link = transaction.links.get(database.logical.home)
    version = await database.versions.read()
    if link is None or version == session.version_in_block:
        return False
    session.version_in_block = version
    await session.look_inside(link)
    return True


def at_moment(session: Session, execution: Execution) -> Execution:
    """Return a definition with the transaction's time in its texts, where it has a place for that."""
    if not (isinstance(execution.combine, Same) and execution.combine.moment):
        return execution
    moment = moment_literal(session, Moment.TRANSACTION).decode()
    tasks = (
        task if task.text is None else replace(task, text=task.text.replace(MOMENT, moment)) for task in execution.tasks
    )
    return replace(execution, tasks=tuple(tasks))


async def start_where_found(
    session: Session, execution: FoundExecution, request: Request, start: Start
) -> ResultStream:
    """Run a definition at home, and on the other shards that have its object."""
    home, *others = execution.shards
    result = await start(session, Execution((Task(home),), Same(), writes=True), request)
    try:
        while not (await result.next_rows()).done:
            pass
    finally:
        await result.close()
    links = await session.transaction.join(others, writes=True)
    plan, lacking = execution.plan, []
    try:
        for shard in others:
            text = (plan.texts[shard] if plan.texts else None) or request.text
            failure = await _run_if_found(links[shard], text, plan)
            lacking += [] if failure is None else [failure]
        if plan.alike and 0 < len(lacking) < len(others):
            raise lacking[0]
    except ShardError as error:
        raise told_of(error) from error
    return ListResult(iter(()), None, result.tag)


async def _run_if_found(link: ShardLink, text: str, plan: Ddl) -> ShardError | None:
    """Run it; returns what a shard says that does without."""
    failure = None
    await link.run("SAVEPOINT pgchorus_found")
    try:
        await link.run(text)
    except ShardError as error:
        routine = error.fields.fields.get("R")
        if routine in _OF_ROLES or (error.sqlstate not in plan.absent and routine not in plan.absent):
            raise
        failure = error
        await link.run("ROLLBACK TO SAVEPOINT pgchorus_found")
        if plan.lacking:
            await link.run(plan.lacking)
    await link.run("RELEASE SAVEPOINT pgchorus_found")
    return failure
