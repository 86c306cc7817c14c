"""CREATE and REFRESH MATERIALIZED VIEW over several shards: rows are read from all of them, and are home's afterwards.

Decides the steps, all in the client's transaction: home makes the view, or checks and locks it, by a statement of the
client's own kind; its query is read as its owner, under the search_path that Postgres gives it, behind one snapshot, by
an INSERT into a temporary table; home refreshes the view with that table. Left to others: how home does that
(:mod:`proxy.shards.view_sql`), which views need it (:mod:`router.planner.stored`), what the INSERT does.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from proxy.executor.request import Request
from proxy.executor.results import ListResult
from proxy.session.acting import acting
from proxy.session.creating import HAS, done, insert_rows
from proxy.shards.errors import ShardError
from proxy.shards.view_sql import OTHERS_CODE
from router import builtins
from router.errors import Refused, refusal
from router.own_schema import quote_identifier, quote_literal, quote_table
from router.plan import Execution, Same, Task
from router.planner import Planner
from router.planner.stored import PATH, STAGED, with_staged
from router.planner.views import whole_rows_renamed
from router.statement import parse

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxy.executor.request import ResultStream
    from proxy.session.moving import Start
    from proxy.session.session import Session
    from proxy.shards.link import ShardLink
    from proxy.shards.receivers import Answer
    from router.cluster import TableName
    from router.plan_steps import FillExecution

_TAG: Final = b"REFRESH MATERIALIZED VIEW"
_NOT_TOGETHER: Final = "42601"  # CONCURRENTLY and WITH NO DATA: all else has been checked when Postgres says so
_HOLD: Final = "SELECT owner, definition FROM pgchorus.hold_view({view})"


async def start_fill(session: Session, execution: FillExecution, request: Request, start: Start) -> ResultStream:
    """Make the view if it is to be made, and fill it; the answer is a tag."""
    plan, home = execution.plan, session.database.logical.home
    link = (await session.transaction.join([home], writes=True))[home]
    if not plan.create:
        await _check(link, plan.view, concurrently=plan.concurrently)
        await _fill(session, link, plan.view, start, concurrently=plan.concurrently)
        return ListResult(iter(()), None, _TAG)
    # What is wrong with the query comes before what is wrong with the view, and with its place in the message.
    await session.database.descriptions.ask(session, request.text, request.parameter_oids)
    exists = plan.guarded and (await link.run(HAS.format(name=_literal(plan.view)))).rows[0][0] == b"t"
    task = Task(home, plan.guarded if exists else plan.create)
    tag = await done(await start(session, Execution((task,), Same(), writes=True), replace(request, fields=None)))
    if not exists:
        await session.catalog_changed()
        tag = b"SELECT " + await _fill(session, link, plan.view, start, concurrently=False)
    return ListResult(iter(()), None, tag)


def _literal(view: TableName) -> str:
    return quote_literal(quote_table(view))


async def _check(link: ShardLink, view: TableName, *, concurrently: bool) -> None:
    """Have Postgres say what it has against a REFRESH, and lock the view as it does."""
    name = quote_table(view)
    if not concurrently:
        await _run(link, f"REFRESH MATERIALIZED VIEW {name} WITH NO DATA")
        return
    await link.run("SAVEPOINT pgchorus_refresh")
    try:
        await _run(link, f"REFRESH MATERIALIZED VIEW CONCURRENTLY {name} WITH NO DATA")
    except ShardError as error:
        if error.fields.sqlstate != _NOT_TOGETHER:
            raise
    await link.run("ROLLBACK TO SAVEPOINT pgchorus_refresh; RELEASE SAVEPOINT pgchorus_refresh")


async def _fill(session: Session, link: ShardLink, view: TableName, start: Start, *, concurrently: bool) -> bytes:
    """Read the rows of a view's query, and have home refresh it with them; return their number."""
    heard = session.encoding.heard
    ((owner, definition),) = (await _run(link, _HOLD.format(view=_literal(view)))).rows
    if owner is None or definition is None:
        raise refusal("view-owner", view=str(view))
    # Postgres does not PREPARE what has used temporary objects.
    session.transaction.must_commit[link.shard] = "temporary table"
    catalog = (session.planner_in_block or session.database.planner).catalog
    relation = catalog.relation(view.schema, view.name)
    if relation is None or not relation.columns:
        raise refusal("view-rows", view=str(view), detail="It has no columns.")
    columns = ", ".join(quote_identifier(column.name) for column in relation.columns)
    query = heard(definition).strip().removesuffix(";")
    if any(whole_rows_renamed(parsed) for parsed in parse(query)):
        raise refusal("view-rows", view=str(view), detail="It shows the names of a row's columns, which may be others.")
    insert = f"INSERT INTO {quote_table(STAGED)} ({columns}) {query}"
    async with acting(session, link, heard(owner), ", ".join(PATH)):
        if heard(owner) != session.role:
            await _no_code_of_others(session, link, view, heard(definition))
        try:
            (statement,) = Planner(session.database.logical, with_staged(catalog, relation)).plan(insert, PATH)
        except Refused as error:
            raise refusal(
                "view-rows", view=str(view), detail=f"{error.message[:1].upper()}{error.message[1:]}."
            ) from error
        if statement.audit is not None:
            raise refusal("view-rows", view=str(view), detail="Nobody can see what its functions touch.")
        count = await insert_rows(session, statement, insert, Request(text=insert), start)
        await _run(link, f"SELECT pgchorus.fill_view({_literal(view)}, {str(concurrently).lower()})")
    return count


async def _no_code_of_others(session: Session, link: ShardLink, view: TableName, query: str) -> None:
    """Refuse a query that runs anybody's code: the links have logged in as the client, whose rights it could take.

    It is asked again when what the query reads is locked, so that nobody gives that other definitions meanwhile.
    """
    code = OTHERS_CODE.format(
        view=_literal(view), extensions=_array(builtins.CLOSED_EXTENSIONS), builtins=_array(builtins.RUNNING_OTHERS)
    )
    for lock in (f"PREPARE pgchorus_hold AS {query}", ""):
        found = (await _run(link, code)).rows
        if found:
            detail = f"Its query uses {session.encoding.heard(found[0][0] or b'')}, which would run with other rights."
            raise refusal("view-code", view=str(view), detail=detail)
        if lock:
            await _run(link, lock)
            await link.run("DEALLOCATE pgchorus_hold")


def _array(names: Iterable[str]) -> str:
    return f"ARRAY[{', '.join(map(quote_literal, sorted(names)))}]"


async def _run(link: ShardLink, text: str) -> Answer:
    """Run a statement of ours; of an error, the client is not told where in our own texts it came up."""
    try:
        return await link.run(text)
    except ShardError as error:
        raise ShardError(error.fields.replace(P=None, W=None), error.shard, lost=error.lost) from error
