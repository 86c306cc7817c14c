"""CREATE SCHEMA with elements, over several shards: the schema first, then each element, in one transaction.

Decides nothing but the order of steps: each is planned by the catalog as the steps before it have left it, with the new
schema first in the search_path and as its owner. Where a step goes is the router's affair.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from proxy.executor.results import ListResult
from proxy.session.acting import acting
from proxy.session.creating import done
from router.errors import refusal
from router.own_schema import quote_identifier
from router.plan import Ddl
from router.resolve import resolve

if TYPE_CHECKING:
    from proxy.executor.request import Request, ResultStream
    from proxy.session.moving import Start
    from proxy.session.session import Session
    from router.plan import Statement
    from router.plan_steps import SchemaExecution


async def start_schema(session: Session, execution: SchemaExecution, request: Request, start: Start) -> ResultStream:
    """Make the schema and its elements; the answer is a tag."""
    plan, home = execution.plan, session.database.logical.home
    link = (await session.transaction.join(execution.shards, writes=True))[home]
    (head,) = session.plan(plan.head)
    tag = await _run(session, head, request, start)
    async with acting(session, link, plan.role, quote_identifier(plan.schema), before=True):
        for text in plan.elements:
            assert session.planner_in_block is not None  # noqa: S101 - the schema was made in it
            (statement,) = session.planner_in_block.plan(text, (plan.schema, *session.search_path))
            await _run(session, statement, request, start)
    return ListResult(iter(()), None, tag)


async def _run(session: Session, statement: Statement, request: Request, start: Start) -> bytes:
    if not isinstance(statement.plan, Ddl) or statement.audit is not None:
        raise refusal("unknown-statement", name=f"{statement.tag} in CREATE SCHEMA")
    executable = resolve(statement.plan, session.database.logical)
    tag = await done(await start(session, executable, replace(request, text=statement.text)))
    await session.catalog_changed()
    return tag
