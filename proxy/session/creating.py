"""CREATE TABLE AS and SELECT INTO: the table is made on its shards, and then filled in the same transaction.

Decides the steps: home makes the table from the query itself, without rows; the other shards make it with the columns
that home's has; a sharded one gets the CHECK of its slots; its rows come by an INSERT ... SELECT that is planned now,
with the catalog as the transaction sees it. Left to others: what that INSERT does.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from proxy.description import Description
from proxy.errors import ProxyError
from proxy.executor.results import ListResult
from proxy.wire import frontend
from router.errors import refusal
from router.own_schema import guard_call, quote_identifier, quote_literal
from router.plan import Execution, Same, Task

if TYPE_CHECKING:
    from proxy.executor.request import Request, ResultStream
    from proxy.session.moving import Start
    from proxy.session.session import Session
    from router.plan import Statement
    from router.plan_steps import CreateExecution, CreateFrom

_NO_ROWS: Final = b"SELECT 0"  # what EXECUTE answers WITH NO DATA
HAS: Final = "SELECT pg_catalog.to_regclass({name}) IS NOT NULL"
_COLUMNS: Final = """SELECT a.attname, pg_catalog.quote_ident(a.attname),
    'NULL::' || pg_catalog.format_type(a.atttypid, a.atttypmod) || CASE WHEN a.attcollation <> t.typcollation
        THEN pg_catalog.format(' COLLATE %I.%I', n.nspname, c.collname) ELSE '' END
FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_catalog.pg_collation c ON c.oid = a.attcollation
    LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.collnamespace
WHERE a.attrelid = {name}::pg_catalog.regclass AND a.attnum > 0 ORDER BY a.attnum"""


async def start_create(session: Session, execution: CreateExecution, request: Request, start: Start) -> ResultStream:
    """Make the table and fill it; the answer is a tag."""
    plan, home = execution.plan, session.database.logical.home
    query = plan.query
    if plan.prepared is not None:
        query, request = await _prepared(session, plan, request)
    else:
        # What is wrong with the query comes before what is wrong with the table, and with its place in the message.
        await session.database.descriptions.ask(session, request.text, request.parameter_oids)
    request = replace(request, result_formats=(), describe_rows=False, fields=None)
    if session.transaction.shard_count == 1:
        text = _made(plan, plan.guarded or plan.prefix, query, filled=plan.fills)
        tag = await done(await _on_home(start, session, text, request))
        return ListResult(iter(()), None, tag if plan.fills else _NO_ROWS)
    links = await session.transaction.join([home], writes=True)
    name = quote_literal(_name(plan))
    exists = plan.guarded and (await links[home].run(HAS.format(name=name))).rows[0][0] == b"t"
    # IF NOT EXISTS is left out where it would let rows come into a table that somebody else has just made.
    text = _made(plan, plan.guarded if exists else plan.prefix, query, filled=False)
    tag = await done(await _on_home(start, session, text, request))
    if exists:
        return ListResult(iter(()), None, tag)
    columns = [
        [session.encoding.heard(value or b"") for value in row]
        for row in (await links[home].run(_COLUMNS.format(name=name))).rows
    ]
    await _make_elsewhere(session, execution, columns)
    await session.catalog_changed()
    if plan.fills:
        if not columns:
            raise refusal("create-as", table=str(plan.table), detail="It has no columns.")
        insert = f"INSERT INTO {_name(plan)} ({', '.join(quoted for _, quoted, _ in columns)}) {query}"
        (statement,) = session.plan(insert, request.parameter_oids)
        if statement.audit is not None:
            raise refusal("create-as", table=str(plan.table), detail="Nobody can see what its functions touch.")
        tag = b"SELECT " + await insert_rows(session, statement, insert, request, start)
    elif plan.prepared is not None:
        tag = _NO_ROWS
    return ListResult(iter(()), None, tag)


def _name(plan: CreateFrom) -> str:
    return f"{quote_identifier(plan.table.schema)}.{quote_identifier(plan.table.name)}"


def _made(plan: CreateFrom, prefix: str, query: str, *, filled: bool) -> str:
    return f"{prefix}{plan.columns} {plan.options}AS {query} {'' if filled else 'WITH NO DATA'}"


async def _on_home(start: Start, session: Session, text: str, request: Request) -> ResultStream:
    task = Task(session.database.logical.home, text)
    return await start(session, Execution((task,), Same(), writes=True), request)


async def done(result: ResultStream) -> bytes:
    """Run a statement to its end and return its tag."""
    try:
        while not (await result.next_rows()).done:
            pass
    finally:
        await result.close()
    return result.tag


async def _prepared(session: Session, plan: CreateFrom, request: Request) -> tuple[str, Request]:
    """Return the query that EXECUTE names, and the request with its arguments."""
    from proxy.session.control import executed  # noqa: PLC0415 - that runs statements

    assert plan.prepared is not None  # noqa: S101 - narrows the type
    prepared, values = await executed(session, plan.prepared)
    if prepared.statement.tag != "SELECT" or prepared.description.fields is None:
        raise ProxyError("42809", "prepared statement is not a SELECT")
    oids = prepared.description.parameter_oids
    query = prepared.query.decode("utf-8", "surrogateescape").rstrip().removesuffix(";")
    return f"{query}\n", replace(request, parameters=values, parameter_oids=oids, parameter_formats=())


async def _make_elsewhere(session: Session, execution: CreateExecution, columns: list[list[str]]) -> None:
    """Make on the other shards what home has made, and see to the slots."""
    plan, database = execution.plan, session.database.logical
    if plan.key and plan.key not in {name for name, _, _ in columns}:
        raise refusal("key-missing", key=plan.key, table=str(plan.table))
    links = await session.transaction.join(list(execution.shards), writes=True)
    like = ", ".join(f"{value} AS {quoted}" for _, quoted, value in columns)
    for shard in execution.shards:
        link = links[shard]
        if shard != database.home:
            await link.run(f"{plan.prefix} {plan.options}AS SELECT {like} WITH NO DATA")
        if plan.key:
            await link.run(guard_call(database, plan.table, plan.key, shard))


async def insert_rows(session: Session, statement: Statement, text: str, request: Request, start: Start) -> bytes:
    """Run an INSERT ... SELECT; return the number of its rows."""
    from proxy.session.filling import fill_bind  # noqa: PLC0415 - it runs statements
    from proxy.session.literals import reading  # noqa: PLC0415 - the same
    from proxy.session.prepared import Portal, PreparedStatement  # noqa: PLC0415 - the same
    from proxy.session.preparing import key_parameters, request_of, resolve_bind  # noqa: PLC0415 - the same
    from proxy.session.run import settle_before, shards_of, writes_of  # noqa: PLC0415 - the same

    oids = request.parameter_oids
    database = session.database
    described = Description(oids, None)
    prepared = PreparedStatement(
        b"", text.encode("utf-8", "surrogateescape"), oids, statement, described, database.catalog_version,
        session.search_path, reading(session),
    )  # fmt: skip
    bind = frontend.Bind(b"", b"", request.parameter_formats, request.parameters, ())
    prepared, bind = await fill_bind(session, prepared, bind, key_parameters(bind, prepared))
    executable = await resolve_bind(session, prepared, bind)
    if writes_of(executable):
        await settle_before(session, shards_of(executable))
    result = await start(session, executable, request_of(Portal(b"", prepared, bind, executable)))
    return (await done(result)).rpartition(b" ")[2]
